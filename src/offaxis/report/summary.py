"""The words and tables of the page, all computed from the results."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from offaxis.report import evidence, verdicts, visibility
from offaxis.report.claims import Judgement
from offaxis.report.figures import TableView
from offaxis.report.quantities import DASH, MISSING, QUANTITIES, RELATIVE_MARGIN, with_range
from offaxis.report.samples import CannotTell, label, measured, sample
from offaxis.report.study import Arm, Study
from offaxis.report.verdicts import LEAST_SEEDS, LEVEL, Verdict

COMPARED = ("norm", "sparsity", "right_mean", "shift", "stable_rank", "hill")
AT_NORM = ("sparsity", "right_mean", "shift", "stable_rank", "hill")


@dataclass(frozen=True)
class Matched:
    """A table of arms compared at one place, or the reason why there is none; and a warning."""

    title: str
    place: str
    table: TableView | None
    mark: str = ""


def headline(study: Study, judged: Sequence[Judgement]) -> list[str]:
    """Return the sentences at the top of the page."""
    return [_count_sentence(judged), *_sparsity_sentence(study), *_norm_sentence(study)]


def _sparsity_sentence(study: Study) -> Iterator[str]:
    quantity = QUANTITIES["sparsity"]
    parts = []
    for arm in study.arms:
        readings = study.final(arm, quantity)
        nulls = [r.null_mean for r in readings if r.null_mean == r.null_mean]
        if readings:
            value = quantity.text(verdicts.mean([r.value for r in readings]))
            null = f" ({quantity.text(verdicts.mean(nulls))})" if nulls else ""
            parts.append(f"{arm.label} {value}{null}")
    if parts:
        yield (
            "Weights left unchanged in bf16 at the end of training, and in brackets what an update "
            f"of the same size without any structure would leave: {', '.join(parts)}."
        )


def _norm_sentence(study: Study) -> Iterator[str]:
    """Contrast the raw spread of the same-anchor arms with that at matched norm."""
    keys = [key for key in ("sft", "opd", "rlvr") if study.arm(key) is not None]
    if len(keys) < 2:
        return
    quantity = QUANTITIES["sparsity"]
    try:
        raw = sample(study, keys, quantity, "end")
        fair = sample(study, keys, quantity, "norm")
    except CannotTell as reason:
        yield f"At matched update norm: cannot tell here, {reason}."
        return
    spreads = []
    for samples in (raw, fair):
        means = [verdicts.mean([r.value for r in found]) for found in samples.arms.values()]
        spreads.append(f"{max(means) - min(means):.2g}")
    names = ", ".join(label(key) for key in keys)
    yield (
        f"Between {names} from one anchor, sparsity spans {spreads[0]} points at the end of "
        f"training and {spreads[1]} points {fair.place}."
    )


def _count_sentence(judged: Sequence[Judgement]) -> str:
    counts = Counter(item.verdict for item in judged)
    words = {
        Verdict.HOLDS: ("holds", "hold"),
        Verdict.FAILS: ("does not", "do not"),
        Verdict.UNKNOWN: ("cannot be told", "cannot be told"),
    }
    parts = [f"{counts[v]} {words[v][counts[v] > 1]}" for v in Verdict if counts[v]]
    return f"Of {len(judged)} claims about such updates, checked here: {', '.join(parts)}."


def notes(study: Study) -> list[str]:
    """Return what a reader must know before reading any number."""
    about = study.manifest.get("study") or {}
    found = [str(note) for note in about.get("notes") or []]
    if about.get("preset") == "smoke":
        found.insert(
            0,
            "This is the smoke preset: it shows that every part works. Its models are small, run "
            "briefly and need not have learned anything; read no claim from it.",
        )
    found.extend(_unread(study))
    if not any(run.get("arm") for arm in study.arms for run in arm.runs):
        found.append(
            "These checkpoints came without a study: no arms, seeds or controls are known, so each "
            "run stands alone and the claims cannot be told."
        )
    elif max(len(arm.runs) for arm in study.arms) < LEAST_SEEDS:
        found.append(
            f"No arm has {LEAST_SEEDS} seeds: every claim that compares arms stays “cannot tell”."
        )
    return found


def _unread(study: Study) -> Iterator[str]:
    """Name the runs that the manifest has and the table has no value of."""
    read = {
        run
        for (run, _, _), held in study.frame.curves.items()
        if any(len(series.defined().steps) for series in held.values())
    }
    empty = [run for arm in study.arms for run in arm.run_names if run not in read]
    if empty:
        many = f" and {len(empty) - 3} more" if len(empty) > 3 else ""
        yield f"The table holds no value of {', '.join(empty[:3])}{many}: nothing is shown of them."


def learned_table(study: Study) -> TableView:
    """Return what each arm was trained with and what it learned."""
    head = (
        "arm", "starts from", "objective", "learning rate", "steps", "seeds",
        "accuracy: start → end", "forward KL at the end (nats)",
    )  # fmt: skip
    return TableView(head, tuple(_learned_row(study, arm) for arm in study.arms))


def _learned_row(study: Study, arm: Arm) -> tuple[str, ...]:
    first = arm.runs[0]
    recipe = first.get("recipe") or {}
    rate = (recipe.get("optimizer") or {}).get("lr")
    steps = [max(run.get("steps") or [0]) for run in arm.runs]
    return (
        arm.label,
        _start(first, recipe),
        str(first.get("objective") or MISSING),
        f"{rate:g}" if isinstance(rate, int | float) else MISSING,
        _span([float(step) for step in steps]),
        str(len(arm.runs)),
        _accuracy(study, arm),
        with_range([curve[1][-1] for curve in _logged(study, arm, "forward_kl_nats")]),
    )


def _start(run: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    given = run.get("start")
    if isinstance(given, str) and given:
        return given
    source = recipe.get("start") if isinstance(recipe.get("start"), Mapping) else given
    if isinstance(source, Mapping):
        nested = source.get("recipe")
        if isinstance(nested, Mapping):
            return str(nested.get("arm") or nested.get("name") or MISSING)
        return "its own initialisation" if source.get("config") else MISSING
    return str(run.get("anchor") or MISSING)


def _logged(study: Study, arm: Arm, quantity: str) -> list[Any]:
    held = [study.training.get((run, quantity)) for run in arm.run_names]
    return [curve for curve in held if curve is not None]


def _accuracy(study: Study, arm: Arm) -> str:
    curves = _logged(study, arm, "accuracy")
    if not curves:
        return MISSING
    start = verdicts.mean([curve[1][0] for curve in curves])
    return f"{100 * start:.1f} → {with_range([100 * curve[1][-1] for curve in curves], '%')}"


def _span(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.0f}" if low == high else f"{low:.0f}{DASH}{high:.0f}"


def matched_tables(study: Study) -> list[Matched]:
    """Return the comparisons at matched norm and at matched accuracy."""
    fair = [key for key in ("sft", "opd", "rlvr", "rlvr-random") if study.arm(key)]
    based = [key for key in ("sft-base", "sft", "opd", "rlvr") if study.arm(key)]
    learned = [key for key in ("sft", "opd", "rlvr") if study.arm(key)]
    long = [key for key in ("sft", "opd", "rlvr-long") if study.arm(key)]
    wanted = [
        ("Matched norm, arms from one anchor", fair, AT_NORM, "norm"),
        ("Matched norm, with SFT from the base", based, AT_NORM, "any-norm"),
        ("Matched accuracy, arms from one anchor", learned, COMPARED, "accuracy"),
        (
            "Matched accuracy: RLVR trained on until it is as good as OPD",
            long,
            COMPARED,
            "accuracy",
        ),
    ]
    return [_matched(study, *row) for row in wanted if len(row[1]) > 1 or row[3] == "accuracy"]


def _matched(
    study: Study, title: str, keys: Sequence[str], quantities: Sequence[str], at: str
) -> Matched:
    if len(keys) < 2:
        return Matched(title, "Cannot tell here: fewer than two of these arms were trained.", None)
    if "rlvr-long" not in keys and "long" in title.split():
        return Matched(title, "Cannot tell here: needs the arm “RLVR, long”.", None)
    columns, place = [], ""
    place_of, fair = at.removeprefix("any-"), "any-" not in at
    present = [key for key in quantities if measured(study, keys, QUANTITIES[key])]
    try:
        for key in present:
            samples = sample(study, keys, QUANTITIES[key], place_of, fair=fair)
            columns.append(
                [
                    evidence.summary([r.value for r in samples.arms[arm]], QUANTITIES[key])
                    for arm in keys
                ]
            )
            place = samples.place
    except CannotTell as reason:
        return Matched(title, f"Cannot tell here: {reason}.", None)
    rows = [
        (label(arm), *(column[position] for column in columns)) for position, arm in enumerate(keys)
    ]
    heads = [QUANTITIES[key].label for key in present]
    mark = visibility.mark(study, keys, [QUANTITIES[key] for key in present], place_of, fair=fair)
    return Matched(title, f"Read {place}.", TableView(("arm", *heads), tuple(rows)), mark)


def rule() -> str:
    """State how verdicts are reached."""
    return (
        "Two arms are in order when every seed of one lies beyond every seed of the other (exact "
        f"rank test, one-sided p = 1/C(n+m, n) ≤ {LEVEL:g}: three seeds against three just reach "
        f"it) and their means differ by more than {RELATIVE_MARGIN:.0%} of the larger. The reverse "
        "of that, or all pairs of seeds agreeing within this margin, is “does not hold”; anything "
        f"else, and fewer than {LEAST_SEEDS} seeds, is “cannot tell here”. A claim holds only if "
        "it holds as published and under every control listed with it. The thresholds are fixed "
        "beforehand, and no correction is made for the number of claims."
    )
