"""What is to be measured: one matrix of one anchor, through the checkpoints that come from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from offaxis.checkpoints.base import CheckpointReader
from offaxis.checkpoints.formats import open_checkpoint
from offaxis.checkpoints.pieces import Piece
from offaxis.checkpoints.views import View
from offaxis.diagnostics.base import Tier
from offaxis.engine import request_for
from offaxis.measurement import cost
from offaxis.measurement.options import Options, diagnostics
from offaxis.table import ResultsFolder


class Source(NamedTuple):
    """One checkpoint, with the hash that names its content; its folder may be gone since."""

    step: int
    path: Path
    digest: str

    @property
    def is_gone(self) -> bool:
        """Whether only what was measured of it is left."""
        return not self.path.is_dir()


@dataclass(frozen=True)
class Series:
    """The checkpoints of one run, ascending, as one matrix is found in them.

    Attributes:
        run: The run's name.
        checkpoints: Those that are measured, and those that were and are gone since.
        pieces: Where the matrix lies, by the steps of those that hold it.
        master: The format that held the weights in training.
    """

    run: str
    checkpoints: tuple[Source, ...]
    pieces: Mapping[int, Piece]
    master: str = "unknown"


@dataclass(frozen=True)
class Task:
    """One matrix of one anchor, through every checkpoint of every run that shares the anchor."""

    view: View
    anchor: Source
    series: tuple[Series, ...]
    results: ResultsFolder
    options: Options

    @property
    def num_units(self) -> int:
        """How many (matrix, checkpoint, storage) units the task holds."""
        return len(self.options.passes) * sum(len(s.pieces) for s in self.series)

    @property
    def bytes_to_read(self) -> int:
        """Bytes of stored weights, read anew for each checkpoint and as the one before it."""
        held = [piece for s in self.series for piece in s.pieces.values()]
        again = len(self.options.passes) * sum(map(cost.read_bytes, held))
        return cost.read_bytes(self.view.piece) + again

    @property
    def peak_bytes(self) -> int:
        """Memory that the task holds at most, beside the interpreter and its libraries."""
        known, o = diagnostics(), self.options
        named = {name for each in o.passes for name in each.diagnostics if name in known}
        chosen = {name: known[name] for name in named}
        request = request_for(chosen, o.overrides, self.view.shape, o.tier, vectors=1)
        pieces = (self.view.piece, *(p for s in self.series for p in s.pieces.values()))
        dtypes = {piece.dtype for piece in pieces}
        measuring = cost.peak_bytes(self.view, o.tier, request.top, dtypes)
        beside = max(cost.cutting_bytes(piece) for piece in pieces)
        return max(measuring + beside, cost.comparing_bytes(self.view, o.walk_draws))

    def open(self, source: Source) -> CheckpointReader:
        """Open the anchor, or one of the checkpoints."""
        return open_checkpoint(source.path, self.options.access, self.anchor.path)

    def core_seconds(self, tier: Tier) -> float:
        """Estimated time on one core by a tier, if no unit is finished."""
        o = self.options
        return cost.seconds(self.view, tier, self.num_units, 2 * o.draws + o.edge_draws)
