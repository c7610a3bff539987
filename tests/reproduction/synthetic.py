"""A study that nobody trained: smooth curves of every arm that a figure draws, with their nulls."""

import numpy as np
import pyarrow as pa
import torch

from offaxis.reproduction.entries import ENTRIES, PARADIGMS
from offaxis.reproduction.extract import STUDY
from offaxis.reproduction.figures import Averages, Evidence
from offaxis.reproduction.local_masks import tiles
from offaxis.reproduction.published import load_published

_BESIDE = ("opd-keep50-ratio", "opd-from-teacher", "mixed-5-advantages", "opd-small-teacher")
ARMS = tuple(dict.fromkeys((*PARADIGMS, *ENTRIES["fig6"].headline, *_BESIDE, "sft-lr1e-4")))
STEPS = (0.2, 0.4, 0.6, 0.8, 1.0)
SIZES = {
    "sparsity": (0.6, "gate_half_ulp"),
    "update_density": (0.4, "gate_half_ulp"),
    "principal_overlap": (0.25, "gate_half_ulp"),
    "low_magnitude_overlap": (0.5, "gate_half_ulp"),
    "max_angle_right": (0.3, "sign_flip"),
    "max_angle_left": (0.3, "sign_flip"),
    "spectral_shift": (1e-3, "sign_flip"),
    "norm": (0.5, "storage_rounding"),
    "stable_rank": (12.0, "sign_flip"),
    "hill": (2.5, "sign_flip"),
    "similarity": (0.6, "random_walk"),
    "increment_similarity": (0.4, "random_walk"),
    "accuracy": (0.4, None),
    "forward_kl_nats": (0.02, None),
}


def table(draws: int = 3, arms: tuple[str, ...] = ARMS, names: tuple[str, ...] = tuple(SIZES)):
    rng = np.random.default_rng(0)
    rows = [
        row
        for draw in range(draws)
        for place, arm in enumerate(arms)
        for quantity in names
        for row in _rows(draw, arm, quantity, (1 + place / 60) * np.exp(0.05 * rng.normal()))
    ]
    return pa.Table.from_pylist(rows, schema=STUDY)


def _rows(draw, arm, quantity, level):
    size, null = SIZES[quantity]
    readings = [("linear", "stored")]
    readings += [("attention", "stored"), ("attention", "bf16")] if null != "gate_half_ulp" else []
    for matrices, precision in readings:
        row = {"draw": draw, "arm": arm, "quantity": quantity, "matrices": matrices}
        row |= {"precision": precision, "null_name": null}
        for step in STEPS:
            value = size * level * (0.5 + step / 2)
            numbers = {"value": value, "null": 1.4 * value if null else None, "progress": step}
            points = [f"step={100 * step:g}"]
            points += {0.2: ["early"], 1.0: ["end"]}.get(step, [])
            for point in points:
                yield {**row, **numbers, "point": point}
    if quantity == "accuracy" and ("-k16-" in arm or arm.endswith("-frozen")):
        kept = {"quantity": "gain_kept", "value": 0.7 * level, "null_name": None}
        yield {**row, **kept, "matrices": "linear", "precision": "stored", "point": "end"}


def matrices(draws: int = 3):
    """Curves over a rank index and over six matrices."""
    kinds = {"angles": ("U", "V"), "values": ("start", "end"), "largest": ("U", "V")}
    for draw in range(draws):
        for arm in PARADIGMS:
            for what, names in (kinds | {"shift": ("NSS",)}).items():
                for name in names:
                    for x in range(6):
                        null = 3.0 if what in ("largest", "shift") else None
                        yield {
                            "id": arm,
                            "what": what,
                            "series": name,
                            "x": x,
                            "draw": draw,
                            "tensor": f"layers.{x}.q_proj.weight",
                            "value": 1.0 + x + 0.1 * draw,
                            "null": null,
                            "null_name": null and "sign_flip",
                        }


def maps():
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(32, 48, generator=generator)
    end = start * (1 + 0.01 * torch.randn(32, 48, generator=generator).clamp(0))
    place = {"tensor": "layers.1.q_proj.weight"}
    return [{"id": arm, **place, **tile} for arm in PARADIGMS for tile in tiles(start, end)]


def evidence(study=None):
    study = table() if study is None else study
    return Evidence(Averages(study), load_published(), list(matrices()), maps())
