"""Reading a trajectory where another quantity takes a given value; never beyond its ends."""

import numpy as np

from offaxis.report.frames import Floats


def crossing(x: Floats, y: Floats, target: float, *, log: bool = False) -> float | None:
    """Return y where the trajectory first takes the value `target` of x.

    Between two checkpoints both x (in its logarithm if `log`) and y are taken as straight lines.

    Args:
        x: What is matched, in the order of the trajectory; NaN entries are passed over.
        y: What is read there.
        target: The value of x.
        log: Interpolate in log x, as suits a norm that grows over decades.

    Returns:
        The value of y, or None where x never reaches the target or y is not defined there.
    """
    keep = np.isfinite(x) & np.isfinite(y) & ((x > 0) | (not log))
    x, y = x[keep], y[keep]
    for before in range(len(x)):
        if x[before] == target:
            return float(y[before])
        after = before + 1
        if after < len(x) and min(x[before], x[after]) < target < max(x[before], x[after]):
            low, high, at = x[before], x[after], target
            if log:
                low, high, at = np.log(low), np.log(high), np.log(at)
            share = (at - low) / (high - low)
            return float(y[before] + share * (y[after] - y[before]))
    return None


def common_target(curves: list[Floats]) -> float | None:
    """Return the largest value that every curve reaches, if every curve also passes below it.

    That is the smallest of their maxima: the end of the run that went least far.
    """
    lowest, highest = common_range(curves)
    return highest if lowest is not None and highest is not None else None


def common_range(curves: list[Floats]) -> tuple[float, float] | tuple[None, None]:
    """Return the range of values that all curves cover, or (None, None) where there is none."""
    finite = [curve[np.isfinite(curve)] for curve in curves]
    if not finite or any(len(curve) == 0 for curve in finite):
        return None, None
    lowest = float(max(curve.min() for curve in finite))
    highest = float(min(curve.max() for curve in finite))
    return (lowest, highest) if lowest <= highest else (None, None)
