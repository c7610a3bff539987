"""Edited weights: what of an update carries what it learned, and what other updates would do."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor
from transformers import PreTrainedModel

from offaxis.engine.seeds import generator_for
from offaxis.errors import UsageError
from offaxis.linalg import edits
from offaxis.runs import RunFolder
from offaxis.training.constraints.sources import FoundUpdate
from offaxis.training.updates import layer_matrices

Kind = Literal["top", "bottom", "scale", "extrapolate", "spectrum"]

_KINDS: dict[str, Kind] = {kind: kind for kind in get_args(Kind)}


@dataclass(frozen=True)
class Edit:
    """One edit of a model's update.

    Attributes:
        text: As it was asked for.
        kind: `top`, `bottom`: of every layer matrix so many singular directions of dW alone;
            `spectrum`: its directions with the anchor's singular values. The rest of the model
            stays as trained. `scale`: W0 + beta dW, `extrapolate`: W + 2k (W - W_s), both of all
            weights.
        amount: Directions, beta or k.
        keeps_norm: Whether a truncated update is brought to the norm of the whole one.
        since: The step s; the checkpoint before by default.
        is_null: Whether the edited update's directions are drawn at random instead.
    """

    text: str
    kind: Kind
    amount: float = 0.0
    keeps_norm: bool = False
    since: int | None = None
    is_null: bool = False

    @property
    def label(self) -> str:
        """What the rows say."""
        return f"{self.text}, random directions" if self.is_null else self.text


def parse_edit(text: str) -> Edit:
    """Read `top=16`, `top=16,norm`, `bottom=4`, `scale=0.5`, `extrapolate=1,from=4`, `spectrum`.

    Raises:
        UsageError: If it is none of these.
    """
    first, *options = text.split(",")
    name, _, amount = first.partition("=")
    kind = _KINDS.get(name)
    if kind is None or (amount == "") is (kind != "spectrum"):
        raise _unreadable(text)
    keeps_norm, since = False, None
    for option in options:
        key, _, value = option.partition("=")
        if option == "norm" and kind in ("top", "bottom"):
            keeps_norm = True
        elif key == "from" and kind == "extrapolate" and value.isdigit():
            since = int(value)
        else:
            raise _unreadable(text)
    try:
        number = float(amount) if amount else 0.0
    except ValueError:
        raise _unreadable(text) from None
    is_count = number >= 1 and number.is_integer()
    if not math.isfinite(number) or (kind in ("top", "bottom") and not is_count):
        raise _unreadable(text)
    return Edit(text, kind, number, keeps_norm, since)


def with_nulls(texts: Sequence[str]) -> list[Edit | None]:
    """The unedited model, then every edit and its null.

    Raises:
        UsageError: As `parse_edit`.
    """
    found: list[Edit | None] = [None]
    for text in texts:
        edit = parse_edit(text)
        found += [edit, replace(edit, is_null=True)]
    return found


@torch.no_grad()
def apply_edit(edit: Edit, model: PreTrainedModel, anchor: Path, path: Path, seed: int) -> None:
    """Edit a model's weights in place, in float64.

    Args:
        edit: What to do.
        model: The model that `path` holds.
        anchor: The folder its update is measured from.
        path: Its folder; of a run, where an extrapolation looks for the checkpoint before.
        seed: The key of random directions.

    Raises:
        CheckpointError: If the anchor lacks a matrix of that shape.
        UsageError: If there is no checkpoint to extrapolate from.
    """
    is_of_layers = edit.kind in ("top", "bottom", "spectrum")
    layers = layer_matrices(model)
    before = _before(edit, path) if edit.kind == "extrapolate" else anchor
    for name, weight in model.named_parameters():
        if is_of_layers and name not in layers:
            continue
        shape, W = tuple(weight.shape), weight.double().cpu()
        start = FoundUpdate.end(anchor, name, shape)
        edited = _edited(edit, W, start, FoundUpdate.end(before, name, shape))
        if edit.is_null and name in layers:
            generator = generator_for("edit", edit.text, seed, name)
            edited = start + edits.turned_at_random(edited - start, generator)
        weight.copy_(edited)


def _edited(edit: Edit, W: Tensor, start: Tensor, before: Tensor) -> Tensor:
    """One weight in float64."""
    if edit.kind == "scale":
        return start + edit.amount * (W - start)
    if edit.kind == "extrapolate":
        return edits.extrapolated(W, before, 2 * edit.amount)
    if edit.kind == "spectrum":
        return edits.with_spectrum_of(W, start)
    D = W - start
    kept = edits.truncated(D, int(edit.amount), "top" if edit.kind == "top" else "bottom")
    return start + (edits.to_norm_of(kept, D) if edit.keeps_norm else kept)


def _before(edit: Edit, path: Path) -> Path:
    """The checkpoint that an extrapolation comes from."""
    run = RunFolder(path.resolve().parent)
    own = next((s for s in run.steps() if run.checkpoint(s) == path.resolve()), None)
    earlier = [s for s in run.steps() if own is not None and s < own]
    wanted = edit.since if edit.since is not None else (earlier[-1] if earlier else None)
    if wanted not in earlier:
        raise UsageError(
            f"--edit {edit.text}",
            expected=f"an earlier checkpoint of the run than {path}",
            found=f"steps {', '.join(map(str, earlier)) or 'none'}",
            do="name one with extrapolate=K,from=STEP, and a later checkpoint with --step",
        )
    return run.checkpoint(wanted)


def _unreadable(text: str) -> UsageError:
    return UsageError(
        f"--edit {text}",
        expected="top=K[,norm], bottom=K[,norm], scale=BETA, extrapolate=K[,from=STEP] or spectrum",
        found=repr(text),
        do="write for example --edit top=16,norm",
    )
