"""Matrices with the scales of a language model's, and what a bf16 file shows of their updates."""

import torch

from offaxis.linalg.rounding import cast

BF16 = torch.bfloat16
PRINCIPAL, LOW = 1, 2


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(g: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=g, dtype=torch.float64)


def profile(g: torch.Generator, m: int, n: int, width: float = 0.3) -> torch.Tensor:
    """Log-normal scales of rows and columns."""
    return torch.outer(*(normal(g, d).mul(width).exp() for d in (m, n)))


def spikes(g: torch.Generator, m: int, n: int, s: torch.Tensor) -> torch.Tensor:
    U, V = (torch.linalg.qr(normal(g, d, len(s))).Q for d in (m, n))
    return U * s @ V.T


def weights(seed: int, m: int, n: int, *, on_grid: bool, width: float = 0.3) -> torch.Tensor:
    """Gaussian bulk under row and column scales, and spikes that fall as a power law."""
    g = generator(seed)
    s = 0.06 * (m**0.5 + n**0.5) * torch.arange(1, min(m, n) // 8 + 1).double() ** -0.55
    W = 0.02 * profile(g, m, n, width) * normal(g, m, n) + spikes(g, m, n, s)
    return cast(W, BF16 if on_grid else torch.float32)


def independent(law: str, seed: int, m: int, n: int, width: float = 0.3) -> torch.Tensor:
    """An update of rms 1 that knows nothing of the weights."""
    g = generator(seed)
    z = normal(g, m, n)
    if law == "laplace":
        z = z.sign() * -torch.rand(m, n, generator=g, dtype=torch.float64).clamp(min=1e-300).log()
    elif law == "row_column_scales":
        z *= profile(g, m, n, width)
    return z / z.square().mean().sqrt()


def low_rank(
    seed: int, m: int, n: int, *, law: str = "gauss", width: float = 0.3
) -> tuple[torch.Tensor, float]:
    """An update of rms 1, half of it of rank 16 and half dense, and its top spike."""
    g = generator(seed)
    s = torch.arange(1, 17).double() ** -0.7
    s *= (m * n / 2 / float(s.square().sum())) ** 0.5
    dense = independent(law, seed + 1, m, n, width)
    return spikes(g, m, n, s) + dense / 2**0.5, float(s[0])


def codes(W: torch.Tensor, alpha: float = 0.3, rank: int = 64) -> torch.Tensor:
    """PRINCIPAL and LOW bits of every entry."""
    U, s, Vh = torch.linalg.svd(W, full_matrices=False)
    principal, size = (U[:, :rank] * s[:rank] @ Vh[:rank]).abs(), W.abs()
    k = int(alpha * W.numel())
    top = principal > principal.flatten().kthvalue(W.numel() - k).values
    low = size <= size.flatten().kthvalue(k).values
    return PRINCIPAL * top.int() + LOW * low.int()


def mask(bit: int) -> torch.Tensor:
    """The weights of the 16 codes in the mask of one bit."""
    return ((torch.arange(16) & bit) > 0).double()


def counted(W: torch.Tensor, X: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
    """The table of an anchor on the bf16 grid: exponent, mask code, changed."""
    field = (W.to(BF16).view(torch.int16).int() >> 7) & 0xFF
    cell = (field * 16 + code) * 2 + (W != X)
    return cell.flatten().bincount(minlength=256 * 32).view(256, 16, 2)


def magnitudes(W: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
    """The anchor's entries by bf16 magnitude and mask code."""
    bits = W.to(BF16).view(torch.int16).int() & 0x7FFF
    return (bits * 16 + code).flatten().bincount(minlength=32768 * 16).view(32768, 16)
