"""A run in a two-sided or right-sided subspace as the LoRA adapter that it is."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from safetensors.torch import save_file
from torch import Tensor

from offaxis.errors import CheckpointError, ResultsError
from offaxis.files import write_atomically
from offaxis.linalg.confinement import Subspace, core_of
from offaxis.recipe import Subspace as SubspaceChoice
from offaxis.recipe import load_recipe
from offaxis.runs import RunFolder
from offaxis.training.constraints.bases import read_bases
from offaxis.training.constraints.sources import FoundUpdate

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

# Forms whose update is a product of rank r, whatever the optimizer did.
_EXACT = ("core", "right", "project")


def export_adapter(run: Path, out: Path, checkpoint: int | None = None) -> dict[str, Any]:
    """Write a checkpoint of a confined run as a LoRA adapter on the run's start checkpoint.

    The update U M V' is the product of A = V' and B = U M, at alpha = r (a scale of 1); one
    constrained on the right alone, that of A = V' and B. Nothing is approximated: the model with
    its adapter equals the run's to the rounding of float32.

    Args:
        run: The run folder.
        out: The folder of the adapter, in PEFT's layout; it must not exist.
        checkpoint: The step; the last by default.

    Returns:
        The folder, the step, the rank and the number of matrices.

    Raises:
        CheckpointError: If the run is not one whose update an adapter can be, or has no such
            checkpoint.
        ResultsError: If `out` exists or cannot be written.
    """
    folder = RunFolder(run)
    choice = _exportable(folder)
    steps = folder.steps()
    step = steps[-1] if checkpoint is None and steps else checkpoint
    if step not in steps or 0 not in steps:
        raise CheckpointError(
            str(run),
            expected=f"checkpoint-0 and checkpoint-{step}",
            found=f"checkpoints {', '.join(map(str, steps)) or 'none'}",
            do="name a step that was saved, with --checkpoint",
        )
    if out.exists():
        raise ResultsError(
            str(out),
            expected="no such folder yet",
            found="something there",
            do="choose another --out, or remove it",
        )
    bases = read_bases(folder.root)
    update = FoundUpdate(folder.checkpoint(step), folder.checkpoint(0))
    tensors: dict[str, Tensor] = {}
    for name, basis in bases.items():
        module = f"base_model.model.{name.removesuffix('.weight')}"
        D = update.of(name, (len(basis.U), len(basis.V)))
        tensors[f"{module}.lora_A.weight"] = basis.V.T.contiguous()
        tensors[f"{module}.lora_B.weight"] = _left_factor(D, basis, choice.is_two_sided)
    modules = [name.removesuffix(".weight") for name in bases]
    config = _config(choice.rank, modules, folder.checkpoint(0).resolve())
    _write(out, config, tensors)
    return {"adapter": str(out), "step": step, "rank": choice.rank, "matrices": len(bases)}


def _left_factor(D: Tensor, basis: Subspace, is_two_sided: bool) -> Float32[Tensor, "m r"]:
    """U M, or B: the update's coordinates along V, in float64 until the end."""
    U, V = basis.U.double(), basis.V.double()
    B = U @ core_of(D, U, V) if is_two_sided else D @ V
    return B.float().contiguous()


def _exportable(folder: RunFolder) -> SubspaceChoice:
    """The subspace of a run that an adapter can stand for."""
    recipe = load_recipe(folder.recipe_path)
    choice, weights = recipe.subspace, recipe.precision.weights
    found = "no [subspace]"
    if choice is not None:
        is_product = choice.form in _EXACT and weights == "float32"
        if is_product and choice.frozen == "others":
            return choice
        found = f"form {choice.form!r}, frozen {choice.frozen!r}, weights {weights!r}"
    raise CheckpointError(
        str(folder.root),
        expected=f"form {', '.join(_EXACT)}, everything else frozen, float32 weights",
        found=found,
        do="train with one of these forms: the update of this run is no product of rank r",
    )


def _config(rank: int, modules: list[str], start: Path) -> dict[str, Any]:
    """What PEFT reads beside the weights."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(start),
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": sorted(modules),
    }


def _write(out: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """Write both files, the folder whole or not at all."""

    def write(temporary: Path) -> None:
        try:
            temporary.mkdir()
            text = json.dumps(config, indent=2, sort_keys=True) + "\n"
            (temporary / CONFIG_FILE).write_text(text, "utf-8")
            save_file(tensors, temporary / WEIGHTS_FILE, metadata={"format": "pt"})
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    write_atomically(out, write)
