"""One model judged: what it solves of fixed problems, and how far it is from its anchor."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from offaxis.recipe import Evaluation
from offaxis.tasks.base import Task
from offaxis.training.evaluation import metrics
from offaxis.training.evaluation.metrics import Estimate, Metric
from offaxis.training.evaluation.ruler import StartSamples
from offaxis.training.evaluation.solving import Outcomes, outcomes

FORWARD_KL = "forward_kl_nats"

_SOLVED = ("accuracy", "avg@", "pass@")

_BOOTSTRAP = "bootstrap over problems, a point where all agree"


def judge(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    evaluation: Evaluation,
) -> list[Metric]:
    """Accuracy, and avg@n and pass@k where the recipe asks for them.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        task: What it is judged on.
        evaluation: How: numbers of problems, of completions, temperature, seed.
    """
    problems = {"num_problems": evaluation.problems, "seed": evaluation.seed}
    found = [_accuracy(outcomes(model, tokenizer, task, **problems))]
    if evaluation.k:
        sampled = outcomes(
            model,
            tokenizer,
            task,
            **problems,
            temperature=evaluation.temperature,
            per_problem=evaluation.completions,
        )
        found += _of_samples(sampled, evaluation)
    return found


def distance(model: PreTrainedModel, evaluation: Evaluation, ruler: StartSamples) -> Metric:
    """The forward KL to the anchor, with its interval over samples.

    It is the quantity that predicts what fine-tuning on a task forgets elsewhere.

    Args:
        model: The model.
        evaluation: The settings that the samples were drawn with.
        ruler: The samples of the anchor.

    Returns:
        The metric; its value is not finite where the model's logits are not.

    Source:
        Shenfeld et al. 2025, arXiv:2509.04259.
    """
    nats_B, tokens_B = (t.double().cpu().numpy() for t in ruler.distance(model))
    estimate = metrics.pooled_mean(nats_B, tokens_B, evaluation.seed)
    return Metric(
        FORWARD_KL,
        *estimate,
        len(nats_B),
        0,
        f"KL(anchor || model) in nats, mean over the tokens of {len(nats_B)} samples of the anchor "
        "at temperature 1 on held-out problems; bootstrap over samples",
    )


def solved_in(line: Mapping[str, Any]) -> dict[str, float | None]:
    """What a line of the training log says of `judge`; empty where nothing was judged."""
    return {name: value for name, value in line.items() if name.startswith(_SOLVED)}


def logged(found: Sequence[Metric]) -> dict[str, float | None]:
    """The metrics as a line of the training log: each by its name, then the ends of its interval.

    What could not be scored is counted where there is any; a metric over nothing is None.
    """
    line: dict[str, float | None] = {}
    for metric in found:
        line |= {
            metric.name: metric.value,
            f"{metric.name}_low": metric.low,
            f"{metric.name}_high": metric.high,
        }
        if metric.unscorable:
            line[f"{metric.name}_unscorable"] = metric.unscorable
    return line


def _accuracy(found: Outcomes) -> Metric:
    scored, solved = int(found.scored_P.sum()), int(found.solved_P.sum())
    return _metric(
        "accuracy",
        metrics.proportion(solved, scored) if scored else None,
        scored,
        found.unscorable,
        "fraction of held-out problems solved by the greedy completion; Wilson interval",
    )


def _of_samples(found: Outcomes, evaluation: Evaluation) -> list[Metric]:
    """avg@n over problems with a score, pass@k over problems with at least k of them."""
    k, n, seed = evaluation.k, evaluation.completions, evaluation.seed
    is_scored = found.scored_P > 0
    averages = found.solved_P[is_scored] / found.scored_P[is_scored]
    has_k = found.scored_P >= k
    passes = metrics.pass_at_k(found.scored_P[has_k], found.solved_P[has_k], k)
    how = f"{n} completions of each problem at temperature {evaluation.temperature:g}"
    return [
        _metric(
            f"avg@{n}",
            metrics.mean(averages, seed) if len(averages) else None,
            len(averages),
            found.unscorable,
            f"mean over problems of the fraction solved, {how}; {_BOOTSTRAP}",
        ),
        _metric(
            f"pass@{k}",
            metrics.mean(passes, seed) if len(passes) else None,
            len(passes),
            found.unscorable,
            f"mean over problems of 1 - C(n-c, {k}) / C(n, {k}), {how}; {_BOOTSTRAP}",
        ),
    ]


def _metric(
    name: str, estimate: Estimate | None, count: int, unscorable: int, definition: str
) -> Metric:
    value, low, high = estimate or (None, None, None)
    return Metric(name, value, low, high, count, unscorable, definition)
