"""Checkpoints of the hub among the paths of a measurement: planned from headers, then fetched."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from offaxis.checkpoints.hub import HubId, Snapshot, cached, fetch, look_up, write_headers


def is_remote(paths: Sequence[Path]) -> bool:
    """Whether one of the paths is a model of the hub."""
    return any(HubId.of(path) is not None for path in paths)


@contextmanager
def headers_of(paths: Sequence[Path], console: Console) -> Iterator[list[Path]]:
    """Folders to plan with: what is here as it is, of the rest the headers alone.

    Args:
        paths: Folders, or models of the hub as `org/name@revision`.
        console: Is told which commit each of these is, and what it would take to fetch.

    Raises:
        CheckpointError: If the hub cannot be reached, or a header cannot be read.
    """
    with tempfile.TemporaryDirectory() as cache:
        yield [_planned(path, Path(cache), console) for path in paths]


def fetched(paths: Sequence[Path]) -> list[Path]:
    """The folders of all paths, models of the hub fetched where they are not in its cache.

    Raises:
        CheckpointError: As `fetch`.
    """
    named = [(path, HubId.of(path)) for path in paths]
    return [path if hub is None else fetch(hub) for path, hub in named]


def _planned(path: Path, cache: Path, console: Console) -> Path:
    named = HubId.of(path)
    if named is None:
        return path
    known = cached(named)
    if known is not None:
        return known
    snapshot = look_up(named)
    here = cached(snapshot.id)
    console.print(_described(named, snapshot, is_here=here is not None))
    return here or write_headers(snapshot, cache)


def _described(named: HubId, snapshot: Snapshot, *, is_here: bool) -> str:
    files = f"{len(snapshot.weights)} file(s), {snapshot.num_bytes / 1e6:,.0f} MB"
    return f"hub: {named} is {snapshot.commit}: {files} {'in the cache' if is_here else 'to fetch'}"
