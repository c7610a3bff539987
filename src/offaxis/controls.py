"""The controls of the tiny laboratory: which recipes stand beside which run, and in what words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Group:
    """One question to a run, and the recipes that answer it.

    Attributes:
        title: The heading of its table.
        lead: What a reader has to know of the rows.
        free: The arm without the change.
        labels: The arms under a change (`recipes/tiny/controls/<arm>.toml`) and their names.
    """

    title: str
    lead: str
    free: str
    labels: Mapping[str, str]


_INSIDE = (
    "Gone on from a fifth of the free run's way with every matrix's update projected, after each "
    "step, on directions of inputs and outputs; embeddings and norms frozen. Early: those of the "
    "run's own update up to there. Random: drawn, the update scaled to the early one's norm at the "
    "same step. Norms, sparsity and rank are of the update since that checkpoint, but in the first "
    "row, where they are of the whole run."
)


def _inside(free: str, name: str, ranks: Sequence[int], *, is_frozen_shown: bool = True) -> Group:
    labels = {
        f"{free}-k{rank}-{basis}": f"{basis}, K = {rank}"
        for rank in ranks
        for basis in ("early", "random")
    }
    if is_frozen_shown:
        labels[f"{free}-frozen"] = "all directions, embeddings and norms frozen"
    return Group(f"{name} inside its early subspace", _INSIDE, free, labels)


FEW = (
    _inside("opd", "OPD", (16,), is_frozen_shown=False),
    _inside("sft", "SFT from the anchor", (16,), is_frozen_shown=False),
)
"""The controls of the default preset."""

ALL = (
    _inside("opd", "OPD", (16, 4)),
    _inside("sft", "SFT from the anchor", (16, 4)),
    _inside("sft-base", "SFT from the base", (16, 4)),
    Group(
        "OPD on a fifth of the tokens",
        "Kept in every rollout, which weighs as much as before.",
        "opd",
        {
            "opd-keep20-random": "at random",
            "opd-keep20-ratio": "highest log-ratio to the teacher",
            "opd-keep20-kl": "highest KL to the teacher",
        },
    ),
    Group(
        "OPD on the rollouts of others",
        "Without importance correction.",
        "opd",
        {"opd-from-anchor": "of the anchor, frozen", "opd-from-teacher": "of the teacher"},
    ),
    Group(
        "OPD mixed with RLVR",
        "Both on the same rollouts of the student.",
        "opd",
        {
            "mixed-50": "losses, 50 % OPD",
            "mixed-20": "losses, 20 % OPD",
            "mixed-50-advantages": "advantages, 50 % OPD (as published)",
        },
    ),
    *(
        Group(
            f"{name} in bfloat16",
            "Weights kept in bfloat16 lose every step below half an ulp; the float32 files hold "
            "what is left.",
            free,
            {f"{free}-bf16": "bfloat16 weights"},
        )
        for free, name in (("sft", "SFT from the anchor"), ("opd", "OPD"), ("rlvr", "RLVR"))
    ),
)
"""The controls of the preset `study`."""


def described(groups: Sequence[Group]) -> dict[str, object]:
    """What the results' manifest says of them, for the page."""
    return {
        "controls": [
            {"title": g.title, "lead": g.lead, "free": g.free, "arms": list(g.labels)}
            for g in groups
        ],
        "labels": {arm: label for g in groups for arm, label in g.labels.items()},
    }
