"""Figures as SVG and PDF, by vl-convert: no browser, no network, the same bytes each time."""

import re
from types import ModuleType
from typing import Any

from offaxis.reproduction.figures.figure import Figure

INSTALL = "pip install 'offaxis[paper]'"

_VERSION = "6.4"  # of Vega-Lite; the page has the same
_INK, _DIM, _LINE, _NULL = "#1c2330", "#5b6472", "#e1ded8", "#4f5865"
_FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
_KEY = "line: mean over draws; band: its 95 % interval; dashes: null; diamond: published"


def renderer() -> ModuleType | None:
    """vl-convert, or None where the extra `paper` is not installed."""
    try:
        import vl_convert  # noqa: PLC0415 - an extra
    except ImportError:
        return None
    return vl_convert


def svg(figure: Figure) -> str:
    """The figure as SVG on white; the extra `paper` has to be installed."""
    import vl_convert  # noqa: PLC0415 - an extra

    # No address is allowed: what a specification says is never fetched.
    text: str = vl_convert.vegalite_to_svg(
        _whole(figure), vl_version=_VERSION, allowed_base_urls=[]
    )
    return _renumbered(text)


def pdf(drawn: str) -> bytes:
    """An SVG as PDF; the extra `paper` has to be installed."""
    import vl_convert  # noqa: PLC0415 - an extra

    data: bytes = vl_convert.svg_to_pdf(drawn)
    return _sorted_resources(data)


def _renumbered(text: str) -> str:
    """Count an SVG's clips and gradients from 1; the library counts those of all it ever drew."""
    names = dict.fromkeys(re.findall(r'\bid="([a-z_]+\d+)"', text))
    new = {name: f"part{place}" for place, name in enumerate(names, start=1)}
    return re.sub(
        r'(\bid="|url\(#|href="#)([a-z_]+\d+)', lambda m: m[1] + new.get(m[2], m[2]), text
    )


def _sorted_resources(data: bytes) -> bytes:
    """Sort the lines of a PDF that name resources; the library writes them in any order.

    No offset changes, as the lines of a dictionary stay together.
    """
    return re.sub(
        rb"(?:^ +/[a-z]+\d+ \d+ 0 R\n)+",
        lambda block: b"".join(sorted(block[0].splitlines(keepends=True))),
        data,
        flags=re.MULTILINE,
    )


def _whole(figure: Figure) -> dict[str, Any]:
    """The specification with its data, a title and colours of its own.

    One font in one weight: with several, their order in a PDF is not always the same.
    """
    plain = {"fontWeight": "normal"}
    title = {
        "text": f"{figure.heading.id}: {figure.heading.title}",
        "subtitle": _KEY,
        "anchor": "start",
    }
    return {
        **figure.spec,
        "title": {**title, **plain, "fontSize": 15, "offset": 14},
        "data": {"values": figure.rows},
        "config": {
            "background": "white",
            "font": _FONT,
            "view": {"stroke": None},
            "title": {"color": _INK, "subtitleColor": _DIM, "fontSize": 12, **plain},
            "axis": {
                **{f"{part}Color": _DIM for part in ("label", "title")},
                **{f"{part}Color": _LINE for part in ("grid", "domain", "tick")},
                "titleFontWeight": "normal",
                "labelOverlap": True,
                "tickCount": 5,
            },
            "legend": {"labelColor": _INK, "titleFontWeight": "normal"},
            "mark": {"color": _NULL},
        },
    }
