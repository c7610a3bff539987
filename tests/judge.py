"""Every reading from its definition, by LAPACK in float64, with the error of the judge."""

import math
import statistics
from typing import NamedTuple

import torch

from offaxis.linalg.angles import principal_angles

EPS = torch.finfo(torch.float64).eps


class Judged(NamedTuple):
    """A true value, and what rounding may have done to it; infinite where it is not defined."""

    value: float
    error: float


def judge(
    W0: torch.Tensor, W1: torch.Tensor, update: torch.Tensor | None = None
) -> dict[str, Judged]:
    """Return the readings by `diagnostic.quantity`, at their default settings.

    `update` is that from W0 to W1, where it is known better than by their difference.
    """
    W, D = W0.double(), W1.double() - W0.double() if update is None else update.double()
    unit = max(float(W.abs().max()), 1e-300)
    W, D, scale = W / unit, D / unit, unit
    p = min(W.shape)
    rounding = 8 * p * EPS
    found = _of_update(D, W, scale, rounding)
    U, s, Vh = torch.linalg.svd(W, full_matrices=False)
    Ut, st, Vth = torch.linalg.svd(W + D, full_matrices=False)
    shift = float((st - s).norm() / s.norm())
    found["spectral_shift.spectral_shift"] = Judged(shift, rounding * float(s[0] + st[0]))
    k = min(512, max(1, p // 8))
    inside = float((U[:, :k].T @ D @ Vh[:k].T).square().sum() / D.square().sum())
    slack = rounding * float(s[0]) / max(_gap(s, k), 1e-300)
    found["principal_energy.principal_energy"] = Judged(inside, min(4 * slack, 1.0))
    found |= _relatives(D, (U, s, Vh), st, rounding)
    for side, old, new in (("left", U, Ut), ("right", Vh.T, Vth.T)):
        found |= _of_side(side, (old, s), (new, st), k, rounding)
    return found


def _of_update(
    D: torch.Tensor, W: torch.Tensor, scale: float, rounding: float
) -> dict[str, Judged]:
    s = torch.linalg.svdvals(D)
    size, top = float(D.norm()), float(s[0])
    shares = s / s.sum()
    effective = math.exp(float(torch.special.entr(shares).sum()))
    lost = rounding * len(s)
    found = {
        "norm.frobenius_norm": Judged(size * scale, rounding * size * scale),
        "norm.relative_norm": Judged(size / float(W.norm()), rounding * size / float(W.norm())),
        "norm.spectral_norm": Judged(top * scale, rounding * top * scale),
        "rank.stable_rank": Judged((size / top) ** 2, 4 * rounding * (size / top) ** 2),
        "rank.effective_rank": Judged(effective, 4 * lost * (1 - math.log(lost)) * effective),
        "rank.top16_energy": Judged(float((s[:16] / size).square().sum()), 4 * rounding),
    }
    k = min(10, len(s) // 4)
    if k >= 2 and s[k - 1] > 1e-9 * s[0]:
        mean = float((s[: k - 1] / s[k - 1]).log().mean())
        error = 4 * rounding * float(s[0] / s[k - 1])
        if mean > 4 * error:
            found["tail.hill"] = Judged(1 / mean, 2 * error / mean**2)
    return found


def _relatives(
    D: torch.Tensor,
    svd: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    st: torch.Tensor,
    rounding: float,
) -> dict[str, Judged]:
    """What related work reads of a pair."""
    (U, s, Vh), energy, p = svd, D.square().sum(), len(st)
    e = torch.linalg.svdvals(D).square() / energy
    ranks = {f"top{k}_energy": k for k in (1, 2, 4, 8, 32, 64)}
    ranks |= {f"top{share}pct_energy": math.ceil(share * p / 100) for share in (1, 5, 10)}
    found = {
        f"spectrum_shares.{name}": Judged(float(e[:k].sum()), 4 * rounding)
        for name, k in ranks.items()
    }
    squares = D.square().flatten().sort(descending=True).values
    for name, share in (("01", 1e-3), ("1", 1e-2), ("5", 5e-2)):
        wanted = share * D.numel()
        inside = float(squares[: int(wanted)].sum())
        inside += (wanted - int(wanted)) * float(squares[int(wanted)])
        value = inside / float(energy)
        found[f"concentration.top{name}pct_coordinates"] = Judged(value, 4 * rounding)
    size = float(energy.sqrt())
    moved = Judged(float((st - s).norm()) / size, rounding * float(s[0] + st[0]) / size)
    found["spectral_residual.spectral_residual"] = moved
    for label, share in (("1pct", 0.01), ("5pct", 0.05), ("10pct", 0.1), ("20pct", 0.2)):
        k = max(1, round(share * p))
        slack = min(4 * rounding * float(s[0]) / max(_gap(s, k), 1e-300), 1.0)
        L, R = U[:, :k].T @ D, D @ Vh[:k].T
        for kind, part in (("left", L), ("right", R), ("joint", L @ Vh[:k].T)):
            value = float(part.square().sum() / energy)
            found[f"projection_energy.{kind}_{label}"] = Judged(value, slack)
    return found


Side = tuple[torch.Tensor, torch.Tensor]


def _of_side(side: str, old: Side, new: Side, k: int, rounding: float) -> dict[str, Judged]:
    (U, s), (Q, st) = old, new
    c = min(len(s), k + max(1, k // 8))
    slack = min(sum(rounding * float(x[0]) / max(_gap(x, k), 1e-300) for x in (s, st)), 2.0)
    wider = slack + rounding * float(st[0]) / max(_gap(st, c), 1e-300)
    angles, contained = principal_angles(U[:, :k], Q[:, :k]), principal_angles(U[:, :k], Q[:, :c])
    missed = (U - Q[:, :k] @ (Q[:, :k].T @ U)).square().sum(0)
    weights = s.square()
    gained = (U[:, k:].T @ Q[:, :k]).square().sum(1)
    lost = float(weights[:k] @ missed[:k] - weights[k:] @ gained) / float(weights[:k].sum())
    slip = float(angles.sin().norm()) * slack + slack**2 + 100 * EPS
    values = {
        "max": (angles[-1], slack),
        "mean": (angles.mean(), slack),
        "median": (statistics.median(angles.tolist()), slack),
        "q90": (angles.quantile(0.9), slack),
        "contained_max": (contained[-1], wider),
        "contained_mean": (contained.mean(), wider),
        "energy_lost": (lost, slip * math.sqrt(k)),
    }
    return {
        f"rotation.{side}_{name}": Judged(float(value), error if error < 0.1 else math.inf)
        for name, (value, error) in values.items()
    }


def _gap(s: torch.Tensor, k: int) -> float:
    return float(s[k - 1] - s[k]) if k < len(s) else float(s[-1])
