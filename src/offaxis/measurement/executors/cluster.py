"""Where a Ray cluster should be and whether it answers: Ray itself asks for many minutes."""

import os
import socket
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from offaxis.errors import UsageError

PATIENCE_SECONDS = 10.0
"""How long a head may take to answer."""

_FRAME = 9  # bytes of a frame's head, of which the fourth is its kind
_SETTINGS = 4
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, _SETTINGS, 0, 0, 0, 0, 0])
"""What a client says first (RFC 9113, section 3.4), with settings that change none."""


def find_cluster(
    environment: Mapping[str, str] = os.environ, patience: float = PATIENCE_SECONDS
) -> str | None:
    """The cluster to join: the address in RAY_ADDRESS, or "auto" for the last `ray start` here.

    Other clusters of this machine are somebody else's. Ray itself then finds the last one, and with
    it the user's right to join it, which it does not look for where it is given an address.

    Args:
        environment: Where the address is looked for.
        patience: Seconds that its head may take to answer.

    Raises:
        UsageError: If RAY_ADDRESS names one that does not answer.
    """
    named = environment.get("RAY_ADDRESS", "")
    if named == "local":
        return None
    if named in {"", "auto"}:
        # A head that was killed leaves its address behind.
        left = _left_by_ray_start(environment)
        return "auto" if left is not None and _why_silent(left, patience) is None else None
    if why := _why_silent(named, patience):
        raise UsageError(
            "RAY_ADDRESS",
            expected="the address of a running Ray cluster, as 10.0.0.1:6379",
            found=f"{named!r}: {why}",
            do="start one with ray start --head, or unset the variable",
        )
    return named


def _left_by_ray_start(environment: Mapping[str, str]) -> str | None:
    """The address that the last `ray start` of this node wrote down."""
    folder = environment.get("RAY_TMPDIR") or environment.get("TMPDIR") or tempfile.gettempdir()
    try:
        return (Path(folder) / "ray" / "ray_current_cluster").read_text().strip() or None
    except OSError:
        return None


def _why_silent(address: str, patience: float) -> str | None:
    """Say why nothing that speaks Ray's protocol answers there; None where something does."""
    try:
        place = urlsplit(address if "://" in address else f"ray://{address}")
        host, port = place.hostname, place.port
    except ValueError as error:
        return str(error)
    if not host or port is None:
        return "no address of the form host:port"
    until = time.monotonic() + patience
    try:
        with socket.create_connection((host, port), timeout=patience) as line:
            if os.environ.get("RAY_USE_TLS", "0") != "0":  # then only Ray can greet it
                return None
            line.sendall(_HELLO)
            return None if _greeted(line, until) else "what listens there is no Ray cluster"
    except TimeoutError:
        return f"no answer within {patience:g} seconds"
    except OSError as error:
        return error.strerror or str(error)


def _greeted(line: socket.socket, until: float) -> bool:
    """Whether the other side opens with the settings that its protocol begins with."""
    head = b""
    while len(head) < _FRAME:
        line.settimeout(max(until - time.monotonic(), 0.001))
        part = line.recv(_FRAME - len(head))
        if not part:
            return False
        head += part
    return head[3] == _SETTINGS
