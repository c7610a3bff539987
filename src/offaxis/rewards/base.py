"""What a reward is: a function that makes a scorer of its settings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from offaxis.tasks.base import Document


@runtime_checkable
class Scorer(Protocol):
    """Judges completions; None means that one cannot be judged, and is never counted as 0."""

    def __call__(
        self, documents: Sequence[Document], completions: Sequence[str], *, key: str
    ) -> list[float | None]:
        """The reward of each pair; whatever is drawn depends on the key alone."""
        ...


@dataclass(frozen=True)
class Reward:
    """A reward by name.

    Attributes:
        function: Settings to scorer; its keyword-only parameters are its settings.
        is_rule: Whether it tells right from wrong, so that a model can be judged by it.
        source: Where the rule is defined.
    """

    function: Callable[..., Scorer]
    is_rule: bool
    source: str

    @property
    def name(self) -> str:
        """What a recipe calls it."""
        return self.function.__name__.rstrip("_")

    @property
    def summary(self) -> str:
        """The first line of its description."""
        return (self.function.__doc__ or "").strip().splitlines()[0]

    def __call__(self, **settings: Any) -> Scorer:  # noqa: ANN401 - per reward
        """A scorer with these settings."""
        return self.function(**settings)


def reward(*, source: str, is_rule: bool = True) -> Callable[[Callable[..., Scorer]], Reward]:
    """Turn a function into a reward; nothing is registered, the catalog lists the package."""

    def wrap(function: Callable[..., Scorer]) -> Reward:
        return Reward(function, is_rule, source)

    return wrap
