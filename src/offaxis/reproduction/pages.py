"""From a study to its pages: `reproduction.html`, `reproduction.md`, and every figure as a file.

The page stands alone and asks the network for nothing; the Markdown text links the figures, which
the extra `paper` draws. All are functions of the study's folder: the same folder, the same bytes.
"""

from pathlib import Path
from typing import Any

from offaxis.files import atomically, write_text
from offaxis.report import payload, shell
from offaxis.report.words import null_sentence
from offaxis.reproduction.contents import HEAD, VERDICT_COLUMN, Chapter, Contents
from offaxis.reproduction.figures import static
from offaxis.reproduction.made import seeds_sentence
from offaxis.reproduction.tables import inert, markdown_table

PAGE, TEXT, FIGURES = "reproduction.html", "reproduction.md", "figures"

TITLE = "On the Geometry of On-Policy Distillation, reproduced"
READING = (
    "Lines are means over draws (on logarithmic axes of logarithms), bands their 95 % intervals, "
    "each by itself and uncorrected; dashes are nulls, diamonds published numbers. A draw whose "
    "checkpoints lie elsewhere is read on a straight line between them."
)


def write_pages(out: Path, held: Contents) -> dict[str, Any]:
    """Write both pages and, where the extra `paper` is installed, the figures.

    Args:
        out: The study's folder.
        held: What the pages hold.

    Returns:
        The paths of `page` and `markdown`, the list of `figures`, and `install`: what would draw
        figures that are not there, or nothing.

    Raises:
        ResultsError: If a file cannot be written.
    """
    is_drawn = static.renderer() is not None
    figures = _write_figures(out / FIGURES, held) if is_drawn else []
    write_text(out / PAGE, as_html(held))
    write_text(out / TEXT, as_markdown(held, with_figures=is_drawn))
    return {
        "page": str(out / PAGE),
        "markdown": str(out / TEXT),
        "figures": figures,
        "install": "" if is_drawn else static.INSTALL,
    }


def as_html(held: Contents) -> str:
    """The page as text."""
    charts = {
        each.entry.id: {"spec": each.figure.spec, "rows": payload.columns_of(each.figure.rows)}
        for each in held.chapters
        if each.figure is not None and each.figure.spec
    }
    return shell.rendered(
        "offaxis.reproduction",
        "page.html.j2",
        {"charts": charts},
        title=TITLE,
        contents=held,
        head=HEAD,
        verdict_column=VERDICT_COLUMN,
        note=held.judging,
        reading=READING,
        seeds=seeds_sentence(),
        null_sentence=null_sentence,
    )


def as_markdown(held: Contents, *, with_figures: bool = True) -> str:
    """The same as Markdown.

    Args:
        held: What it holds.
        with_figures: Whether the figures' files are there to be linked.
    """
    parts = [f"# {TITLE}", held.headline, *(f"- {inert(each)}" for each in held.notes)]
    parts += ["## The claims, judged", markdown_table(HEAD, [each.cells for each in held.judged])]
    parts += [held.judging, "### Every contrast"]
    for each in held.judged:
        findings = markdown_table(each.findings.head, each.findings.rows)
        parts += [f"**{inert(each.cells[0])}**", findings]
    parts += ["## Figures and tables", READING]
    if not with_figures:
        parts.append(f"The figures were not drawn: `{static.INSTALL}`.")
    for chapter in held.chapters:
        parts += _chapter(chapter, with_figures=with_figures)
    draws = f"{held.draws} draw{'' if held.draws == 1 else 's'}"
    parts += ["## How it was made", f"Scale {held.scale}, {draws}. {seeds_sentence()}"]
    for caption, view in held.made.items():
        parts += [f"### {caption}", markdown_table(view.head, view.rows)]
    return "\n\n".join(parts) + "\n"


def _chapter(chapter: Chapter, *, with_figures: bool) -> list[str]:
    """One entry as paragraphs; long tables fold."""
    name, figure = chapter.entry.id, chapter.figure
    title = chapter.entry.title if figure is None else figure.heading.title
    parts = [f"### {name}: {title}"]
    tables = chapter.tables if figure is None else figure.tables
    if figure is not None:
        if figure.spec and with_figures:
            drawn = f"{FIGURES}/{name}"
            parts.append(f"![{title}]({drawn}.svg)")
            parts.append(f"[SVG]({drawn}.svg), [PDF]({drawn}.pdf)")
        parts.append(" ".join([figure.heading.caption, null_sentence(figure.nulls)]).strip())
        parts += [f"- {inert(each)}" for each in figure.notes]
    if not (tables if figure is None else figure.spec):
        parts.append("Nothing of it was run.")
    for caption, view in tables.items():
        if view.rows:
            body = markdown_table(view.head, view.rows)
            parts.append(f"<details><summary>{caption}</summary>\n\n{body}\n\n</details>")
    return parts


def _write_figures(folder: Path, held: Contents) -> list[str]:
    """Write every figure that shows anything as SVG and PDF; return the SVGs' paths."""
    written = []
    for chapter in held.chapters:
        if chapter.figure is None or not chapter.figure.spec:
            continue
        drawn = static.svg(chapter.figure)
        path = folder / f"{chapter.entry.id}.svg"
        write_text(path, drawn)
        with atomically(path.with_suffix(".pdf")) as document:
            document.write_bytes(static.pdf(drawn))
        written.append(str(path))
    return written
