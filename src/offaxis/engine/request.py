"""What the chosen diagnostics need to know of one matrix, gathered so that it is computed once."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from offaxis.diagnostics.base import Diagnostic, Need, Settings, Tier
from offaxis.diagnostics.rank import TOP

OF_ELEMENTS = frozenset[Need]({"counts", "tolerance", "largest"})
"""The facts that a tensor has that is no matrix."""

_ANY_ETA = 1e-3  # what the size of the update behind a gate is told by, where nobody asked for one


@dataclass(frozen=True)
class Request:
    """The facts to compute, and the settings that they depend on.

    Attributes:
        tier: By which engine.
        needs: The parts of an update's facts.
        etas: Relative tolerances at which changes are counted.
        tolerances: Absolute ones.
        alpha: Share of the masks; 0 where none is wanted.
        rank: Of the principal mask's reconstruction.
        margin: Of the noise edge over the largest value that random signs show.
        k: Of the top subspaces whose rotation is wanted; 0 where none is.
        block: Of the principal block whose energy is wanted.
        vectors: Leading singular vectors of dW that are kept.
        values: Leading singular values of dW that are wanted in any tier.
        drawn: Those of a random update, none of whose vectors are kept.
    """

    tier: Tier
    needs: frozenset[Need]
    etas: tuple[float, ...] = ()
    tolerances: tuple[float, ...] = ()
    alpha: float = 0.0
    rank: int = 0
    margin: float = 1.0
    k: int = 0
    block: int = 0
    vectors: int = 0
    values: int = 0
    drawn: int = 0

    @property
    def is_anchored(self) -> bool:
        """Whether the anchor's singular basis is needed."""
        return self.rank > 0 or bool(self.needs & {"shift", "rotation", "blocks", "sides"})

    @property
    def is_matrix(self) -> bool:
        """Whether it has directions."""
        return self.vectors > 0

    @property
    def top(self) -> int:
        """How many of the anchor's leading singular vectors are needed in float64."""
        return max(self.k, self.rank)


def request_for(
    chosen: Mapping[str, Diagnostic],
    overrides: Mapping[str, Settings],
    shape: tuple[int, int],
    tier: Tier,
    *,
    vectors: int = 0,
) -> Request:
    """Gather what diagnostics need of a matrix of this shape.

    A part whose settings do not fit the matrix is left out: its diagnostic says so. Without
    singular vectors to keep, what is asked of is no matrix: its elements are counted, no more.
    """
    p = min(shape)
    settings: dict[str, Mapping[str, Any]] = {
        name: item.resolve(p, overrides) for name, item in chosen.items()
    }
    needs = {need for item in chosen.values() for need in item.needs}
    masks = next((found for found in settings.values() if "alpha" in found), {})
    etas = {found["eta"] for found in settings.values() if "eta" in found}
    counted = Request(
        tier=tier,
        needs=frozenset(needs & OF_ELEMENTS),
        etas=tuple(sorted(etas or ({_ANY_ETA} if "counts" in needs else set()))),
        tolerances=tuple(sorted({s["atol"] for s in settings.values() if "atol" in s})),
        alpha=masks.get("alpha", 0.0),
    )
    if vectors == 0:
        return counted
    k = settings.get("rotation", {}).get("k", 0)
    block = settings.get("principal_energy", {}).get("k", 0)
    if not 1 <= k <= p:
        k = 0
        needs -= {"rotation"}
    drawn = max(TOP, settings.get("tail", {}).get("k", 1))
    return replace(
        counted,
        needs=frozenset(needs),
        rank=min(masks.get("rank", 0), p),
        margin=settings.get("rank", {}).get("margin", 1.0),
        k=k,
        block=block if 1 <= block <= p else 0,
        vectors=min(vectors, p),
        values=min(max(vectors + 1, drawn), p),
        drawn=min(drawn, p),
    )
