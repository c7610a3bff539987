"""How the energy of pure noise is shared out among its singular values."""

import math
from functools import cache

from scipy.integrate import quad
from scipy.optimize import brentq


@cache
def iid_top_energy(m: int, n: int, k: int) -> float:
    r"""Return the share of the energy of iid noise in its k largest singular values, large m and n.

    With $c=p/q$ and $\lambda=1+c+2\sqrt c\cos\theta$ the Marchenko-Pastur law has
    $2\sin^2\theta/(\pi\lambda)\,d\theta$ of the values and $2\sin^2\theta/\pi\,d\theta$ of their
    energy; the angle above which the top k lie is found by bisection.

    Args:
        m: Rows.
        n: Columns.
        k: From 1 to the smaller of both.

    Returns:
        A share in (0, 1]; 1 for all of them.

    Source:
        Marchenko & Pastur 1967, doi:10.1070/SM1967v001n04ABEH001994.
    """
    p, q = sorted((m, n))
    if k >= p:
        return 1.0
    c = p / q

    def count(theta: float) -> float:
        def density(x: float) -> float:
            lowest = (1 - math.sqrt(c)) ** 2
            # 1 + cos x without its cancellation: a square matrix has eigenvalues down to 0
            value = lowest + 4 * math.sqrt(c) * math.cos(x / 2) ** 2
            return 2 * math.sin(x) ** 2 / (math.pi * value) if value > 0 else 2 / math.pi

        return float(quad(density, 0, theta)[0])

    theta = float(brentq(lambda x: count(x) - k / p, 0, math.pi, xtol=1e-12))
    return (theta - math.sin(theta) * math.cos(theta)) / math.pi
