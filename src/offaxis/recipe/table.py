"""What every table of a recipe is: strict, frozen, and silent about keys that came later."""

from collections.abc import Callable
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_serializer


class Table(BaseModel):
    """A table of the recipe: no unknown keys, no change after reading.

    Attributes:
        later: Keys that came after the first runs; at their defaults they are left out of the
            resolved recipe, so that the hashes of earlier runs hold.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    later: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: Callable[[Any], Any]) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        return {
            key: value
            for key, value in content.items()
            if key not in self.later or getattr(self, key) != fields[key].default
        }
