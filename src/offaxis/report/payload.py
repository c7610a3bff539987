"""Data and scripts inside the page: compact, inert, and named by hash in its policy."""

import base64
import gzip
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

# Five significant digits outlast any chart; the table in the results folder has them all.
DIGITS = 5


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[object]]:
    """Turn rows into columns; a missing or non-finite number becomes null."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [_plain(row.get(name)) for row in rows] for name in names}


def _plain(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value


def pack(content: Mapping[str, Any]) -> str:
    """Pack JSON as gzip in base64, the same bytes for the same content.

    Raises:
        ValueError: If a number in it is not finite.
    """
    text = json.dumps(content, allow_nan=False, separators=(",", ":"), sort_keys=True)
    return base64.b64encode(gzip.compress(text.encode("utf-8"), 9, mtime=0)).decode("ascii")


def unpack(text: str) -> object:
    """Read back what `pack` wrote."""
    content: object = json.loads(gzip.decompress(base64.b64decode(text)))
    return content


def source_hash(text: str) -> str:
    """Return the source expression by which a content security policy allows an inline text."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def policy(scripts: Sequence[str], styles: Sequence[str]) -> str:
    """Return a content security policy that allows these inline texts and nothing else."""
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {' '.join(map(source_hash, scripts))}",
            f"style-src {' '.join(map(source_hash, styles))}",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
