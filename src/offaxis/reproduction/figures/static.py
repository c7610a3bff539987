"""Figures as SVG and PDF, by vl-convert: no browser, no network, the same bytes each time."""

from types import ModuleType
from typing import Any

from offaxis.reproduction.figures.figure import Figure

INSTALL = "pip install 'offaxis[paper]'"

_VERSION = "6.4"  # of Vega-Lite; the page has the same
_INK, _DIM, _LINE, _NULL = "#1c2330", "#5b6472", "#e1ded8", "#4f5865"
_FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
_KEY = "line: mean over draws; band: its 95 % interval; dashes: null; diamond: published"


def library() -> ModuleType | None:
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
    return text


def pdf(drawn: str) -> bytes:
    """An SVG as PDF; the extra `paper` has to be installed."""
    import vl_convert  # noqa: PLC0415 - an extra

    data: bytes = vl_convert.svg_to_pdf(drawn)
    return data


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
