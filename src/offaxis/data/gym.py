"""Procedural tasks of reasoning-gym as records: no last item, and a verifier of their own."""

from functools import lru_cache
from random import Random
from typing import Any

from offaxis.data.base import Record, is_held_out
from offaxis.errors import RecipeError, require

# Items are numbered by 30 bits: generators add the number to a seed, and NumPy takes 32 bits.
_ITEMS = 2**30
# Far beyond what a fraction above a thousandth needs.
_ATTEMPTS = 20_000


class GymRecords:
    """Items of one generator, numbered by a key.

    Args:
        name: The generator, such as `chain_sum`.
        settings: Its own settings.
        threshold: The score from which a completion counts as right. Scores of reasoning-gym lie
            in [0, 1] and hold partial credit: a wrong `countdown` earns 0.01, and an answer that
            contains the right one earns their ratio of lengths.
        held_out: The fraction of questions, by their text, that is kept for evaluation.

    Raises:
        UsageError: If reasoning-gym is not installed.
        RecipeError: If it has no such generator, or the generator refuses its settings.

    Source:
        Stojanovski et al. 2025, arXiv:2505.24760; github.com/open-thought/reasoning-gym.
    """

    num_problems = None

    def __init__(
        self, name: str, settings: dict[str, Any], *, threshold: float, held_out: float
    ) -> None:
        require("reasoning_gym", "gym", "data.gym")
        from reasoning_gym import create_dataset  # noqa: PLC0415 - an extra
        from reasoning_gym.factory import DATASETS  # noqa: PLC0415

        if name not in DATASETS:
            raise RecipeError(
                "data.gym",
                expected=f"a generator of reasoning-gym: {', '.join(sorted(DATASETS))}",
                found=repr(name),
                do="correct the name",
            )
        try:
            self._items = create_dataset(name, seed=0, size=_ITEMS, **settings)
        except (TypeError, ValueError, AssertionError) as error:
            raise RecipeError(
                "data.gym_settings",
                expected=f"settings of reasoning-gym's {name}",
                found=str(error) or repr(settings),
                do="correct the setting",
            ) from error
        self.name = name
        # An item is made when it is drawn and again when each of its completions is judged.
        self._item = lru_cache(maxsize=4096)(self._items.__getitem__)
        self._threshold, self._fraction = threshold, held_out

    def training(self, *, seed: int, index: int, attempt: int = 0) -> Record:
        """An item of training."""
        return self._drawn(f"train/{seed}/{index}/{attempt}", is_out=False)

    def held_out(self, *, seed: int, index: int, attempt: int = 0) -> Record:
        """An item that is never trained on."""
        return self._drawn(f"evaluation/{seed}/{index}/{attempt}", is_out=True)

    def judge(self, item: int, completion: str) -> float | None:
        """One where the generator's score reaches the threshold, else zero.

        Judged is what stands in the last `<answer>` tags, else the whole completion.
        """
        from reasoning_gym.utils import extract_answer  # noqa: PLC0415 - an extra

        answer = extract_answer(completion) or completion.strip()
        score = self._items.score_answer(answer, self._item(item))
        return float(score >= self._threshold)

    def provenance(self) -> dict[str, Any]:
        """The generator and its settings, defaults included."""
        settings = {key: repr(value) for key, value in vars(self._items.config).items()}
        return {"gym": self.name, "settings": settings}

    def _drawn(self, key: str, *, is_out: bool) -> Record:
        """The first item of a keyed sequence that lies on the side asked for."""
        random = Random(f"{self.name}/{key}")
        for _ in range(_ATTEMPTS):
            number = random.randrange(_ITEMS)
            item = self._item(number)
            question = str(item["question"])
            if is_held_out(question, self._fraction) is is_out:
                return Record(question, str(item["answer"]), str(item["answer"]), number, self.name)
        raise RecipeError(
            "data.held_out",
            expected=f"questions of {self.name} on both sides",
            found=f"none in {_ATTEMPTS} draws",
            do="give the generator settings with more questions, or another fraction",
        )
