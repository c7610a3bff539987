"""Verdicts as tables: for the terminal, for Markdown, and as rows for programs."""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from offaxis.report.quantities import MISSING, TIMES, number
from offaxis.report.verdicts import Verdict as Answer
from offaxis.reproduction.claims import Claim
from offaxis.reproduction.published import PublishedNumber, load_published
from offaxis.reproduction.statistics import POWER
from offaxis.reproduction.verdicts import Finding, Verdict

WORDS = {
    Answer.HOLDS: "holds",
    Answer.FAILS: "does not hold",
    Answer.UNKNOWN: "cannot tell at this scale",
}

SHARES = {
    "sparsity",
    "update_density",
    "principal_overlap",
    "low_magnitude_overlap",
    "accuracy",
    "gain_kept",
    "top16_energy",
    "spectral_ratio",
    "spectral_residual",
    "locked_energy_right",
}
"""Quantities that people read in per cent; their differences are points of it."""

CLAIMS_HEAD = ("claim", "published", "ours [interval]", "null", "verdict", "decided by")
FINDINGS_HEAD = (
    "contrast",
    "excludes",
    "ours [interval]",
    "claimed",
    "null",
    "draws",
    "effect size",
    "could have been seen",
    "sign-flip p",
    "answer",
)

MOST_ARMS = 4

_VERDICT_WIDTH = 13

_NESTED = ("comparison", "interval", "answer")

Rows = list[tuple[str, ...]]


def claim_rows(verdicts: Sequence[Verdict]) -> Rows:
    """One row a claim, as `CLAIMS_HEAD`: numbers of the published comparison, and what decided."""
    numbers = load_published()
    return [
        (
            f"{verdict.claim.sentence} ({verdict.claim.figure})",
            published_text(verdict.claim, numbers),
            ours(verdict),
            _joined(shown(finding.null, finding) for finding in verdict.compared),
            WORDS[verdict.answer],
            decided_by(verdict),
        )
        for verdict in verdicts
    ]


def finding_rows(verdict: Verdict) -> Rows:
    """One row a contrast of one claim, as `FINDINGS_HEAD`."""
    return [
        (
            finding.contrast,
            finding.excludes or "(as published)",
            _with_interval(finding),
            region(finding),
            shown(finding.null, finding),
            f"{finding.num_draws} of {finding.of_draws}",
            number(finding.effect),
            shown(finding.detectable, finding),
            number(finding.sign_p),
            WORDS[finding.answer],
        )
        for finding in verdict.findings
    ]


def note(verdicts: Sequence[Verdict]) -> str:
    """What a reader has to know of the intervals; the same for all verdicts of one evaluation."""
    if not verdicts:
        return "No claim was judged."
    level = 100 * (1 - verdicts[0].misses)
    return (
        f"Intervals are Student's over complete re-draws of base, teacher and anchor, at "
        f"{level:.4g} %: one correction (Bonferroni) for all claims declared. A verdict needs the "
        f"sign-flip test on its side, and so five draws. Could have been seen: the distance from "
        f"the claimed region's bound that this many draws show in {POWER:.0%} of studies."
    )


def terminal_table(verdicts: Sequence[Verdict]) -> Table:
    """The claims as a table of rich that 80 columns can hold; no cell is read as markup."""
    table = Table("verdict", "claim", show_lines=True)
    table.columns[0].max_width = _VERDICT_WIDTH
    for row in claim_rows(verdicts):
        cells = dict(zip(CLAIMS_HEAD, row, strict=True))
        told = Text(cells.pop("claim"), style="bold")
        word = cells.pop("verdict")
        for heading, cell in cells.items():
            told.append(f"\n{heading}: {cell}", style="not bold")
        table.add_row(Text(word), told)
    return table


def markdown(verdicts: Sequence[Verdict]) -> str:
    """The claims as a Markdown table, then how the intervals were made."""
    return f"{markdown_table(CLAIMS_HEAD, claim_rows(verdicts))}\n\n{note(verdicts)}\n"


def findings_markdown(verdict: Verdict) -> str:
    """Every contrast of one claim as a Markdown table, under its sentence."""
    title = f"**{verdict.claim.sentence}** {WORDS[verdict.answer]}; {decided_by(verdict)}."
    return f"{title}\n\n{markdown_table(FINDINGS_HEAD, finding_rows(verdict))}\n"


def as_records(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """One JSON-able record a claim, with every finding."""
    numbers = load_published()
    return [
        {
            "id": verdict.claim.id,
            "figure": verdict.claim.figure,
            "claim": verdict.claim.sentence,
            "published": published_text(verdict.claim, numbers),
            "verdict": WORDS[verdict.answer],
            "as_published": WORDS[verdict.as_published],
            "decided_by": decided_by(verdict),
            "findings": [_record(finding) for finding in verdict.findings],
        }
        for verdict in verdicts
    ]


def published_text(claim: Claim, numbers: Mapping[str, PublishedNumber]) -> str:
    """The published numbers of a claim with their places, then the paper's words."""
    cited = [numbers[name] for name in claim.published]
    places = dict.fromkeys(item.where for item in cited)
    parts = [
        f"{', '.join(item.text for item in cited if item.where == place)} ({place})"
        for place in places
    ]
    return "; ".join([*parts, *([claim.words] if claim.words else [])])


def arm_means(verdict: Verdict) -> str:
    """The mean of every arm of the published comparison; none where its contrasts tell them all.

    Nor where there are more than a cell of a table can hold.
    """
    means = {label: mean for finding in verdict.compared for label, mean in finding.arms.items()}
    if all(len(finding.arms) < 2 for finding in verdict.compared) or len(means) > MOST_ARMS:
        return MISSING
    quantity = verdict.claim.quantity
    return ", ".join(f"{label} {_as_read(mean, quantity)}" for label, mean in means.items())


def ours(verdict: Verdict) -> str:
    """What was measured of the published comparison, and in how many draws."""
    found = [finding for finding in verdict.compared if finding.value is not None]
    draws = sorted({finding.num_draws for finding in found})
    counted = f"{' or '.join(map(str, draws))} draw{'' if draws == [1] else 's'}"
    return _joined([arm_means(verdict), *map(measured, found), counted if found else MISSING])


def measured(finding: Finding) -> str:
    """A contrast with its mean and interval, or why there is none."""
    return f"{finding.contrast}: {_with_interval(finding)}"


def _with_interval(finding: Finding) -> str:
    if finding.value is None:
        return finding.why
    text = shown(finding.value, finding)
    if finding.interval is None:
        return text
    return f"{text} [{', '.join(shown(end, finding) for end in finding.interval)}]"


def shown(value: float | None, finding: Finding) -> str:
    """A number of a finding as people read it: shares in per cent, ratios with their sign."""
    if value is None:
        return MISSING
    if finding.comparison.scale == "ratio":
        return f"{TIMES}{number(value)}"
    return _as_read(value, finding.comparison.quantity)


def _as_read(value: float, quantity: str) -> str:
    if quantity in SHARES:
        return f"{number(100 * value)} %"
    return f"{number(math.degrees(value))}°" if "_angle" in quantity else number(value)


def region(finding: Finding) -> str:
    """Where a contrast has to lie."""
    comparison = finding.comparison
    middle, margin = comparison.neutral, comparison.margin
    is_ratio = comparison.scale == "ratio"
    ends = (middle / margin, middle * margin) if is_ratio else (middle - margin, middle + margin)
    low, high = (shown(end, finding) for end in ends)
    return {
        "above": f"above {high}",
        "below": f"below {low}",
        "within": f"between {low} and {high}",
        "beyond": f"not between {low} and {high}",
    }[comparison.direction]


_AS_PUBLISHED = {Answer.HOLDS: "holds as published", Answer.UNKNOWN: "open as published"}
"""Before a control decides; where the published comparison does not hold, it decides itself."""


def decided_by(verdict: Verdict) -> str:
    """Name the comparison or control that decided, with its numbers where they are not told."""
    decider = verdict.decider
    if decider is None:
        count = len(verdict.claim.controls)
        return f"all {count} controls hold" if count else "the published comparison holds"
    asked = f"claimed {region(decider)}: {decider.why}{_power(decider)}"
    if not decider.excludes:
        return f"the published comparison: {decider.contrast}, {asked}"
    told = f"{_AS_PUBLISHED[verdict.as_published]}; {decider.excludes}"
    if decider.value is None:
        return f"{told}: {decider.why}"
    return f"{told}: {measured(decider)}, {asked}"


def _power(finding: Finding) -> str:
    """What an open answer could have shown, were it there."""
    if finding.answer is not Answer.UNKNOWN or finding.detectable is None:
        return ""
    what = "a margin" if finding.comparison.direction == "within" else "a distance from the bound"
    return f" ({what} of {shown(finding.detectable, finding)} could have been seen)"


def _record(finding: Finding) -> dict[str, Any]:
    low, high = finding.interval or (None, None)
    left = {key: value for key, value in vars(finding).items() if key not in _NESTED}
    return {
        **left,
        "excludes": finding.excludes,
        "claimed": region(finding),
        "low": low,
        "high": high,
        "answer": WORDS[finding.answer],
    }


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose cells are text: no markup, no links, no lines of their own."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(inert, line))} |" for line in lines)


def inert(cell: str) -> str:
    """Text for Markdown, of which nothing is markup, a link or a line of its own."""
    plain = html.escape(cell, quote=False).replace("](", "]\\(")
    return plain.replace("|", "\\|").replace("\n", " ")


def _joined(parts: Iterable[str]) -> str:
    kept = [part for part in parts if part != MISSING]
    return "; ".join(kept) or MISSING
