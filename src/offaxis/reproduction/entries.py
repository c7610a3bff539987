"""Every table and figure of the paper: what is trained for it, how often, and what is read.

An arm is the name of a recipe (`recipes/<scale>/**/<arm>.toml`). The headline arms are drawn eight
times. What else an entry asks for is drawn as often as half an hour on two cores allows: five times
where a claim compares it, which is the least that can decide one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from offaxis.catalog import suggestion
from offaxis.errors import UsageError
from offaxis.measurement.options import relatives

HEADLINE_DRAWS = 8
QUICK_DRAWS = 5
_SOME, _FEW = 5, 3

PARADIGMS = ("sft-base", "sft", "opd", "rlvr")
"""The paper's three, and SFT from where the others start."""

_CONFOUNDS = ("rlvr-long", "rlvr-random", "opd-sgd", "sft-bf16", "opd-bf16", "rlvr-bf16")
_INSIDE = (
    *("opd-k16-early", "opd-k16-random", "opd-k16-gradient", "opd-frozen"),
    *("sft-k16-early", "sft-k16-random", "sft-frozen"),
    *("sft-base-k16-early", "sft-base-frozen"),
)
_FREE = ("sft-base", "sft", "opd")
_BASES = (
    *(f"{free}-k16-{basis}" for free in ("opd", "sft") for basis in ("anchor", "late", "cross")),
    "sft-k16-gradient",
)
_RANKS = tuple(
    f"{free}-k{rank}-{basis}"
    for free in ("opd", "sft")
    for rank in (2, 4, 8, 32)
    for basis in ("early", "random")
)
_STARTS = tuple(f"{free}-k16-from{per_cent}" for free in ("opd", "sft") for per_cent in (10, 40))
_VARIANTS = (
    *("opd-small-teacher", "opd-large-teacher", "opd-moe-teacher"),
    *("opd-wide-student", "opd-sort"),
)
_OF_THE_DOMAIN = ("sft-sort", "rlvr-sort")
_RATES = (
    *(f"{arm}-lr{rate}" for arm in ("sft", "opd", "rlvr") for rate in ("1e-5", "2e-5", "1e-4")),
    *("opd-lr1e-3", "sft-base-lr5e-5", "sft-sgd", "rlvr-sgd"),
)
_CONTROLLED = (
    *(f"opd-keep{share}-{by}" for share in (25, 50) for by in ("ratio", "random")),
    *("opd-from-teacher", "opd-from-anchor", "opd-stale-8"),
    *("mixed-5-advantages", "mixed-1-advantages", "mixed-50-normed"),
)
_BETWEEN = (
    *("opd-stale-2", "opd-stale-32", "opd-sampled"),
    *(f"mixed-{alpha}-advantages" for alpha in (75, 50, 25)),
)

QUICK = (*PARADIGMS, "opd-k16-early", "sft-k16-early")
"""The arms of `--quick`, where an entry has them."""

_SHAPE = ("norm", "rank", "tail")


@dataclass(frozen=True)
class Entry:
    """One table or figure.

    Attributes:
        id: Its name in the paper.
        title: What it shows.
        diagnostics: What its quantities are read by.
        headline: The arms of its main comparison, drawn `HEADLINE_DRAWS` times.
        further: Its other arms, and the draws of each.
        probes: What is asked of its runs beside measurement, as `offaxis.reproduction.probes`
            names it.
    """

    id: str
    title: str
    diagnostics: tuple[str, ...] = ()
    headline: tuple[str, ...] = ()
    further: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    probes: tuple[str, ...] = ()

    @property
    def is_preset(self) -> bool:
        """Whether it is a table of settings, for which nothing is trained."""
        return not self.headline and not self.further

    def draws(self, *, quick: bool = False, headline_only: bool = False) -> dict[str, int]:
        """The draws of every arm.

        Args:
            quick: Only the arms of `QUICK`, or, of an entry without a headline, one draw of each.
            headline_only: Leave out what is beside the main comparison.
        """
        if quick and not self.headline:
            return dict.fromkeys(self.further, 1)
        if quick:
            return {arm: QUICK_DRAWS for arm in self.headline if arm in QUICK}
        further = {} if headline_only else self.further
        return dict.fromkeys(self.headline, HEADLINE_DRAWS) | dict(further)


def _of(draws: int, *arms: str) -> dict[str, int]:
    return dict.fromkeys(arms, draws)


_PERTURBED = _of(_SOME, "sft-base", "opd", "rlvr", *_CONTROLLED) | _of(_FEW, *_BETWEEN)

_ALL = (
    Entry("fig1", "Overview: stable rank over the way", _SHAPE, PARADIGMS),
    Entry(
        "tab1",
        "Update sparsity: paradigms and variants",
        ("sparsity", "masks", *_SHAPE, "spectral_shift"),
        (*PARADIGMS, *_CONFOUNDS),
        _of(_SOME, *_VARIANTS) | _of(_FEW, *_OF_THE_DOMAIN),
    ),
    Entry(
        "fig2",
        "Rotation of the anchor's subspaces, and drift of its spectrum",
        ("rotation", "spectral_shift", "norm"),
        (*PARADIGMS, "rlvr-long", "rlvr-random"),
    ),
    Entry(
        "fig3",
        "Where the visible update lies: principal and small weights",
        ("sparsity", "masks", "norm"),
        (*PARADIGMS, *_CONFOUNDS),
    ),
    Entry(
        "fig4",
        "Stable rank, norm and tail over the way, at several learning rates",
        ("sparsity", *_SHAPE),
        (*PARADIGMS, *_CONFOUNDS),
        _of(_FEW, *_RATES),
    ),
    Entry(
        "fig5",
        "Subspace similarity to the end over the way",
        ("norm", "similarity"),
        (*PARADIGMS, "rlvr-long", "rlvr-random"),
    ),
    Entry(
        "fig6",
        "Training inside sixteen directions",
        _SHAPE,
        (*_FREE, *_INSIDE),
        _of(_FEW, *_BASES, *_RANKS, *_STARTS),
    ),
    Entry(
        "fig7",
        "Stable rank on fewer tokens, on others' rollouts, mixed with RLVR",
        _SHAPE,
        further=_PERTURBED,
    ),
    Entry("fig8", "The runs of fig6 by accuracy and by distance", _SHAPE, (*_FREE, *_INSIDE)),
    Entry("fig9", "Norm and tail of the runs of fig7", _SHAPE, further=_PERTURBED),
    Entry("tab2", "Shared settings"),
    Entry("tab3", "Settings of SFT"),
    Entry("tab4", "Settings of OPD"),
    Entry("tab5", "Settings of RLVR"),
    Entry("tab6", "Variants of OPD"),
    Entry("tab7", "Notes on the variants"),
    Entry("tab8", "Settings that the controls share"),
    Entry("tab9", "What each control changes"),
    Entry(
        "sec5.2",
        "Mechanism: second moments of per-token gradients",
        _SHAPE,
        further=_of(_SOME, "opd"),
        probes=("mechanism",),
    ),
    Entry(
        "relatives",
        "Quantities of related papers",
        ("sparsity", "gate", "principal_energy", *_SHAPE, *relatives()),
        further=_of(_SOME, *PARADIGMS, "rlvr-again", "rlvr-random"),
        probes=("agreement", "edited"),
    ),
)

ENTRIES = {entry.id: entry for entry in _ALL}

HEADLINE = ("tab1", "fig2", "fig3", "fig4", "fig5", "fig6")
"""What is reproduced where nothing is named: the main comparison of each."""


def chosen(ids: Sequence[str]) -> list[Entry]:
    """The entries of these names, in the paper's order.

    Raises:
        UsageError: If there is no such entry.
    """
    for name in ids:
        if name not in ENTRIES:
            raise UsageError(
                f"reproduce {name}",
                expected=f"some of {', '.join(ENTRIES)}",
                found=repr(name),
                do=suggestion(name, list(ENTRIES)),
            )
    return [entry for entry in ENTRIES.values() if entry.id in ids]
