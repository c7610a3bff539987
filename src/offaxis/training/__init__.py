"""Training: the only place that knows transformers. A recipe becomes a run folder."""

from offaxis.training import _offline  # noqa: F401 - before the Hugging Face libraries
from offaxis.training.command import train_command
from offaxis.training.evaluation.command import evaluate_command
from offaxis.training.evaluation.harness import Harness
from offaxis.training.evaluation.results import as_table
from offaxis.training.evaluation.subjects import Choices
from offaxis.training.export import export_adapter
from offaxis.training.folders import model_folder, run_folder
from offaxis.training.plan import Stage, plan
from offaxis.training.recorder import Observer, Progress
from offaxis.training.run import train, train_model

__all__ = [
    "Choices",
    "Harness",
    "Observer",
    "Progress",
    "Stage",
    "as_table",
    "evaluate_command",
    "export_adapter",
    "model_folder",
    "plan",
    "run_folder",
    "train",
    "train_command",
    "train_model",
]
