"""The control: a reward that knows nothing of the completion."""

from collections.abc import Sequence
from random import Random

from offaxis.rewards.base import Scorer, reward
from offaxis.tasks.base import Document


@reward(is_rule=False, source="Shao et al. 2025, arXiv:2506.10947 (spurious rewards)")
def random() -> Scorer:
    """A fair coin for every completion, keyed by seed, step and prompt, rollout by rollout."""

    def tossed(
        documents: Sequence[Document], completions: Sequence[str], *, key: str
    ) -> list[float | None]:
        coins: dict[str, Random] = {}
        tosses: list[float | None] = []
        for document in documents:
            coin = coins.setdefault(document.prompt, Random(f"{document.prompt}/{key}"))
            tosses.append(float(coin.random() < 0.5))
        return tosses

    return tossed
