"""The bridge to public benchmarks: EleutherAI's lm-eval harness on the model in hand."""

import logging
import math
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from scipy.special import ndtri
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from offaxis.catalog import suggestion
from offaxis.errors import UsageError, require
from offaxis.training.evaluation.metrics import CONFIDENCE, Metric

# Requests of one forward pass.
_BATCH = 8


class Harness(NamedTuple):
    """What is asked of lm-eval.

    Attributes:
        tasks: Names of its tasks, or of those under `include_path`.
        limit: Documents of each task; None takes all.
        include_path: A folder of task YAML files of one's own.
    """

    tasks: tuple[str, ...]
    limit: int | None = None
    include_path: Path | None = None


def check(harness: Harness) -> Any:  # noqa: ANN401 - lm-eval has no types
    """The harness's index of tasks, once everything that was asked is known to be there.

    Raises:
        UsageError: If lm-eval is not installed, or a folder or a task is not there.
    """
    require("lm_eval", "evaluate", "--harness")
    if harness.limit is not None and harness.limit < 1:
        raise UsageError(
            "--limit",
            expected="at least 1 document",
            found=str(harness.limit),
            do="leave it out for all",
        )
    from lm_eval.tasks import TaskManager  # noqa: PLC0415 - an extra

    folder = harness.include_path
    if folder is not None:
        if not folder.is_dir():
            raise UsageError(
                "--include-path",
                expected="a folder of task YAML files",
                found=f"no such folder: {folder}",
                do="check the path",
            )
        # The harness's own thousands of files take ten seconds to index.
        own = TaskManager(include_path=str(folder), include_defaults=False)
        if set(harness.tasks) <= set(own.all_subtasks):
            return own
    index = TaskManager(include_path=None if folder is None else str(folder))
    unknown = [task for task in harness.tasks if task not in index.all_tasks]
    if unknown:
        raise UsageError(
            "--harness",
            expected="tasks of lm-eval, or of YAML files under --include-path",
            found=unknown[0],
            do=suggestion(unknown[0], index.all_tasks),
        )
    return index


def harness_metrics(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    harness: Harness,
    index: Any,  # noqa: ANN401 - of `check`
) -> list[Metric]:
    """Every number that lm-eval gives, with its standard error as an interval.

    Args:
        model: The model, on the device it shall run on.
        tokenizer: Its tokenizer.
        harness: What to run.
        index: The index of tasks that `check` returned.

    Raises:
        UsageError: If the data of a task are not on this machine, for nothing is fetched.
    """
    # It warns that a model in hand has no settings of its own loading.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    import lm_eval  # noqa: PLC0415 - an extra
    from lm_eval.models.huggingface import HFLM  # noqa: PLC0415

    try:
        found = lm_eval.simple_evaluate(
            model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=_BATCH),
            tasks=list(harness.tasks),
            limit=harness.limit,
            task_manager=index,
            log_samples=False,
        )
    except (ConnectionError, FileNotFoundError) as error:
        raise UsageError(
            f"--harness {','.join(harness.tasks)}",
            expected="data of the tasks on this machine, in the cache of `datasets` or as files",
            found=str(error),
            do="fetch them once with HF_HUB_OFFLINE=0, or use a local task with --include-path",
        ) from error
    return [
        metric
        for task, numbers in found["results"].items()
        for metric in _metrics(task, numbers, found["n-samples"].get(task, {}))
    ]


def _metrics(task: str, numbers: dict[str, Any], documents: dict[str, int]) -> list[Metric]:
    """The numbers of one task; beside `acc,none` the harness keeps `acc_stderr,none`."""
    z = float(ndtri((1 + CONFIDENCE) / 2))
    found = []
    for key, value in numbers.items():
        name, comma, filtered = key.partition(",")
        if not comma or name.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = numbers.get(f"{name}_stderr,{filtered}")
        low = high = stderr = None
        definition = f"lm-eval {version('lm-eval')}, filter {filtered}; "
        if isinstance(error, int | float) and math.isfinite(error):
            stderr = float(error)
            low, high = value - z * stderr, value + z * stderr
            definition += f"interval: {z:.2f} of its standard errors each way"
        else:
            definition += "no standard error"
        size = documents.get("effective", 0)
        found.append(Metric(f"{task}/{name}", float(value), low, high, size, 0, definition, stderr))
    return found
