"""From a results folder to one self-contained page."""

from pathlib import Path

from offaxis.files import write_text
from offaxis.report import (
    atlas,
    claims,
    controls,
    payload,
    provenance,
    sections,
    shell,
    summary,
    visibility,
)
from offaxis.report.study import Study, load_study
from offaxis.report.words import null_sentence
from offaxis.table import ResultsFolder

PAGE_NAME = "report.html"


def write_report(results: Path, out: Path | None = None) -> Path:
    """Write the page of a results folder and return its path.

    Args:
        results: The folder that `offaxis measure` wrote.
        out: Where the page goes; `report.html` in the results folder if None.

    Raises:
        ResultsError: If the results cannot be read or the page cannot be written.
    """
    target = results / PAGE_NAME if out is None else out
    write_text(target, render(ResultsFolder(results)))
    return target


def render(folder: ResultsFolder) -> str:
    """Return the page as text: a function of the results alone."""
    study = load_study(folder)
    judged = claims.judge(study)
    groups = sections.figure_groups(study)
    maps = sections.map_section(study)
    figures = [figure for group in groups.values() for figure in group.figures]
    content = {
        "charts": {
            figure.key: {"spec": figure.spec, "rows": payload.columns_of(figure.rows)}
            for figure in figures
            if figure.rows
        },
        "atlas": {
            **maps.charts,
            "arms": maps.arms,
            "tensors": maps.tensors,
            "map": payload.columns_of(atlas.map_rows(study)),
            "spectra": payload.columns_of(atlas.curve_rows(study, folder, "spectra")),
            "blocks": payload.columns_of(atlas.block_rows(study, folder)),
            "angles": payload.columns_of(atlas.curve_rows(study, folder, "angles")),
        },
    }
    return shell.rendered(
        "offaxis.report",
        "template.html.j2",
        content,
        study=study,
        headline=summary.headline(study, judged),
        notes=summary.notes(study),
        learned=summary.learned_table(study),
        judged=judged,
        rule=summary.rule(),
        groups=groups,
        maps=maps,
        gate=visibility.gate_table(study),
        matched=summary.matched_tables(study),
        controls=controls.control_tables(study),
        provenance=provenance.provenance(study),
        title=_title(study),
        null_sentence=null_sentence,
    )


def _title(study: Study) -> str:
    named = (study.manifest.get("study") or {}).get("title")
    return str(named or "How the weights moved")
