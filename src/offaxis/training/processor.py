"""By whom a processor is and what it has, where the libraries underneath use it badly."""

from pathlib import Path

import torch

_CPU_INFO, _VENDOR = Path("/proc/cpuinfo"), "vendor_id\t: AuthenticAMD\n"


def is_amd() -> bool:
    """Whether this is a processor by AMD. Known of Linux alone."""
    return _CPU_INFO.is_file() and _VENDOR in _CPU_INFO.read_text("ascii", "replace")


def has(*instructions: str) -> bool:
    """Whether it has all of some instructions, such as `avx512_bf16`."""
    there = torch.cpu.get_capabilities()
    return all(there.get(name) is True for name in instructions)
