"""A study at test size; as a process of its own `python micro.py OUT`, to be killed."""

import io
import sys
from pathlib import Path

from rich.console import Console

from offaxis.reproduction import entries
from offaxis.reproduction.command import reproduce

_NARROW = (
    "start.config.hidden_size=16",
    "start.config.intermediate_size=32",
    "start.config.num_hidden_layers=1",
    "start.config.num_attention_heads=2",
    "start.config.num_key_value_heads=1",
    "start.config.head_dim=8",
)
CHANGES = {
    "*": (
        "steps.max=4",
        "steps.stop_at_accuracy=0.0",
        "checkpoints.count=3",
        "evaluation.problems=8",
        "evaluation.samples=4",
    ),
    "base": (*_NARROW, "data.mixture={facts = 8}"),
    "teacher": (*_NARROW, "data.mixture={facts = 8}", "steps.stop_at_accuracy=0.99"),
    "anchor": ("data.mixture={answers = 4}",),
    "sft": ("data.mixture={answers = 4}",),
    "opd": ("data.prompts=2", "rollouts.per_prompt=2"),
}
ENTRY = entries.Entry("fig4", "Micro", ("norm",), further={"sft": 2, "opd": 2}, probes=("edited",))


def study(out: Path, **changes: tuple[str, ...]) -> dict:
    """Two draws of two arms."""
    entries.ENTRIES["fig4"] = ENTRY
    quiet = Console(file=io.StringIO(), width=200)
    return reproduce(["fig4"], out=out, workers=1, changes=CHANGES | changes, console=quiet)


if __name__ == "__main__":
    study(Path(sys.argv[1]))
