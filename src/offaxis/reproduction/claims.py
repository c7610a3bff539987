"""The claims of the paper, declared before the runs: what is compared, and what would explain it.

A claim is a comparison (the published one) and its controls, in the order in which they are asked.
A comparison is one or more contrasts, each a weighted sum of arms within one draw, with the region
where it has to lie. `claims.toml` holds them; `verdicts` judges them.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from offaxis.catalog import suggestion
from offaxis.recipe.refusal import refusal
from offaxis.recipe.table import Table
from offaxis.report.quantities import MINUS, TIMES
from offaxis.reproduction.declared import read
from offaxis.reproduction.published import PublishedNumber, load_published

FILE = Path(__file__).with_name("claims.toml")

Direction = Literal["above", "below", "within", "beyond"]
Weights = Annotated[dict[str, float], Field(min_length=1)]


class Term(NamedTuple):
    """An arm at a point of its trajectory."""

    arm: str
    point: str

    @property
    def label(self) -> str:
        """The arm, with its point where that is not its end."""
        return self.arm if self.point == "end" else f"{self.arm} at {self.point}"


class Cell(NamedTuple):
    """Where one number stands in the study table, but for its draw."""

    arm: str
    point: str
    quantity: str
    matrices: str
    precision: str


class Comparison(Table):
    """Contrasts that all have to lie in one region.

    Attributes:
        quantity: As the study table names it.
        matrices: Over which matrices it is taken.
        precision: As float32 files show it (`stored`), or as bf16 files would.
        point: Where on its trajectory each arm is read, unless its term says otherwise.
        order: Arms whose numbers rise, each by the margin: a contrast for every two neighbours.
        contrasts: Else weights by arm, or by `arm@point`.
        of: The number itself, or how far it lies above its null (below: negative).
        null: Which null, where not the primary one.
        scale: Weighted differences, or ratios: the same of logarithms.
        baseline: What the contrast is compared with: 0 for differences, 1 for ratios by default.
        direction: `above` the baseline by the margin or more, `below` it, `within` the margin on
            both sides, or `beyond` it on either.
        margin: Least size that would change a reading: a distance, or for ratios a factor above 1.
        reason: Why this margin.
    """

    quantity: str
    matrices: Literal["linear", "attention", "mlp"] = "linear"
    precision: Literal["stored", "bf16"] = "stored"
    point: str = "end"
    order: tuple[str, ...] = ()
    contrasts: tuple[Weights, ...] = ()
    of: Literal["value", "excess"] = "value"
    null: str = ""
    scale: Literal["difference", "ratio"] = "difference"
    baseline: float | None = None
    direction: Direction
    margin: float
    reason: str = ""

    @model_validator(mode="after")
    def _is_one_region(self) -> "Comparison":
        if bool(self.order) == bool(self.contrasts):
            raise ValueError("give either order or contrasts")
        if self.order and (len(set(self.order)) < 2 or self.direction != "above"):
            raise ValueError("an order needs two arms or more, and the direction above")
        if any(0.0 in weights.values() for weights in self.contrasts):
            raise ValueError("a weight of 0 takes no part: leave the arm out")
        least = 1.0 if self.scale == "ratio" else 0.0
        has_width = self.margin > least or (self.margin == least and self.direction != "within")
        if not has_width:
            raise ValueError(f"the margin leaves no room; given: {self.margin} as a {self.scale}")
        if self.scale == "ratio" and self.baseline is not None and self.baseline <= 0:
            raise ValueError(f"a ratio has a positive baseline; given: {self.baseline}")
        return self

    @property
    def neutral(self) -> float:
        """The baseline, given or not."""
        if self.baseline is not None:
            return self.baseline
        return 1.0 if self.scale == "ratio" else 0.0

    @cached_property
    def weights(self) -> tuple[Mapping[Term, float], ...]:
        """The contrasts, with the point of every arm."""
        given = self.contrasts or tuple(
            {higher: 1.0, lower: -1.0}
            for lower, higher in zip(self.order, self.order[1:], strict=False)
        )
        return tuple({self._term(key): w for key, w in weights.items()} for weights in given)

    @property
    def cells(self) -> Iterator[Cell]:
        """Everything that the study table has to hold for it, once a contrast."""
        for weights in self.weights:
            yield from (self.cell(term) for term in weights)

    def cell(self, term: Term) -> Cell:
        """Where the number of one arm stands."""
        return Cell(term.arm, term.point, self.quantity, self.matrices, self.precision)

    def name(self, weights: Mapping[Term, float]) -> str:
        """Say a contrast in words: what is added first, then what is taken off or divided by."""
        is_ratio = self.scale == "ratio"
        parts: dict[bool, list[str]] = {True: [], False: []}
        for term, weight in weights.items():
            size = "" if abs(weight) == 1 else f"{abs(weight):g} "
            parts[weight > 0].append(f"{size}{term.label}")
        first = (f" {TIMES} " if is_ratio else " + ").join(parts[True])
        minus = " / " if is_ratio else f" {MINUS} "
        return minus.join([first or ("1" if is_ratio else "0"), *parts[False]])

    def _term(self, key: str) -> Term:
        arm, _, point = key.partition("@")
        return Term(arm, point or self.point)


class Control(Comparison):
    """A comparison that has to hold as well, lest another explanation does.

    What it leaves out is as in its claim; a new region has a reason of its own.

    Attributes:
        excludes: The other explanation, as it would follow "not explained by".
    """

    excludes: str = Field(min_length=1)


class Claim(Comparison):
    """A sentence of the paper, as the published comparison and the controls it lacks.

    Attributes:
        id: How pages and tests name it.
        figure: The entry that it belongs to.
        sentence: What is claimed.
        published: The published numbers, by their ids.
        words: What the paper says where it prints no number.
        controls: In the order in which they are asked.
    """

    id: str
    figure: str
    sentence: str
    published: tuple[str, ...] = ()
    words: str = ""
    controls: tuple[Control, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _controls_inherit(cls, content: object) -> object:
        if not isinstance(content, dict) or not isinstance(content.get("controls"), (list, tuple)):
            return content
        shared = {key: content[key] for key in Comparison.model_fields if key in content}
        return {**content, "controls": [_inherited(shared, c) for c in content["controls"]]}

    @model_validator(mode="after")
    def _is_argued(self) -> "Claim":
        if not self.published and not self.words:
            raise ValueError("give the published numbers, or the words where there are none")
        if any(not item.reason for item in (self, *self.controls)):
            raise ValueError("every region needs a reason for its margin")
        return self


class Declaration(Table):
    """All claims, and the share of studies in which any of them may hold falsely."""

    misses: float = Field(gt=0, lt=1)
    claims: tuple[Claim, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_are_unique(self) -> "Declaration":
        names = [claim.id for claim in self.claims]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"every id once; given twice: {', '.join(twice)}")
        return self

    def cells(self, figure: str | None = None) -> set[Cell]:
        """Everything that the claims of one figure, or all, read from the study table."""
        return {
            cell
            for claim in self.claims
            if figure in (None, claim.figure)
            for comparison in (claim, *claim.controls)
            for cell in comparison.cells
        }


def load_claims(path: Path = FILE) -> Declaration:
    """Read the claims, and check that the numbers they name are there.

    Raises:
        RecipeError: If the file cannot be read, a claim is not as declared above, or it names a
            published number that is not in `published.toml`.
    """
    declared = read(Declaration, path)
    numbers = load_published()
    for claim in declared.claims:
        for name in claim.published:
            _require_number(name, numbers, f"{path}, {claim.id}")
    return declared


def _require_number(name: str, numbers: Mapping[str, PublishedNumber], where: str) -> None:
    if name not in numbers:
        raise refusal(
            where,
            "published",
            "ids of published.toml",
            repr(name),
            suggestion(name, list(numbers)),
        )


def _inherited(shared: Mapping[str, object], control: object) -> object:
    """A control with what its claim says in place of what it leaves out."""
    if not isinstance(control, dict):
        return control  # refused with its place by what reads it
    left = dict(shared)
    if "order" in control or "contrasts" in control:
        left = {key: left[key] for key in left if key not in ("order", "contrasts")}
    if {"margin", "scale"} & set(control):
        left.pop("reason", None)
    return {**left, **control}
