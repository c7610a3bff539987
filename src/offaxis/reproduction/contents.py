"""What a reproduction's pages hold, before it is HTML or Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from offaxis.report.figures import TableView
from offaxis.report.quantities import MISSING, number
from offaxis.report.verdicts import Verdict as Answer
from offaxis.reproduction.arms import Changes, Scale
from offaxis.reproduction.entries import ENTRIES, PARADIGMS, Entry
from offaxis.reproduction.figures import DRAWN, Averages, Evidence, Figure
from offaxis.reproduction.figures.further import further_table
from offaxis.reproduction.local_masks import local_masks
from offaxis.reproduction.made import made
from offaxis.reproduction.presets import Line, lines, load_presets
from offaxis.reproduction.published import load_published
from offaxis.reproduction.single_matrices import single_matrices
from offaxis.reproduction.tables import FINDINGS_HEAD, WORDS, claim_rows, finding_rows, note, shown
from offaxis.reproduction.verdicts import Verdict

HEAD = (
    "claim",
    "published",
    "ours [interval]",
    "null",
    "effect size",
    "could have been seen",
    "verdict",
    "decided by",
)
VERDICT_COLUMN = HEAD.index("verdict")


class Judged(NamedTuple):
    """One claim: its line under `HEAD`, how it was answered, and every contrast."""

    id: str
    cells: tuple[str, ...]
    answer: str
    findings: TableView


@dataclass(frozen=True)
class Chapter:
    """One entry: its figure, where it has one, else tables alone."""

    entry: Entry
    figure: Figure | None
    tables: Mapping[str, TableView]


@dataclass(frozen=True)
class Contents:
    """A page.

    Attributes:
        scale: Of the recipes.
        draws: How many there are.
        headline: The verdicts counted.
        judging: How their intervals were made.
        notes: What went wrong, or has to be known.
        judged: The claims, in their order.
        chapters: The entries, in the paper's order.
        made: How it was made, as tables by caption.
    """

    scale: Scale
    draws: int
    headline: str
    judging: str
    notes: tuple[str, ...]
    judged: tuple[Judged, ...]
    chapters: tuple[Chapter, ...]
    made: Mapping[str, TableView]


def contents(
    out: Path,
    table: pa.Table,
    verdicts: Sequence[Verdict],
    scale: Scale,
    *,
    changes: Changes | None = None,
    notes: Sequence[str] = (),
) -> Contents:
    """Gather everything that the pages of a study hold.

    Args:
        out: The study's folder, with its table.
        table: The study table.
        verdicts: On all claims.
        scale: Which recipes.
        changes: Overrides by arm.
        notes: What went wrong, or has to be known of the runs.

    Raises:
        ResultsError: If a results folder is damaged.
        CheckpointError: If a checkpoint is, whose maps are drawn.
    """
    study = Averages(table)
    evidence = Evidence(
        study,
        load_published(),
        single_matrices(out, scale, PARADIGMS, changes),
        local_masks(out, scale, PARADIGMS, changes),
    )
    presets = load_presets()
    chapters = []
    for entry in ENTRIES.values():
        if entry.id in DRAWN:
            chapters.append(Chapter(entry, DRAWN[entry.id](evidence), {}))
        elif entry.is_preset:
            settings = lines(presets.get(entry.id, []))
            view = TableView(Line._fields, tuple(tuple(line) for line in settings))
            chapters.append(Chapter(entry, None, {"Settings": view}))
        else:
            chapters.append(Chapter(entry, None, further_table(study, entry)))
    return Contents(
        scale=scale,
        draws=study.draws,
        headline=_headline(verdicts),
        judging=note(verdicts),
        notes=tuple(notes),
        judged=tuple(_judged(verdicts)),
        chapters=tuple(chapters),
        made=made(out, scale, changes),
    )


def _headline(verdicts: Sequence[Verdict]) -> str:
    count = {answer: sum(v.answer is answer for v in verdicts) for answer in Answer}
    absent = sum(v.decider is not None and v.decider.value is None for v in verdicts)
    taken = sum(v.answer is Answer.FAILS and v.as_published is Answer.HOLDS for v in verdicts)
    return (
        f"Of {len(verdicts)} claims, {count[Answer.HOLDS]} hold, {count[Answer.FAILS]} do not "
        f"hold (of which {taken} hold as published, before a control), and "
        f"{count[Answer.UNKNOWN]} cannot be told at this scale: {absent} of them for want of runs "
        "or readings."
    )


def _judged(verdicts: Sequence[Verdict]) -> list[Judged]:
    found = []
    for verdict, row in zip(verdicts, claim_rows(verdicts), strict=True):
        claim, published, ours, null, word, decided = row
        compared = verdict.compared
        effect = _joined([number(finding.effect) for finding in compared])
        seen = _joined([shown(finding.detectable, finding) for finding in compared])
        cells = (claim, published, ours, null, effect, seen, word, decided)
        view = TableView(FINDINGS_HEAD, tuple(finding_rows(verdict)))
        found.append(Judged(verdict.claim.id, cells, _CLASSES[word], view))
    return found


_CLASSES = {word: answer.name.lower() for answer, word in WORDS.items()}


def _joined(parts: Sequence[str]) -> str:
    return "; ".join(part for part in parts if part != MISSING) or MISSING
