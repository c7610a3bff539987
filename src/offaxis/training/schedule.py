"""Which steps of a run leave a checkpoint, and which of these are judged."""

import numpy as np

from offaxis.recipe import Recipe


def planned_steps(recipe: Recipe) -> list[int]:
    """The steps whose weights a run keeps, ascending, the start and the last one included."""
    last, chosen = recipe.steps.max, recipe.checkpoints
    if chosen.every:
        return [*range(0, last, chosen.every), last]
    if chosen.at:
        return sorted({0, last, *(max(1, round(part * last)) for part in chosen.at)})
    return checkpoint_steps(last, chosen.count)


def checkpoint_steps(max_steps: int, count: int) -> list[int]:
    """Step 0 and log-spaced steps up to the last, `count` in all, fewer where steps are few.

    They begin at step 2: a warm-up's first step has a learning rate of zero and moves nothing.
    """
    spaced = np.geomspace(max_steps, min(2, max_steps), count - 1).round().astype(int)
    return [0, *sorted({int(step) for step in spaced})]


def evaluated_steps(steps: list[int]) -> list[int]:
    """The start and every second checkpoint counted back from the last, the first steps left out.

    A step or two from the start nothing but the noise of the evaluation could be seen.
    """
    return [0, *(step for step in sorted(steps[::-2]) if step > 2 or step == steps[-1])]
