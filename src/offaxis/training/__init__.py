"""Training: the only place that knows transformers. A recipe becomes a run folder."""

from offaxis.training import _offline  # noqa: F401 - before the Hugging Face libraries
from offaxis.training.command import train_command
from offaxis.training.export import export_adapter
from offaxis.training.plan import Stage, plan
from offaxis.training.recorder import Observer, Progress
from offaxis.training.run import model_folder, run_folder, train, train_model

__all__ = [
    "Observer",
    "Progress",
    "Stage",
    "export_adapter",
    "model_folder",
    "plan",
    "run_folder",
    "train",
    "train_command",
    "train_model",
]
