"""The other runs that a constraint is taken from: their checkpoints, updates and norms."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float64
from torch import Tensor

from offaxis.checkpoints.safetensors_folder import SafetensorsFolder
from offaxis.errors import CheckpointError, RecipeError
from offaxis.recipe import Recipe, RunSource, UpdateSource
from offaxis.runs import RunFolder

FindRun = Callable[[Recipe], RunFolder]
"""Where the finished run of a recipe is."""


class FoundUpdate(NamedTuple):
    """An update on disk: the folders of its two ends."""

    checkpoint: Path
    anchor: Path

    def of(self, name: str, shape: tuple[int, ...]) -> Float64[Tensor, "m n"]:
        """The update of one matrix.

        Raises:
            CheckpointError: If an end has no such matrix of that shape.
        """
        return self.end(self.checkpoint, name, shape) - self.end(self.anchor, name, shape)

    @staticmethod
    def end(folder: Path, name: str, shape: tuple[int, ...]) -> Float64[Tensor, "*shape"]:
        """One weight of one end."""
        held = SafetensorsFolder(folder)
        info = held.tensors().get(name)
        if info is None or info.shape != shape:
            raise CheckpointError(
                f"tensor {name!r} in {folder}",
                expected=f"shape {list(shape)}, as in the model to be trained",
                found="no such tensor" if info is None else f"shape {list(info.shape)}",
                do="name a checkpoint of the same architecture, or leave it out by `matrices`",
            )
        return held.read(name).double()


def find_update(source: UpdateSource, find_run: FindRun) -> FoundUpdate:
    """Find the two ends of an update.

    Raises:
        RecipeError: If the run ends before the step that is asked for.
    """
    if source.path is not None:
        checkpoint = Path(source.path)
        return FoundUpdate(checkpoint, Path(source.anchor or checkpoint.parent / "checkpoint-0"))
    assert source.recipe is not None
    folder = find_run(source.recipe)
    steps = [step for step in folder.steps() if step > 0]
    wanted = float(source.step or (source.fraction or 1.0) * steps[-1])
    # A product of decimals may be an ulp above the whole number that was meant.
    later = [step for step in steps if step >= wanted * (1 - 1e-12)]
    if not later:
        raise RecipeError(
            f"run {source.recipe.run_name}",
            expected=f"a checkpoint at or after step {source.step}",
            found=f"the last one at step {steps[-1]}",
            do="lower `step`",
        )
    return FoundUpdate(folder.checkpoint(later[0]), folder.checkpoint(0))


def find_norms(source: RunSource, find_run: FindRun, num_steps: int) -> list[float]:
    """Return the Frobenius norm of another run's update after each of its first steps.

    Raises:
        CheckpointError: If its log does not say it.
    """
    if source.recipe is not None:
        folder = find_run(source.recipe)
    else:
        folder = RunFolder(Path(source.path or ""))
    logged = {line["step"]: line.get("update_norm") for line in folder.log()}
    norms = [logged.get(step) for step in range(1, num_steps + 1)]
    found = [norm for norm in norms if isinstance(norm, float | int)]
    if len(found) < num_steps:
        raise CheckpointError(
            str(folder.log_path),
            expected=f"`update_norm` at each of {num_steps} steps",
            found=f"it at {len(found)} of them" if logged else "no log",
            do="take a run of at least as many steps, or lower steps.max",
        )
    return found
