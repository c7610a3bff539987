"""By whom a processor is and what it has, where the libraries underneath use it badly.

Both are known of Linux alone, and taken as no elsewhere.
"""

from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")


def is_amd() -> bool:
    """Whether this is a processor by AMD."""
    return "AuthenticAMD" in _told("vendor_id")


def has(instructions: str) -> bool:
    """Whether it has some instructions of x86, named as Linux names them, such as `avx512_bf16`."""
    return instructions in _told("flags")


def _told(name: str) -> frozenset[str]:
    """The words that Linux has for the first core under a name."""
    lines = _CPU_INFO.read_text("ascii", "replace").splitlines() if _CPU_INFO.is_file() else []
    values = (line.partition(":")[2] for line in lines if line.partition(":")[0].strip() == name)
    return frozenset(next(values, "").split())
