"""The measures of a step that several processes have shared."""

from collections.abc import Sequence

# Measures of which each process has a part; of the others each has its own value.
_SUMMED = frozenset(
    {"loss", "entropy_nats", "mismatch_kl_nats", "kept_tokens", "unscorable", "too_long"}
)


def of_all(each: Sequence[tuple[int, dict[str, float]]]) -> dict[str, float]:
    """The measures of all processes in one; a process may lack what it has nothing to say of."""
    found: dict[str, float] = {}
    for name in dict.fromkeys(name for _, measures in each for name in measures):
        pairs = [(weight, m[name]) for weight, m in each if name in m]
        if name in _SUMMED:
            found[name] = sum(value for _, value in pairs)
        else:
            total = sum(weight for weight, _ in pairs)
            found[name] = sum(weight * value for weight, value in pairs) / max(total, 1)
    return found
