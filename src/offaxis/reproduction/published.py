"""The numbers of the paper, each with its place and how it got there."""

from pathlib import Path
from typing import Literal

from pydantic import model_validator

from offaxis.recipe.table import Table
from offaxis.report.quantities import DASH
from offaxis.reproduction.declared import read

FILE = Path(__file__).with_name("published.toml")

# What may stand after a number of each provenance.
STATUS_WORDS = {
    "published": "",
    "figure": ", read off the figure",
    "draft": ", in a draft only",
}


class PublishedNumber(Table):
    """One number, or a range where only that could be read.

    Attributes:
        id: How claims and pages name it.
        figure: The entry that it belongs to.
        what: What was measured, of what.
        arm: The arm of ours that answers to it, if there is one.
        quantity: Its quantity in the study table, if there is one.
        value: The number; else
        low: the range's lower end, or
        high: its upper end, or both.
        unit: `%`, `deg`, `points` or empty.
        place: Where it stands.
        status: Printed as a number, read off a figure, or in a commented-out draft.
    """

    id: str
    figure: str
    what: str
    arm: str = ""
    quantity: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    unit: Literal["", "%", "deg", "points"] = ""
    place: str
    status: Literal["published", "figure", "draft"] = "published"

    @model_validator(mode="after")
    def _says_something(self) -> "PublishedNumber":
        has_range = self.low is not None or self.high is not None
        if (self.value is not None) == has_range:
            raise ValueError("give either value, or low, high or both")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"low has to be below high; given: {self.low} and {self.high}")
        return self

    @property
    def text(self) -> str:
        """The number with its unit, in the digits of its source."""
        unit = {"": "", "%": " %", "deg": "°", "points": ""}[self.unit]
        if self.value is not None:
            return f"{self.value:g}{unit}"
        if self.low is None:
            return f"below {self.high:g}{unit}"
        if self.high is None:
            return f"above {self.low:g}{unit}"
        return f"{self.low:g}{DASH}{self.high:g}{unit}"

    @property
    def where(self) -> str:
        """Its place, and how it got here."""
        return f"{self.place}{STATUS_WORDS[self.status]}"


class _Numbers(Table):
    numbers: tuple[PublishedNumber, ...]

    @model_validator(mode="after")
    def _names_are_unique(self) -> "_Numbers":
        seen: set[str] = set()
        for item in self.numbers:
            if item.id in seen:
                raise ValueError(f"every id once; given twice: {item.id}")
            seen.add(item.id)
        return self


def load_published(path: Path = FILE) -> dict[str, PublishedNumber]:
    """Read the published numbers, by id.

    Raises:
        RecipeError: If the file cannot be read, or an entry is not as declared above.
    """
    return {item.id: item for item in read(_Numbers, path).numbers}
