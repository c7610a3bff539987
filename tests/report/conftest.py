"""A results folder with planted numbers: every curve is a formula of the size of the update."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from offaxis.table import ResultsFolder

ROLES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RANDOM_WALK = 0.15


@dataclass(frozen=True)
class PlantedArm:
    """An arm whose relative norm grows as (step / steps) ** 0.6 to `norm`."""

    norm: float
    steps: int = 100
    seeds: int = 3
    anchor: str = "anchor"
    accuracy: float = 0.7
    objective: str = "any"
    files: str = "float32"
    # Factors on what the norm alone would give, by quantity.
    effects: Mapping[str, float] = field(default_factory=dict)


def demo_arms() -> dict[str, PlantedArm]:
    """The six arms of the demo; all differences come from the norm alone."""
    return {
        "sft-base": PlantedArm(0.19, 126, anchor="base", objective="sft", accuracy=0.4),
        "sft": PlantedArm(0.027, 150, objective="sft", accuracy=0.98),
        "opd": PlantedArm(0.017, 150, objective="reverse_kl", accuracy=0.72),
        "rlvr": PlantedArm(0.0117, 150, objective="grpo", accuracy=0.54),
        "rlvr-long": PlantedArm(0.0175, 400, seeds=1, objective="grpo", accuracy=0.74),
        "rlvr-random": PlantedArm(0.0105, 150, objective="grpo", accuracy=0.33),
    }


def norm_at(arm: PlantedArm, seed: int, step: int) -> float:
    return arm.norm * (1 + 0.02 * (seed - 1)) * (step / arm.steps) ** 0.6


def planted(quantity: str, norm: float, share: float) -> tuple[float | None, float | None]:
    """Value and null mean of a quantity at a norm and a share of the run."""
    sparsity = 1 / (1 + 600 * norm)
    curves: dict[str, tuple[float | None, float | None]] = {
        "sparsity": (sparsity, sparsity),
        "density": (1 - sparsity, 1 - sparsity),
        "left_mean": (1.5 * norm, 1.2 * norm),
        "right_mean": (1.6 * norm, 1.25 * norm),
        "left_max": (min(60 * norm, 1.5), min(50 * norm, 1.5)),
        "right_max": (min(60 * norm, 1.5), min(50 * norm, 1.5)),
        "gap": (0.01, None),
        "gap_ratio": (100 * norm, None),
        "spectral_shift": (0.12 * norm, 0.10 * norm),
        "principal_overlap": (0.3 * (1 - 0.5 * sparsity), 0.3 * (1 - 0.5 * sparsity)),
        "low_magnitude_overlap": (0.3 * (1 + 0.8 * sparsity), 0.3 * (1 + 0.8 * sparsity)),
        "frobenius_norm": (10 * norm, 1e-4),
        "relative_norm": (norm, 1e-5),
        "spectral_norm": (4 * norm, norm),
        "stable_rank": (5.0 + 0.5 * share, 38.0),
        "effective_rank": (20.0, 90.0),
        "spikes": (6.0, 0.05),
        "top16_energy": (0.8, 0.3),
        "hill": (3.0, 6.0),
        "right_to_final": (0.3 + 0.7 * share, RANDOM_WALK + 0.85 * share),
        "left_to_final": (0.3 + 0.7 * share, RANDOM_WALK + 0.85 * share),
        "right_increment": (0.4, 0.03),
        "left_increment": (0.4, 0.03),
        "odds_ratio": (0.9, 1.0),
        "consistency": (1.0, 1.0),
        "visible_fraction": (1.0, 1.0),
        "principal_energy": (0.02, 0.0156),
    }
    return curves[quantity]


DIAGNOSTICS = {
    "sparsity": ("v1;eta=0.001;as=stored", ["sparsity", "density"], "gate_cell_average"),
    "rotation": (
        "v1;k=16;as=stored",
        ["left_max", "left_mean", "right_max", "right_mean", "gap", "gap_ratio"],
        "sign_flip",
    ),
    "spectral_shift": ("v1;as=stored", ["spectral_shift"], "sign_flip"),
    "masks": (
        "v1;rank=16;alpha=0.3;as=stored",
        ["principal_overlap", "low_magnitude_overlap"],
        "gate_cell_average",
    ),
    "masks/odds": ("v1;rank=16;alpha=0.3;as=stored", ["odds_ratio"], "independence"),
    "gate/law": ("v1;eta=0.001;as=stored", ["consistency"], "open_gates"),
    "gate": ("v1;eta=0.001;as=stored", ["visible_fraction"], "everything_visible"),
    "principal_energy": ("v1;k=16;as=stored", ["principal_energy"], "sign_flip"),
    "norm": (
        "v1;as=stored",
        ["frobenius_norm", "relative_norm", "spectral_norm"],
        "storage_rounding",
    ),
    "rank": (
        "v1;margin=1.02;as=stored",
        ["stable_rank", "effective_rank", "spikes", "top16_energy"],
        "sign_flip",
    ),
    "rank/bf16": ("v1;margin=1.02;as=bf16", ["stable_rank", "effective_rank"], "sign_flip"),
    "tail": ("v1;k=10;as=stored", ["hill"], "sign_flip"),
    "similarity": (
        "v1;K=4;final={final};as=stored",
        ["right_to_final", "left_to_final", "right_increment", "left_increment"],
        "random_walk",
    ),
    "similarity/16": (
        "v1;K=16;final={final};as=stored",
        ["right_to_final", "left_to_final", "right_increment", "left_increment"],
        "random_walk",
    ),
}


def checkpoints(steps: int, count: int) -> list[int]:
    """Log-spaced steps from 1 to the end: the start is the anchor, not a checkpoint."""
    return sorted({round(steps ** (i / (count - 1))) for i in range(count)})


def write_results(
    root: Path,
    arms: Mapping[str, PlantedArm],
    *,
    layers: int = 1,
    roles: tuple[str, ...] = ("q_proj", "down_proj"),
    count: int = 7,
    preset: str = "default",
    tensor: str = "model.layers.{layer}.{role}.weight",
    name: str = "{arm}-s{seed}",
    known_arms: bool = True,
    log: bool = True,
) -> ResultsFolder:
    """Write a results folder of these arms."""
    folder = ResultsFolder(root)
    runs = []
    matrices = [
        (layer, role, tensor.format(layer=layer, role=role))
        for layer in range(layers)
        for role in roles
    ]
    matrices.append((None, "embed_tokens", "model.embed_tokens.weight"))
    for arm_name, arm in arms.items():
        for seed in range(arm.seeds):
            run = name.format(arm=arm_name, seed=seed)
            steps = checkpoints(arm.steps, count)
            info: dict[str, Any] = {"name": run, "anchor": arm.anchor, "steps": steps}
            if known_arms:
                recipe = {"optimizer": {"lr": 5e-5}, "steps": {"max": arm.steps}}
                info |= {
                    "arm": arm_name,
                    "seed": seed,
                    "objective": arm.objective,
                    "start": arm.anchor,
                    "recipe": recipe,
                    "precision": {"weights": "float32", "checkpoints": "float32"},
                }
            runs.append(info)
            _write_run(folder, run, arm, seed, steps=steps, matrices=matrices, log=log)
    _write_manifest(folder, runs, num_matrices=len(matrices), preset=preset, known_arms=known_arms)
    return folder


def _write_manifest(folder, runs, *, num_matrices, preset, known_arms):
    folder.write_manifest(
        {
            "offaxis": "0.1.0",
            "runs": runs,
            "anchors": [{"id": "anchor", "sha256": "ab" * 32}],
            "definitions": {
                "sparsity": {"version": 1, "settings": {"eta": 0.001}, "source": "planted"}
            },
            "coverage": {"measured": num_matrices, "skipped": []},
            "versions": {"torch": "2.10.0"},
            "study": {
                "preset": preset,
                "title": "A planted study",
                "notes": ["Seeds share one base."],
            }
            if known_arms
            else None,
        }
    )


def _write_run(folder, run, arm, seed, *, steps, matrices, log):
    readings, spectra, angles, blocks = [], [], [], []
    for step in steps:
        norm, share = norm_at(arm, seed, step), step / arm.steps
        for layer, role, tensor in matrices:
            place = {"run": run, "step": step, "tensor": tensor, "view": ""}
            shape = {"layer": layer, "role": role, "rows": 128, "cols": 128, "anchor": arm.anchor}
            odd = 1e3 if role == "embed_tokens" else 1.0  # must not reach any average
            for key, (definition, quantities, null) in DIAGNOSTICS.items():
                for quantity in quantities:
                    value, null_mean = _reading(key, quantity, arm, norm, share)
                    flags = "boundary" if quantity == "right_max" else ""
                    if quantity.endswith("increment") and step == steps[0]:
                        value, null_mean, flags = None, None, "first_checkpoint"
                    if value is not None:
                        value *= odd
                    readings.append(
                        place
                        | shape
                        | {
                            "diagnostic": key.split("/")[0],
                            "quantity": quantity,
                            "definition": definition.format(final=arm.steps),
                            "value": value,
                            "unit": "",
                            "null": None if null_mean is None else null,
                            "null_mean": null_mean,
                            "null_sd": None if null_mean is None else abs(null_mean) * 0.01,
                            "flags": flags,
                            "method": "exact",
                            "stored_precision": "bfloat16"
                            if "as=bf16" in definition
                            else arm.files,
                            "master_precision": "float32",
                            "compute_precision": "float64",
                        }
                    )
            curve = place | {"precision": "stored"}
            fall = [index**-0.7 for index in range(1, 65)]
            delta = [norm * value for value in fall]
            spectra.append(curve | {"matrix": "delta", "singular_values": delta})
            anchor = [3 * value for value in fall]
            spectra.append(curve | {"matrix": "anchor", "singular_values": anchor})
            turned = [norm * math.sqrt(index) for index in range(1, 17)]
            angles.append(curve | {"side": "right", "angles": turned})
            inside = [(index / 128) ** 1.8 for index in range(1, 129)]
            isotropic = [(index / 128) ** 2 for index in range(1, 129)]
            blocks.append(curve | {"inside": inside, "isotropic": isotropic})
    folder.write("readings", run, readings)
    folder.write("spectra", run, spectra)
    folder.write("angles", run, angles)
    folder.write("blocks", run, blocks)
    if log:
        folder.write("training", run, _training(run, arm, steps))


def _reading(key, quantity, arm, norm, share):
    value, null = planted(quantity, norm, share)
    if key == "rank/bf16" and value is not None:
        value *= 1 + 0.002 / norm
    if value is not None:
        value *= arm.effects.get(quantity, 1.0)
    return value, null


def _training(run, arm, steps):
    rows = []
    logged = [0, *steps]  # training logs its start, too
    for step in logged[::2] + logged[-1:]:
        share = math.sqrt(step / arm.steps)
        rows.append((step, "accuracy", 0.3 + (arm.accuracy - 0.3) * share))
        rows.append((step, "forward_kl_nats", 0.5 * share))
    rows.extend((step, "loss", 1.0 / (1 + step)) for step in steps)
    return [{"run": run, "step": s, "quantity": q, "value": v} for s, q, v in rows]


@pytest.fixture
def planted_arm():
    return PlantedArm


@pytest.fixture
def arms():
    return demo_arms()


@pytest.fixture
def results():
    return write_results


@pytest.fixture
def verdict_of(tmp_path):
    """Judge one claim on planted arms."""
    from offaxis.report.claims import CLAIMS, judge_one
    from offaxis.report.study import load_study

    def judge(key, planted_arms):
        folder = write_results(tmp_path / "results", planted_arms, roles=("q_proj",), count=5)
        study = load_study(folder)
        return judge_one(study, next(claim for claim in CLAIMS if claim.key == key))

    return judge


@pytest.fixture(scope="session")
def demo_results(tmp_path_factory):
    """The six arms of the demo, whose differences come from their norms alone."""
    return write_results(tmp_path_factory.mktemp("demo"), demo_arms()).root
