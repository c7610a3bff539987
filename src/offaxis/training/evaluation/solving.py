"""Held-out problems, completed and scored.

Shapes: P problems.
"""

# ruff: noqa: N815 - shapes end the names of fields, too

from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from offaxis.tasks.base import Task
from offaxis.training.rollouts import complete

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
        num_problems: How many, if there are so many.
        seed: The key of the problems and of the sampling.
        temperature: 0 is greedy.
        per_problem: Completions of each problem.
    """
    num_problems = at_most(num_problems, task)
    scores: list[float | None] = []
    step = max(1, _ROWS // per_problem)
    for begin in range(0, num_problems, step):
        indices = range(begin, min(begin + step, num_problems))
        problems = [task.problem(seed=seed, index=index) for index in indices]
        completions = complete(
            model,
            tokenizer,
            [problem.prompt for problem in problems],
            max_tokens=task.answer_length,
            temperature=temperature,
            per_prompt=per_problem,
            keys=[("evaluation", seed, index) for index in indices],
        )
        asked = [problem for problem in problems for _ in range(per_problem)]
        scores += task.scores(asked, completions.texts)
    groups = [scores[i : i + per_problem] for i in range(0, len(scores), per_problem)]
    scored = [[score for score in group if score is not None] for group in groups]
    return Outcomes(
        np.array([len(group) for group in scored]),
        np.array([sum(score >= 1 for score in group) for group in scored]),
        scores.count(None),
    )


def accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    *,
    num_problems: int,
    seed: int,
) -> float | None:
    """The fraction of the first held-out problems that greedy completions solve.

    Completions that cannot be scored are left out; None where none can be.
    """
    found = outcomes(model, tokenizer, task, num_problems=num_problems, seed=seed)
    scored = int(found.scored_P.sum())
    return int(found.solved_P.sum()) / scored if scored else None


def at_most(count: int, task: Task) -> int:
    """As many problems as asked for, each no more than once."""
    return count if task.num_problems is None else min(count, task.num_problems)
