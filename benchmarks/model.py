"""Measure a whole pair of the shape of Qwen3-0.6B, made here: minutes and memory of both tiers.

python benchmarks/model.py
"""

import json
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from pairs import save_model

_LAYERS, _HIDDEN, _QUERIES, _KEYS, _INNER, _VOCABULARY = 28, 1024, 2048, 1024, 3072, 151936


def shapes() -> dict[str, tuple[int, ...]]:
    """Every tensor of the model, head and embedding tied."""
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (_VOCABULARY, _HIDDEN)}
    for i in range(_LAYERS):
        attention, mlp = f"model.layers.{i}.self_attn", f"model.layers.{i}.mlp"
        found |= {
            f"{attention}.q_proj.weight": (_QUERIES, _HIDDEN),
            f"{attention}.k_proj.weight": (_KEYS, _HIDDEN),
            f"{attention}.v_proj.weight": (_KEYS, _HIDDEN),
            f"{attention}.o_proj.weight": (_HIDDEN, _QUERIES),
            f"{attention}.q_norm.weight": (128,),
            f"{attention}.k_norm.weight": (128,),
            f"{mlp}.gate_proj.weight": (_INNER, _HIDDEN),
            f"{mlp}.up_proj.weight": (_INNER, _HIDDEN),
            f"{mlp}.down_proj.weight": (_HIDDEN, _INNER),
            f"model.layers.{i}.input_layernorm.weight": (_HIDDEN,),
            f"model.layers.{i}.post_attention_layernorm.weight": (_HIDDEN,),
        }
    return found | {"model.norm.weight": (_HIDDEN,)}


def measured(anchor: Path, checkpoint: Path, out: Path, tier: str) -> dict[str, object]:
    """What `offaxis measure` takes: wall and CPU minutes, and the peak of its largest process."""
    command = [sys.executable, "-m", "offaxis", "measure", str(anchor), str(checkpoint)]
    options = ["--out", str(out), "--tier", tier]
    begun = time.monotonic()
    process = os.posix_spawn(sys.executable, [*command, *options], os.environ)
    _, status, used = os.wait4(process, 0)
    if status:
        raise SystemExit(f"offaxis measure --tier {tier} ended with status {status}")
    return {
        "tier": tier,
        "minutes": round((time.monotonic() - begun) / 60, 2),
        "cpu_minutes": round((used.ru_utime + used.ru_stime) / 60, 2),
        "peak_GB": round(used.ru_maxrss * 1024 / 1e9, 2),
        "cores": len(os.sched_getaffinity(0)),
    }


def main() -> None:
    with TemporaryDirectory() as folder:
        anchor, checkpoint = save_model(Path(folder), shapes(), 1)
        for tier in ("fast", "exact"):
            print(json.dumps(measured(anchor, checkpoint, Path(folder, tier), tier)), flush=True)


if __name__ == "__main__":
    main()
