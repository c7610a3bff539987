"""One side of a pairing: the logical matrices of a checkpoint, and what is known of its names."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from offaxis.checkpoints.base import CheckpointReader, TensorInfo
from offaxis.checkpoints.names import experts
from offaxis.checkpoints.names.layouts import FUSED
from offaxis.checkpoints.names.logical import split_name
from offaxis.checkpoints.names.model import Model
from offaxis.checkpoints.names.tied import Ends, ends_of, is_tied
from offaxis.checkpoints.names.wrappers import unwrapped
from offaxis.checkpoints.views import Skipped, View, views
from offaxis.errors import CheckpointError

FLOATS = ("float64", "float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Side:
    """What one checkpoint holds.

    Attributes:
        path: Its folder.
        views: Its logical matrices and vectors, by their labels.
        skipped: The tensors that hold no weights.
        model: What its config says, or the other side's where it has none.
        ends: Its embedding and its head.
        tied: Whether these are stored twice, value for value.
    """

    path: Path
    views: Mapping[str, View]
    skipped: Sequence[Skipped]
    model: Model | None
    ends: Ends
    tied: bool

    @property
    def own_head(self) -> str | None:
        """The stored head, where it is a matrix of its own."""
        return None if self.tied else self.ends.head

    @cached_property
    def names(self) -> dict[str, View]:
        """The views by what they are called without wrappers, fused layers in parts.

        Raises:
            CheckpointError: If two of them have one name then.
        """
        found: dict[str, View] = {}
        for view in self.views.values():
            name = split_name(unwrapped(view.tensor), view.view)
            if name in found:
                raise CheckpointError(
                    f"tensors {found[name].label!r} and {view.label!r} in {self.path}",
                    expected="one tensor for each name, once wrappers are taken off",
                    found=f"both for {name!r}",
                    do="save the checkpoint without one of them: which is the weight is not known",
                )
            found[name] = view
        return found

    def one_by_one(self, names: Mapping[str, View]) -> dict[str, View]:
        """The views by the names that they have where experts are stored one by one.

        Args:
            names: The views by the names that both sides share so far.
        """
        if self.model is None:
            return dict(names)
        askable = {n: v for n, v in names.items() if v.piece.entry is not None or not v.view}
        single = experts.single_names(askable, self.model.whole)
        renamed = Counter(single.get(name, name) for name in names)
        return {
            single[name] if name in single and renamed[single[name]] == 1 else name: view
            for name, view in names.items()
        }

    @cached_property
    def unsplit(self) -> list[str]:
        """The labels of fused matrices that are taken whole, as nothing says how they lie."""
        return [
            view.label
            for view in self.views.values()
            if view.kind == "matrix" and view.role in FUSED
        ]


class Contents(NamedTuple):
    """Everything that a side follows from: checkpoints that agree in it are paired alike."""

    tensors: tuple[TensorInfo, ...]
    model: Model | None
    tied: bool


def contents_of(reader: CheckpointReader, model: Model | None) -> Contents:
    """Read the names, shapes and dtypes of a checkpoint, and whether it ties its embeddings.

    Raises:
        CheckpointError: If it cannot be read.
    """
    tensors = reader.tensors()
    return Contents(tuple(tensors.values()), model, is_tied(reader, ends_of(tensors), model))


def side_of(path: Path, contents: Contents) -> Side:
    """List the logical matrices of a checkpoint."""
    found, skipped = _views_of(contents.tensors, contents.model)
    ends = ends_of(info.name for info in contents.tensors)
    return Side(path, found, skipped, contents.model, ends, contents.tied)


def _views_of(
    tensors: Sequence[TensorInfo], model: Model | None
) -> tuple[dict[str, View], list[Skipped]]:
    found: dict[str, View] = {}
    skipped: list[Skipped] = []
    for info in tensors:
        held = views(info, model)
        if isinstance(held, Skipped):
            skipped.append(held)
        elif held[0].kind == "elements" and info.dtype not in FLOATS:
            skipped.append(Skipped(info.name, f"{info.dtype}: not weights"))
        else:
            found.update((view.label, view) for view in held)
    return found, skipped
