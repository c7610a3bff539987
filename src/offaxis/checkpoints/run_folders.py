"""Where a trainer leaves the weights of its steps.

```
RUN/checkpoint-N/                        Trainer, TRL and this project
RUN/checkpoint-N/pytorch_model_fsdp_0/   the same with FSDP's sharded state
RUN/global_step_N/actor/                 verl; policy/ of others who save as it does
RUN/global_stepN_universal/              DeepSpeed, once converted
RUN/checkpoint/step-N/                   torchtitan
RUN/checkpoints/epoch=E-step=N.ckpt/     Lightning
RUN/step_N/                              torch's distributed checkpoints by hand
```

Only folders are looked at: files that name the last step, as `latest` or
`latest_checkpointed_iteration.txt`, are no checkpoints.
"""

import re
from pathlib import Path
from typing import NamedTuple

from offaxis.checkpoints.formats import format_of, is_readable
from offaxis.checkpoints.trust import own_folder
from offaxis.errors import UsageError

_STEP = re.compile(
    r"(?:checkpoint-|global_step_?|iter_|step[-_]?|(?:.*[-_])?step=)(\d+)(?:_universal)?(?:\.ckpt)?"
)
_BELOW = ("checkpoint", "checkpoints")
_WEIGHTS = ("actor", "policy", "model", "pytorch_model_fsdp_0")
_INNER = re.compile(rf"{'|'.join(_WEIGHTS)}|critic|huggingface")


class Place(NamedTuple):
    """The weights of one step, and what lies beside them that is not read."""

    path: Path
    notes: tuple[str, ...] = ()


def step_of(path: Path) -> int | None:
    """The step that the name of a checkpoint's folder says, or None where it says none."""
    match = _STEP.fullmatch(_step_folder(path).name)
    return int(match[1]) if match else None


def run_of(path: Path) -> Path:
    """The folder of the run that a checkpoint belongs to."""
    return _step_folder(path).parent


def _step_folder(path: Path) -> Path:
    """The folder of a step, from that of its weights inside it."""
    above = path
    while _INNER.fullmatch(above.name):
        above = above.parent
    return above if _STEP.fullmatch(above.name) else path


def is_run(path: Path) -> bool:
    """Whether a folder holds steps, and is not one of them."""
    return not _STEP.fullmatch(path.name) and bool(steps_of(path))


def steps_of(run: Path) -> dict[int, Place]:
    """The weights of each step in a run's folder, ascending.

    Raises:
        UsageError: If two folders hold the weights of one step.
        CheckpointError: If a link leads out of the run's folder.
    """
    places = next((run / below for below in ("", *_BELOW) if _step_folders(run / below)), run)
    return {
        step: _chosen(step, [own_folder(run, folder) for folder in folders])
        for step, folders in sorted(_step_folders(places).items())
    }


def weights_of(path: Path) -> Place:
    """Where the weights of a step lie: in its folder, or in one below that trainers name."""
    if is_readable(path):
        return Place(path)
    inner = {child.name: child for child in _folders(path)}
    readable = [name for name, child in inner.items() if is_readable(child)]
    known = [name for name in _WEIGHTS if name in inner] or readable
    if not known or (len(known) > 1 and known == readable):
        return Place(path)
    place = weights_of(own_folder(path, inner[known[0]]))
    others = (name for name in readable if name != known[0])
    return Place(place.path, place.notes + tuple(f"not measured: {inner[n]}" for n in others))


def _step_folders(folder: Path) -> dict[int, list[Path]]:
    found: dict[int, list[Path]] = {}
    for child in _folders(folder):
        if match := _STEP.fullmatch(child.name):
            found.setdefault(int(match[1]), []).append(child)
    return found


def _chosen(step: int, folders: list[Path]) -> Place:
    """The one folder of a step that can be read; what is refused may lie beside it."""
    readable = [folder for folder in folders if is_readable(weights_of(folder).path)]
    if len(readable) > 1 or (not readable and len(folders) > 1):
        raise UsageError(
            f"step {step} in {folders[0].parent}",
            expected="one checkpoint a step",
            found=" and ".join(folder.name for folder in folders),
            do="give the folders of the steps themselves, with --anchor",
        )
    (chosen,) = readable or folders
    place = weights_of(chosen)
    notes = tuple(f"not measured: {_named(other)}" for other in folders if other != chosen)
    return Place(place.path, place.notes + notes)


def _named(folder: Path) -> str:
    known = format_of(folder)
    return f"{folder}, {known.NAME}" if known is not None else str(folder)


def _folders(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if child.is_dir()) if path.is_dir() else []
