"""Held-out problems, completed and scored.

Shapes: P problems.
"""

# ruff: noqa: N815 - shapes end the names of fields, too

from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from offaxis.errors import NumericsError
from offaxis.tasks.base import Document, Task
from offaxis.training.rollouts import complete, keyed_randomness

# Rows of one forward pass: few enough that a small model's activations stay in the caches.
_ROWS = 256


class Outcomes(NamedTuple):
    """What became of the completions of each problem.

    Attributes:
        scored_P: Completions that could be scored.
        solved_P: Those of them with full score.
        unscorable: Completions of all problems that could not be scored.
    """

    scored_P: Int[np.ndarray, "P"]
    solved_P: Int[np.ndarray, "P"]
    unscorable: int


def outcomes(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    *,
    num_problems: int,
    seed: int,
    temperature: float = 0.0,
    per_problem: int = 1,
) -> Outcomes:
    """Complete the first held-out problems and score every completion, in float32.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        task: The task whose problems are solved.
        num_problems: How many.
        seed: The key of the problems and of the sampling.
        temperature: 0 is greedy.
        per_problem: Completions of each problem.
    """
    scores: list[list[float | None]] = []
    step = max(1, _ROWS // per_problem)
    for begin in range(0, num_problems, step):
        indices = range(begin, min(begin + step, num_problems))
        problems = [task.problem(seed=seed, index=index) for index in indices]
        with keyed_randomness("evaluation", seed, begin):
            completions = complete(
                model,
                tokenizer,
                [problem.prompt for problem in problems],
                max_tokens=task.answer_length,
                temperature=temperature,
                per_prompt=per_problem,
            )
        texts = iter(completions.texts)
        scores += [[_score(task, p, next(texts)) for _ in range(per_problem)] for p in problems]
    scored = [[score for score in row if score is not None] for row in scores]
    return Outcomes(
        np.array([len(row) for row in scored]),
        np.array([sum(score >= 1 for score in row) for row in scored]),
        num_problems * per_problem - sum(map(len, scored)),
    )


def accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    *,
    num_problems: int,
    seed: int,
) -> float:
    """The fraction of the first held-out problems that greedy completions solve.

    Raises:
        NumericsError: If no completion could be scored, so that there is no fraction.
    """
    found = outcomes(model, tokenizer, task, num_problems=num_problems, seed=seed)
    if not found.scored_P.sum():
        raise unscored(task, "accuracy")
    return int(found.solved_P.sum()) / int(found.scored_P.sum())


def unscored(task: Task, metric: str) -> NumericsError:
    """The error of a metric over nothing."""
    return NumericsError(
        f"evaluation, task {task.name}, {metric}",
        expected="problems with completions that can be scored",
        found="none",
        do="check the answers of the task's problems and its scoring",
    )


def _score(task: Task, problem: Document, completion: str) -> float | None:
    """The score of a completion, 1 for a solution; None where it cannot be scored."""
    return float(task.verify(problem.prompt, completion))
