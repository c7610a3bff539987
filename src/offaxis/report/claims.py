"""The claims of the paper, as data, and how they are judged from the table."""

from dataclasses import dataclass

from offaxis.report import verdicts
from offaxis.report.evidence import (
    Evidence,
    EvidenceTest,
    MostDiffer,
    Ordering,
)
from offaxis.report.mask_evidence import AgainstChance, AgainstNull
from offaxis.report.rank_evidence import Flat, Flatter, Inflated, LowRank
from offaxis.report.study import Study
from offaxis.report.verdicts import Verdict

# The overlap must leave its null by two points of a hundred: less would not change a reading.
MASK_MARGIN = 2.0

Pairs = tuple[tuple[str, str], ...]
RISING: Pairs = (("sft-base", "opd"), ("opd", "rlvr"))
RISING_FAIR: Pairs = (("sft", "opd"), ("opd", "rlvr"))
FALLING: Pairs = (("opd", "sft-base"), ("rlvr", "opd"))
FALLING_FAIR: Pairs = (("opd", "sft"), ("rlvr", "opd"))
OPD_HIGHEST: Pairs = (("sft-base", "opd"), ("rlvr", "opd"))
OPD_HIGHEST_FAIR: Pairs = (("sft", "opd"), ("rlvr", "opd"))
OPD_LOWEST: Pairs = (("opd", "sft-base"), ("opd", "rlvr"))
OPD_LOWEST_FAIR: Pairs = (("opd", "sft"), ("opd", "rlvr"))

PUBLISHED = "As published"
FAIR = "Same anchor, same norm"
SIZES = ("norm", "sparsity", "right_mean", "shift", "stable_rank")
SHAPES = ("sparsity", "right_mean", "shift", "stable_rank", "hill")


@dataclass(frozen=True)
class Claim:
    """A statement, and the tests that must all hold for it to hold."""

    key: str
    statement: str
    tests: tuple[EvidenceTest, ...]


@dataclass(frozen=True)
class Judgement:
    """A claim with its answer, the sentence that gives the reason, and the evidence."""

    claim: Claim
    verdict: Verdict
    reason: str
    numbers: str
    evidence: tuple[Evidence, ...]

    @property
    def mark(self) -> str:
        """The first warning on what was compared, if there is one."""
        return next((item.mark for item in self.evidence if item.decides and item.mark), "")


CLAIMS = (
    Claim(
        "sparsity",
        "RLVR leaves the most weights unchanged in bf16, then OPD, then SFT.",
        (
            Ordering(PUBLISHED, "sparsity", RISING),
            Ordering(FAIR, "sparsity", RISING_FAIR, at="norm"),
            Ordering("Beyond the rounding gate", "sparsity", RISING_FAIR, of="excess"),
        ),
    ),
    Claim(
        "rotation",
        "SFT turns the principal subspaces most, then OPD, then RLVR.",
        (
            Ordering(PUBLISHED, "right_mean", FALLING),
            Ordering(FAIR, "right_mean", FALLING_FAIR, at="norm"),
        ),
    ),
    Claim(
        "shift",
        "SFT shifts the singular values most, then OPD, then RLVR.",
        (
            Ordering(PUBLISHED, "shift", FALLING),
            Ordering(FAIR, "shift", FALLING_FAIR, at="norm"),
        ),
    ),
    Claim(
        "off_principal",
        "The weights that OPD and RLVR change avoid the principal ones.",
        (
            AgainstChance(PUBLISHED, "principal", ("opd", "rlvr"), -1),
            AgainstNull("Against the rounding gate", "principal", ("opd", "rlvr"), -1, MASK_MARGIN),
        ),
    ),
    Claim(
        "small_weights",
        "The weights that OPD and RLVR change are the small ones.",
        (
            AgainstChance(PUBLISHED, "low", ("opd", "rlvr"), 1),
            AgainstNull("Against the rounding gate", "low", ("opd", "rlvr"), 1, MASK_MARGIN),
        ),
    ),
    Claim(
        "low_rank",
        "OPD's update concentrates in few directions.",
        (LowRank("Against random signs", ("opd",)),),
    ),
    Claim(
        "narrowest",
        "OPD's update is narrower than those of SFT and RLVR.",
        (
            Ordering(PUBLISHED, "stable_rank", OPD_LOWEST),
            Ordering(FAIR, "stable_rank", OPD_LOWEST_FAIR, at="norm"),
        ),
    ),
    Claim(
        "flat",
        "OPD's stable rank settles early and stays flat, while SFT's does not.",
        (
            Flat("OPD itself", "opd"),
            Flatter(PUBLISHED, "opd", "sft-base"),
            Flatter("Same anchor", "opd", "sft"),
        ),
    ),
    Claim(
        "early_lock",
        "OPD finds its final directions earlier than SFT and RLVR.",
        (
            Ordering(PUBLISHED, "right_to_final", OPD_HIGHEST, at="progress", smallest_k=True),
            Ordering(
                "Same anchor", "right_to_final", OPD_HIGHEST_FAIR, at="progress", smallest_k=True
            ),
            Ordering(
                "Beyond a random walk",
                "right_to_final",
                OPD_HIGHEST_FAIR,
                at="progress",
                of="excess",
                smallest_k=True,
            ),
            Ordering(
                "Disjoint increments",
                "right_increment",
                OPD_HIGHEST_FAIR,
                at="progress",
                smallest_k=True,
            ),
        ),
    ),
    Claim(
        "accuracy",
        # A different distance is enough for this one; the next claim asks for more than that.
        "At equal accuracy, RLVR's update reads differently from OPD's, be it in size alone.",
        (
            MostDiffer(PUBLISHED, SIZES, ("opd", "rlvr"), "end"),
            MostDiffer("Same anchor, same accuracy", SIZES, ("opd", "rlvr"), "accuracy"),
            MostDiffer("RLVR trained on", SIZES, ("opd", "rlvr-long"), "accuracy", decides=False),
        ),
    ),
    Claim(
        "shape",
        "RLVR's update differs from OPD's in more than its size.",
        (MostDiffer(FAIR, SHAPES, ("opd", "rlvr"), "norm"),),
    ),
    Claim(
        "learning",
        "RLVR's geometry is that of learning: rewards at random do not give it.",
        (MostDiffer("Random rewards, same norm", SHAPES, ("rlvr", "rlvr-random"), "norm"),),
    ),
    Claim(
        "bf16_rank",
        "bf16 files make small updates look higher-rank than they are.",
        (
            Inflated("Same checkpoints, two storages", ("opd", "rlvr")),
            Inflated("Size of the update", ("opd", "rlvr"), compare_with_end=True),
        ),
    ),
)


def judge(study: Study) -> tuple[Judgement, ...]:
    """Judge every claim."""
    return tuple(judge_one(study, claim) for claim in CLAIMS)


def judge_one(study: Study, claim: Claim) -> Judgement:
    """Run the tests of a claim: it holds if all that decide hold."""
    evidence = tuple(test.run(study) for test in claim.tests)
    deciding = [item for item in evidence if item.decides]
    verdict = verdicts.all_of(item.verdict for item in deciding)
    reason, numbers = _reason(verdict, deciding)
    return Judgement(claim, verdict, reason, numbers, evidence)


def _reason(verdict: Verdict, deciding: list[Evidence]) -> tuple[str, str]:
    """Say which test decided, and with what numbers."""
    if verdict is Verdict.HOLDS:
        titles = "; ".join(_inline(item.title) for item in deciding)
        return f"Every test holds ({titles}).", deciding[-1].text
    decider = next(item for item in deciding if item.verdict is verdict)
    title = _inline(decider.title)
    if verdict is Verdict.UNKNOWN:
        return f"Left open by: {title}.", decider.text
    first = deciding[0]
    if first is not decider and first.title == PUBLISHED and first.verdict is Verdict.HOLDS:
        return f"Holds as published, but the control takes it away: {title}.", decider.text
    return f"Fails at: {title}.", decider.text


def _inline(title: str) -> str:
    """A title inside a sentence; names in capitals keep them."""
    first, _, rest = title.partition(" ")
    return title if first.isupper() else f"{first.lower()} {rest}".rstrip()
