"""Symmetric eigenvalue problems of prescribed spectra."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offaxis.errors import NumericsError
from offaxis.linalg import lapack, tridiagonal
from offaxis.linalg.tridiagonal import Dense, Tridiagonal, eigensystem, eigenvalues

EPS = torch.finfo(torch.float64).eps


def symmetric(values: torch.Tensor, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    n = values.numel()
    Q = torch.linalg.qr(torch.randn(n, n, generator=g, dtype=torch.float64)).Q
    return Q * values @ Q.T


def upper(G: torch.Tensor) -> torch.Tensor:
    """What a caller hands over: the lower triangle is not meant to be read."""
    return G.triu() + torch.full_like(G, 7.0).tril(-1)


@pytest.mark.parametrize("kind", [Tridiagonal, Dense])
@pytest.mark.parametrize("n", [1, 2, 3, 40, 150])
def test_values_and_leading_vectors(kind, n: int) -> None:
    values = torch.linspace(3, 0, n, dtype=torch.float64)
    G = symmetric(values)
    system = kind(upper(G))
    torch.testing.assert_close(system.values, values, rtol=0, atol=1e-13)
    for k in sorted({1, (n + 1) // 2, n}):
        Q = system.top(k)
        assert float((Q.T @ Q - torch.eye(k, dtype=Q.dtype)).abs().max()) < 1e-13
        assert float((G @ Q - Q * values[:k]).abs().max()) < 1e-12
        Q = system.bottom(k)
        assert float((G @ Q - Q * values[n - k :]).abs().max()) < 1e-12


@given(
    st.lists(st.sampled_from([0.0, 1e-12, 1e-3, 0.5, 0.5 + 1e-12, 1.0]), min_size=2, max_size=30),
    st.integers(0, 10**6),
    st.integers(-60, 60),
)
def test_ties_and_clusters(values: list[float], seed: int, exponent: int) -> None:
    wanted = torch.tensor(sorted(values, reverse=True), dtype=torch.float64) * 10.0**exponent
    G = symmetric(wanted, seed)
    system = eigensystem(upper(G))
    scale = float(wanted[0])
    assert float((system.values - wanted).abs().max()) <= 100 * EPS * scale
    Q = system.top((len(values) + 1) // 2)
    assert float((Q.T @ Q - torch.eye(Q.shape[1], dtype=Q.dtype)).abs().max()) <= 1e-13
    assert float((G @ Q - Q * system.values[: Q.shape[1]]).abs().max()) <= 1000 * EPS * scale


@pytest.mark.parametrize("broken", ["fails", "not_orthonormal", "other_values"])
def test_vectors_that_are_off_are_found_again(broken: str, monkeypatch) -> None:
    values = torch.linspace(3, 1, 40, dtype=torch.float64)
    G = symmetric(values)
    stemr = lapack.stemr

    def off(*arguments):
        found, Z = stemr(*arguments)
        return {
            "fails": None,
            "not_orthonormal": (found, 2 * Z),
            "other_values": (found + 1e-9, Z),
        }[broken]

    monkeypatch.setattr(lapack, "stemr", off)
    Q = Tridiagonal(upper(G)).top(7)
    assert float((G @ Q - Q * values[:7]).abs().max()) < 1e-12


def test_two_stages_give_the_same_values(monkeypatch) -> None:
    monkeypatch.setattr(tridiagonal, "_TWO_STAGE", 200)
    values = torch.logspace(0, -12, 300, dtype=torch.float64)
    G = symmetric(values)
    assert float((eigenvalues(upper(G)) - values).abs().max()) < 100 * EPS
    monkeypatch.setattr(lapack, "has_two_stage", lambda: False)
    assert float((eigenvalues(upper(G)) - values).abs().max()) < 100 * EPS


def test_two_stages_are_left_alone_where_they_are_missing(monkeypatch) -> None:
    def absent(name: str):
        raise AttributeError(name)

    monkeypatch.setattr(lapack, "_symbol", absent)
    lapack.has_two_stage.cache_clear()
    assert not lapack.has_two_stage()
    lapack.has_two_stage.cache_clear()


def test_what_is_not_a_number_is_refused() -> None:
    G = torch.eye(4, dtype=torch.float64)
    G[2, 2] = torch.nan
    for solve in (Tridiagonal, Dense, eigenvalues):
        with pytest.raises(NumericsError, match="finite"):
            solve(G.clone())
