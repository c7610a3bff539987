"""Where runs and the models they build on are, and whether what is there is finished.

OUT/models/<arm>-<hash>/    what runs start from or learn from, cached by the hash of its recipe
OUT/runs/<name>/            the runs themselves
"""

import tempfile
from contextlib import AbstractContextManager
from pathlib import Path
from types import NoneType

from offaxis.checkpoints.hub import HubId, fetch
from offaxis.errors import RecipeError, ResultsError
from offaxis.files import exclusively
from offaxis.recipe import ModelSource, Recipe, recipe_hash
from offaxis.runs import RunFolder

# What a manifest that says finished is read for, with the types it has to have.
_PROMISED: dict[str, type | tuple[type, ...]] = {
    "finished": bool,
    "recipe_hash": str,
    "steps": list,
    "accuracy_start": (float, int, NoneType),
    "accuracy_final": (float, int, NoneType),
}


def run_folder(recipe: Recipe, out: Path) -> RunFolder:
    """Where the run of a recipe goes."""
    return RunFolder(out / "runs" / recipe.run_name)


def model_folder(recipe: Recipe, out: Path) -> RunFolder:
    """Where a prerequisite goes: its name and the first digits of its hash."""
    return RunFolder(out / "models" / f"{recipe.name or recipe.arm}-{recipe_hash(recipe)[:8]}")


def trained_folder(recipe: Recipe, out: Path) -> RunFolder:
    """Where a prerequisite is: among the runs if it was finished there, else among the models."""
    run = run_folder(recipe, out)
    manifest = run.manifest() or {}
    is_there = (
        manifest.get("finished") is True
        and manifest.get("recipe_hash") == recipe_hash(recipe)
        and manifest.get("steps") == run.steps()
    )
    return run if is_there else model_folder(recipe, out)


def trained_checkpoint(source: ModelSource, out: Path) -> Path | None:
    """The last checkpoint of a source's run, the folder of a model of the hub, else None.

    Raises:
        CheckpointError: If the hub cannot be reached, or does not have it.
    """
    if source.hub is not None:
        named = HubId.read(source.hub)
        assert named is not None  # the recipe was refused otherwise
        return fetch(named, with_tokenizer=True)
    if source.recipe is None:
        return None
    folder = trained_folder(source.recipe, out)
    return folder.checkpoint(folder.steps()[-1])


def check_writable(out: Path) -> None:
    """Make the folders of runs and models, and write a byte in each before hours depend on it.

    Raises:
        ResultsError: If that cannot be done.
    """
    for folder in (out / "runs", out / "models"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"0")
        except OSError as error:
            raise _unwritable(folder, error) from error


def is_finished(folder: RunFolder, recipe: Recipe) -> bool:
    """Whether a folder holds this recipe's finished run, all its checkpoints included.

    Raises:
        RecipeError: If it holds a finished run of another recipe, or no run at all.
    """
    if not folder.root.exists():
        return False
    if not folder.root.is_dir():
        raise _occupied(folder, "a file")
    manifest = folder.manifest()
    # Hidden files are what a killed process may have left before its first manifest was whole.
    if manifest is None and any(path.name[0] != "." for path in folder.root.iterdir()):
        raise _occupied(folder, "files that no run of offaxis has left")
    if manifest is None:
        return False
    wrong = [
        key
        for key, kind in _PROMISED.items()
        if key not in manifest or not isinstance(manifest[key], kind)
    ]
    if "finished" not in wrong and not manifest["finished"]:
        return False
    if wrong:
        raise _occupied(folder, f"a manifest without a proper {' and '.join(wrong)}")
    if manifest["recipe_hash"] != recipe_hash(recipe):
        raise _occupied(folder, "a finished run of another recipe")
    return bool(manifest["steps"] == folder.steps())


def alone(folder: RunFolder) -> AbstractContextManager[None]:
    """Hold a lock on a folder, so that two processes never train into it; a crash frees it."""
    return exclusively(folder.root.with_name(f".{folder.root.name}.lock"))


def _unwritable(path: Path, error: OSError) -> ResultsError:
    return ResultsError(
        str(path),
        expected="a folder that can be written",
        found=error.strerror or str(error),
        do="choose another output folder, or correct its permissions",
    )


def _occupied(folder: RunFolder, found: str) -> RecipeError:
    return RecipeError(
        str(folder.root),
        expected="no folder, or a run of this very recipe",
        found=found,
        do="choose another --out or --set name=..., or remove the folder",
    )
