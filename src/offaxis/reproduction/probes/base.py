"""A probe: a question to some finished runs of one draw, answered in rows of the study table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offaxis.runs import RunFolder

Row = dict[str, Any]
"""A row of the study table but for its draw; what it leaves out is null."""

Runs = Mapping[str, RunFolder]
"""Finished runs of one draw, by their arms."""


@dataclass(frozen=True)
class Probe:
    """One question.

    Attributes:
        name: How entries and files name it.
        version: To be raised where the same runs give other rows.
        groups: Arms that are asked together; a draw that lacks one of a group has no answer.
        gives: The arms of its rows beside those.
        ask: From the runs of a group, and the folder of everything, to the rows.
        seconds: Of one core for one group, estimated at the tiny scale.
    """

    name: str
    version: int
    groups: tuple[tuple[str, ...], ...]
    gives: tuple[str, ...]
    ask: Callable[[Runs, Path], Sequence[Row]]
    seconds: float

    @property
    def arms(self) -> tuple[str, ...]:
        """Every arm that it asks."""
        return tuple(dict.fromkeys(arm for group in self.groups for arm in group))
