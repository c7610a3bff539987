"""How much of the update its leading singular values hold, as related work counts it."""

import math
from collections.abc import Iterable, Mapping

from offaxis.diagnostics.base import (
    UNDEFINED_AT_ZERO,
    ClosedForm,
    NullReading,
    Reading,
    diagnostic,
)
from offaxis.diagnostics.facts import Spectrum, WeightUpdate
from offaxis.linalg.noise_law import iid_top_energy
from offaxis.linalg.ranks import iid_edge

RANKS = (1, 2, 4, 8, 32, 64)
"""`rank` reads the energy of the top 16."""

PERCENT = (1, 5, 10)


def _dimensions(p: int) -> dict[str, int]:
    """How many values each energy is of: at most all, a percentage rounded up."""
    ranks = {f"top{k}_energy": min(k, p) for k in RANKS}
    return ranks | {f"top{share}pct_energy": math.ceil(share * p / 100) for share in PERCENT}


def _nulls(update: WeightUpdate) -> Iterable[ClosedForm]:
    m, n = update.anchor.rows, update.anchor.cols
    method = "closed form, iid entries"

    def null(value: float) -> NullReading:
        return NullReading("marchenko_pastur", value, None, 0, method)

    energies = {k: iid_top_energy(m, n, k) for k in {*_dimensions(update.anchor.p).values()}}
    for quantity, k in _dimensions(update.anchor.p).items():
        yield ClosedForm(quantity, null(energies[k]))
    yield ClosedForm("spectral_ratio", null(min(iid_edge(1.0, m, n), 1.0)))
    first = _dimensions(update.anchor.p)["top1pct_energy"]
    yield ClosedForm("top1pct_norm", null(math.sqrt(energies[first])))


@diagnostic(
    version=1,
    units={
        "spectral_ratio": "1",
        **{f"top{k}_energy": "fraction" for k in RANKS},
        **{f"top{share}pct_energy": "fraction" for share in PERCENT},
        "top1pct_norm": "1",
    },
    source="arXiv:2606.13657 (energies); arXiv:2605.11739 (spectral_ratio, top1pct_norm)",
    primary=("random_factors", "sign_flip", "marchenko_pastur"),
    primary_of=dict.fromkeys(
        [f"top{share}pct_energy" for share in PERCENT]
        + ["top1pct_norm", "top32_energy"]
        + ["top64_energy"],
        ("random_factors", "marchenko_pastur"),
    ),
    ensembles=("sign_flip", "random_factors"),
    needs=("spectrum",),
    is_relative=True,
    closed_forms=_nulls,
)
def spectrum_shares(update: WeightUpdate) -> Mapping[str, Reading]:
    r"""Return shares of $\lVert dW\rVert_F^2$ in its leading singular values, in [0, 1].

    `spectral_ratio` is $\sigma_1/\lVert dW\rVert_F$, the root of `top1_energy`; `top1pct_norm` the
    norm of the top 1 % of the values over that of all. The fast tier, and draws of large matrices,
    know the first few values alone: what needs more is not defined there, `beyond_top`. Not defined
    for a zero update.
    """
    spectrum = update.spectrum
    if update.is_zero or spectrum is None:
        return dict.fromkeys(spectrum_shares.units, UNDEFINED_AT_ZERO)
    dimensions = _dimensions(update.anchor.p)
    found = {name: _energy(spectrum, k, update.norm_error) for name, k in dimensions.items()}
    return {
        "spectral_ratio": _root(found["top1_energy"]),
        **found,
        "top1pct_norm": _root(found["top1pct_energy"]),
    }


def _energy(spectrum: Spectrum, k: int, norm_error: float) -> Reading:
    if k > spectrum.top.numel():
        return Reading(None, 0.0, ("beyond_top",), spectrum.tier)
    s, bound = spectrum.top[:k], spectrum.bound[:k]
    value = float(s.square().sum()) / spectrum.energy
    error = float((2 * bound * s + bound.square()).sum()) / spectrum.energy
    return Reading(min(value, 1.0), error + 2 * norm_error * value, (), spectrum.tier)


def _root(energy: Reading) -> Reading:
    if energy.value is None:
        return energy
    value = math.sqrt(energy.value)
    return energy._replace(value=value, error_bound=energy.error_bound / value)
