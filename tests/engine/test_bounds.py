"""No reading of either tier is further from LAPACK's than the error bound that stands beside it."""

import math

import pytest
import torch
from hypothesis import assume, event, example, given
from hypothesis import strategies as st
from tests.judge import judge
from tests.updates import case, diagnostics, read

DOUBLE = torch.float64
STORED = {
    "float64": DOUBLE,
    "float32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}

shapes = st.one_of(
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.sampled_from([(1, 1), (1, 40), (40, 1), (130, 130), (96, 300), (300, 96), (530, 600)]),
)


def orthonormal(n: int, p: int, g: torch.Generator) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(n, p, generator=g, dtype=DOUBLE)).Q


def spectrum(kind: str, p: int) -> torch.Tensor:
    """Singular values with a largest of 1."""
    s = torch.logspace(0, -2, p, dtype=DOUBLE) if p > 1 else torch.ones(1, dtype=DOUBLE)
    if kind == "ties":
        s[: max(1, p // 2)] = 1
    if kind == "near ties":
        s = (s[0] - 1e-12 * torch.arange(p, dtype=DOUBLE)) * torch.where(
            torch.arange(p) < p // 2, 1, 0.1
        )
    if kind == "deficient":
        s[p // 2 + 1 :] = 0
    if kind == "steep":
        s = torch.logspace(0, -12, p, dtype=DOUBLE) if p > 1 else s
    return s


def update(kind: str, W: torch.Tensor, g: torch.Generator) -> torch.Tensor:
    """An update of about the anchor's root mean square."""
    noise = torch.randn(W.shape, generator=g, dtype=DOUBLE)
    if kind == "low rank":
        m, n = W.shape
        return torch.randn(m, 2, generator=g, dtype=DOUBLE) @ torch.randn(
            2, n, generator=g, dtype=DOUBLE
        )
    if kind == "one entry":
        return torch.zeros_like(W).index_put(
            (torch.tensor(0), torch.tensor(0)), torch.ones((), dtype=DOUBLE)
        )
    if kind == "heavy":
        return noise * (2 * torch.randn(W.shape, generator=g, dtype=DOUBLE)).exp()
    if kind == "principal":  # along the anchor's own directions
        U, _, Vh = torch.linalg.svd(W, full_matrices=False)
        return U[:, :1] @ Vh[:1] + U[:, -1:] @ Vh[-1:]
    if kind == "scale":
        return W
    return noise


def found(  # noqa: PLR0917 - one name for each strategy
    shape: tuple[int, int], kind: str, moved: str, size: float, stored: str, unit: float = 1.0
) -> dict[str, object]:
    """A case whose bound was too small once."""
    case_of = {"shape": shape, "kind": kind, "moved": moved, "size": size, "stored": stored}
    return {**case_of, "unit": unit, "seed": 0}


@pytest.mark.parametrize("tier", ["exact", "fast"])
@example(**found((96, 300), "ties", "noise", 0.0, "bf16"))
@example(**found((130, 130), "plain", "principal", 0.0, "float32"))
@example(**found((1, 2), "plain", "noise", 0.0, "bf16"))
@example(**found((8, 8), "near ties", "scale", 0.0, "float64"))
@example(**found((530, 600), "plain", "low rank", 0.0, "bf16"))
@example(**found((530, 600), "plain", "low rank", -1.0, "bf16"))
@example(**found((530, 600), "plain", "principal", -2.0, "float32"))
@example(**found((530, 600), "plain", "low rank", 0.0, "float32", 1e-39))
@given(
    shape=shapes,
    kind=st.sampled_from(["plain", "ties", "near ties", "deficient", "steep"]),
    moved=st.sampled_from(["noise", "low rank", "one entry", "heavy", "principal", "scale"]),
    size=st.floats(-9, 0.5),
    stored=st.sampled_from(sorted(STORED)),
    unit=st.sampled_from([1.0, 1e-39, 1e37]),
    seed=st.integers(0, 10**6),
)
def test_no_bound_is_violated(  # noqa: PLR0917 - one name for each strategy
    tier: str,
    shape: tuple[int, int],
    kind: str,
    moved: str,
    size: float,
    stored: str,
    unit: float,
    seed: int,
) -> None:
    g = torch.Generator().manual_seed(seed)
    p, dtype = min(shape), STORED[stored]
    unit = 1.0 if stored == "fp16" else unit
    W = orthonormal(shape[0], p, g) * spectrum(kind, p) @ orthonormal(shape[1], p, g).T
    D = update(moved, W, g)
    D *= 10**size * float(W.norm() / D.norm())
    W0, W1 = (W * unit).to(dtype), ((W + D) * unit).to(dtype)
    assume(bool(W0.any()) and bool((W0 != W1).any()) and bool(W1.isfinite().all()))
    measured = case(W0, W1, tier=tier, storage=dtype)
    truth = judge(W0, W1)
    for name in diagnostics():
        for quantity, reading in read(measured, name).items():
            true = truth.get(f"{name}.{quantity}")
            if true is None or reading.value is None or "tied_gap" in reading.flags:
                continue
            if not math.isfinite(true.error):
                continue
            away = abs(reading.value - true.value)
            assert away <= reading.error_bound + true.error, (
                f"{name}.{quantity} in the {reading.tier} tier"
            )
            event(f"{tier} by {reading.tier}")
