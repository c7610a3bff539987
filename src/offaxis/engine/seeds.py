"""Draws that depend on their key alone, whoever makes them and in whatever order."""

import hashlib

from torch import Generator


def seed_for(*key: object) -> int:
    """Return a seed in [0, 2^63) for a key."""
    digest = hashlib.blake2b("\0".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def generator_for(*key: object) -> Generator:
    """Return a generator seeded by a key."""
    return Generator().manual_seed(seed_for(*key))
