"""One pass over the bytes counts and sums what float64 does."""

import os
import stat
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offaxis.linalg import elementwise
from offaxis.linalg.elementwise import Counts, count, magnitude_table, strata_of
from offaxis.linalg.rounding import cast, is_unchanged

ORDINARY = [0.0, -0.0, 1.0, -1.0, 1 + 2**-8, 1 + 3 * 2**-8, 0.02, 0.0201, 1e-30, 2.0**-133]
EXTREME = [2.0**-149, 3.3e38, -3.3e38, 3.4e38, 2.0**-126, 1e-38, 1e19, 2.0**80]
FORMATS = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
FOLDED = 2.0**-14  # the bound that `count` states for two bf16 matrices

values = st.lists(
    st.tuples(st.sampled_from(ORDINARY + EXTREME), st.sampled_from(ORDINARY + EXTREME)),
    min_size=1,
    max_size=40,
)


def stored(numbers: list[float], dtype: torch.dtype) -> torch.Tensor:
    """The numbers in a format, those beyond its range at its largest."""
    largest = torch.finfo(dtype).max
    return torch.tensor(numbers, dtype=torch.float64).clamp(-largest, largest).to(dtype)


def truth(a: torch.Tensor, b: torch.Tensor, codes: torch.Tensor | None, eta: float) -> Counts:
    """The definition, entry by entry; visible energies may be infinite."""
    x, y = a.double().flatten(), b.double().flatten()
    u, v = (cast(W[None], torch.bfloat16)[0] for W in (x, y))
    changed = ~is_unchanged(u[None], v[None], eta)[0]
    table = np.zeros((256, 16, 2), dtype=np.int64)
    exponents = (u.bfloat16().view(torch.int16).long() >> 7 & 255).tolist()
    every_code = [0] * len(x) if codes is None else codes.flatten().tolist()
    np.add.at(table, (exponents, every_code, changed.long().tolist()), 1)
    seen = torch.where(u == v, 0.0, v - u)
    return Counts(
        entries=len(x),
        changed=int(changed.sum()),
        visible_squares=float((seen**2).sum()),
        visible_fourth=float((seen**4).sum()),
        table=torch.from_numpy(table),
    )


def agree(found: Counts, expected: Counts, tolerance: float) -> None:
    assert found[:2] == expected[:2]
    assert torch.equal(found.table, expected.table)
    for name in ("visible_squares", "visible_fourth"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=tolerance, abs=0)


@given(values, st.tuples(st.sampled_from(FORMATS), st.sampled_from(FORMATS)), st.integers(0, 99))
@pytest.mark.parametrize("kernel", ["compiled", "plain"])
@pytest.mark.parametrize("eta", [0.0, 1e-3, 0.01])
def test_any_pair_in_any_format(eta, kernel, pairs, formats, seed) -> None:
    columns = zip(*pairs, strict=True)
    a, b = (stored(list(W), dtype) for W, dtype in zip(columns, formats, strict=True))
    codes = torch.randint(0, 16, a.shape, generator=torch.Generator().manual_seed(seed))
    codes = codes.to(torch.uint8)
    agree(count(a, b, codes, eta, kernel=kernel), truth(a, b, codes, eta), 1e-12)
    agree(count(a, b, None, eta, kernel=kernel), truth(a, b, None, eta), 1e-12)


def weights(shape: tuple[int, ...], step: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    a = (0.02 * torch.randn(shape, generator=g)).bfloat16()
    b = (a.float() + step * torch.randn(shape, generator=g)).bfloat16()
    return a, b, torch.randint(0, 16, shape, generator=g).to(torch.uint8)


@pytest.mark.parametrize("step", [1e-5, 1.2e-4, 0.0])
def test_whole_blocks_of_weights(step: float) -> None:
    a, b, codes = weights((121, 300), step)
    known = strata_of(magnitude_table(a, codes))
    agree(count(a, b, codes, 1e-3, strata=known), truth(a, b, codes, 1e-3), 1e-7)
    agree(count(a, b, codes, 1e-3, kernel="plain"), truth(a, b, codes, 1e-3), 1e-12)
    agree(count(a, b, None, 1e-3), truth(a, b, None, 1e-3), 1e-7)


@given(st.lists(st.sampled_from(ORDINARY + EXTREME), min_size=2, max_size=8), st.integers(0, 99))
def test_whole_blocks_of_extremes(palette: list[float], seed: int) -> None:
    """Exponents all over the range, ties, and values that float32 sums cannot hold."""
    g = torch.Generator().manual_seed(seed)
    grid = stored(palette, torch.bfloat16)
    a, b = (grid[torch.randint(0, len(grid), (4200,), generator=g)] for _ in range(2))
    codes = torch.randint(0, 16, a.shape, generator=g).to(torch.uint8)
    agree(count(a, b, codes, 1e-3), truth(a, b, codes, 1e-3), FOLDED)


@pytest.mark.parametrize("value", [1 + 2**-7, 1.0, 253 / 256, 2.0**-30, 2.0**70])
def test_equal_terms_do_not_drift(value: float) -> None:
    a = torch.full((64, 128), value, dtype=torch.bfloat16)
    agree(count(a, -a, None, 1e-3), truth(a, -a, None, 1e-3), 1e-5)


def test_views_and_empty_pairs_are_pairs() -> None:
    a, b, codes = weights((64, 81), 1e-4)
    transposed = count(a.T, b.T, codes.T, 1e-3)
    assert torch.equal(transposed.table, count(a, b, codes, 1e-3).table)
    odd = count(a.flatten()[1:], b.flatten()[1:], codes.flatten()[1:], 1e-3)
    agree(odd, truth(a.flatten()[1:], b.flatten()[1:], codes.flatten()[1:], 1e-3), 1e-7)
    empty = count(a[:0], b[:0], None, 1e-3)
    assert empty[:4] == (0,) * 4
    assert int(empty.table.sum()) == 0


@pytest.mark.parametrize("dtype", FORMATS)
def test_the_magnitude_table_counts_the_bf16_grid(dtype: torch.dtype) -> None:
    W, _, codes = weights((7, 300), 0)
    W = (1.003 * W.double()).to(dtype)
    table = magnitude_table(W, codes)
    assert torch.equal(table, magnitude_table(W, codes, kernel="plain"))
    assert torch.equal(table.sum(0), torch.bincount(codes.flatten(), minlength=16))
    grid = torch.arange(32768, dtype=torch.int16).view(torch.bfloat16).double()
    seen = table.sum(1) > 0
    expected = float(cast(W.double(), torch.bfloat16).square().sum())
    energy = float((table.sum(1)[seen] * grid[seen].square()).sum())
    assert energy == pytest.approx(expected, rel=1e-12)
    assert int(strata_of(table)[:, 3].sum()) == int((codes == 3).sum())


def test_without_numba_the_plain_form_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "offaxis.linalg.kernels", None)
    elementwise.load.cache_clear()
    try:
        a, b, codes = weights((9, 20), 1e-4)
        assert elementwise.load() is None
        agree(count(a, b, codes, 1e-3), truth(a, b, codes, 1e-3), 1e-12)
    finally:
        elementwise.load.cache_clear()


def test_importing_is_quick_and_no_folder_need_be_writable(tmp_path) -> None:
    """Neither beside the sources nor in the home folder can the compiled loops be kept."""
    source = """
import sys
import offaxis.linalg.elementwise
assert "numba" not in sys.modules
import numba.core.caching as caching
def refuse(*_): raise OSError
for name in ("ensure_cache_path",):
    for locator in vars(caching).values():
        if isinstance(locator, type) and name in vars(locator):
            setattr(locator, name, refuse)
from offaxis.linalg import kernels
import numpy as np
ones, table, out = np.full(3, 0x3F80, np.uint16), np.zeros((256, 16), np.int64), np.zeros(2)
kernels.pass_over(ones, np.zeros_like(ones), np.empty(0, np.uint8), 120, table, out)
assert out.tolist() == [3, 3]
"""
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", source], check=True, env=environment)
