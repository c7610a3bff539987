"""What every page shares: its frame, its scripts, and the policy that allows nothing else."""

from importlib import resources
from typing import Any

import jinja2

from offaxis.report import payload

VENDORED = ("vega.min.js", "vega-lite.min.js", "vega-interpreter.js")
_HERE = "offaxis.report"


def rendered(package: str, template: str, content: dict[str, Any], **context: Any) -> str:  # noqa: ANN401
    """Return a page as text: one file that asks for no other.

    Args:
        package: Where the template lies; it extends `shell.html.j2` of this package.
        template: Its name.
        content: What the script draws, as JSON: `charts` by key, each a `spec` and its `rows` as
            columns.
        context: What the template shows; everything is escaped.
    """
    folders = [jinja2.PackageLoader(name, ".") for name in dict.fromkeys((package, _HERE))]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(folders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    assets = _assets(payload.pack(content))
    return environment.get_template(template).render(**assets, **context)


def _assets(packed: str) -> dict[str, Any]:
    """Return the inline texts of the page and the policy that allows exactly these."""
    here = resources.files(_HERE)
    vendored = [(here / "vendor" / name).read_text("utf-8") for name in VENDORED]
    scripts = [*vendored, (here / "page.js").read_text("utf-8")]
    style = (here / "style.css").read_text("utf-8")
    return {
        "scripts": scripts,
        "style": style,
        "policy": payload.policy(scripts, [style]),
        "payload": packed,
    }
