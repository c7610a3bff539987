"""What to measure: which diagnostics, under which storage, with which settings and draws."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from pydantic import TypeAdapter, ValidationError

from offaxis.catalog import collect, suggestion
from offaxis.checkpoints.access import SAFE, Access
from offaxis.checkpoints.coverage import LEAST
from offaxis.diagnostics import similarity
from offaxis.diagnostics.base import Diagnostic, Tier
from offaxis.engine import Draws
from offaxis.errors import CatalogError, UsageError

Storage = Literal["stored", "bf16"]

RELATIVES = "relatives"
"""Stands for all diagnostics of related work."""


class Pass(NamedTuple):
    """One reading of the checkpoints: as they were stored, or as bf16 files would show them."""

    storage: Storage
    diagnostics: tuple[str, ...]


@cache
def diagnostics() -> Mapping[str, Diagnostic]:
    """Every diagnostic of a single update, by name."""
    return MappingProxyType(collect("offaxis.diagnostics", Diagnostic))


def every_name() -> tuple[str, ...]:
    """The names of what is measured where nothing is named: all but relatives."""
    return (*(n for n, item in diagnostics().items() if not item.is_relative), similarity.NAME)


def relatives() -> tuple[str, ...]:
    """The names of the diagnostics of related work, which are measured where they are named."""
    return tuple(name for name, item in diagnostics().items() if item.is_relative)


@dataclass(frozen=True)
class Options:
    """The settings of a measurement.

    Attributes:
        passes: What to measure under which storage.
        overrides: Settings by diagnostic, in place of the defaults.
        tier: `exact`, or `fast` with its bounds.
        draws: Draws of each random ensemble.
        edge_draws: Further sign-flip draws, which set the noise edge.
        walk_draws: Draws of the walk beside similarity over time.
        seed: Key of all draws.
        device: Where matrices are worked on, as torch names it.
        access: What may be opened beside safetensors.
        min_coverage: The share of the anchor's and of every checkpoint's weights that must be
            paired.
    """

    passes: tuple[Pass, ...] = field(default_factory=lambda: (Pass("stored", every_name()),))
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tier: Tier = "exact"
    draws: int = 3
    edge_draws: int = 3
    walk_draws: int = 2
    seed: int = 0
    device: str = "cpu"
    access: Access = SAFE
    min_coverage: float = LEAST

    def draws_for(self, key: str) -> Draws:
        """The draws of one unit."""
        return Draws(self.draws, self.edge_draws, f"{self.seed}|{key}")

    @property
    def similarity_ranks(self) -> tuple[int, ...]:
        """The K at which subspaces are compared over time."""
        return tuple(self.overrides.get(similarity.NAME, {}).get("K", similarity.RANKS))

    def as_dict(self) -> dict[str, Any]:
        """The settings as the manifest records them."""
        return {
            "passes": [{"as": p.storage, "diagnostics": list(p.diagnostics)} for p in self.passes],
            "overrides": {name: dict(values) for name, values in self.overrides.items()},
            "tier": self.tier,
            "draws": self.draws,
            "edge_draws": self.edge_draws,
            "walk_draws": self.walk_draws,
            "seed": self.seed,
        }


def passes(storages: Sequence[str], names: Sequence[str] | None) -> tuple[Pass, ...]:
    """Check the user's choice of storages and diagnostics.

    `relatives` stands for all diagnostics of related work.

    Raises:
        CatalogError: If a diagnostic is not known.
    """
    known = (*every_name(), *relatives(), RELATIVES)
    for name in names or ():
        if name not in known:
            raise CatalogError(
                "--diagnostics",
                expected=f"some of {', '.join(known)}",
                found=repr(name),
                do=suggestion(name, known),
            )
    wanted = {*(every_name() if names is None else names)}
    if RELATIVES in wanted:
        wanted |= {*relatives()}
    chosen = tuple(name for name in (*diagnostics(), similarity.NAME) if name in wanted)
    return tuple(Pass(storage, chosen) for storage in _storages(storages))


def _plain(annotation: Any) -> str:  # noqa: ANN401 - any annotation of a setting
    """A setting's type in words: `float, > 0, < 1`."""
    limits = getattr(annotation, "__metadata__", ())
    kind = annotation.__origin__ if limits else annotation
    words = [getattr(kind, "__name__", str(kind))]
    for limit in limits:
        for sign, name in ((">=", "ge"), (">", "gt"), ("<", "lt")):
            if hasattr(limit, name):
                words.append(f"{sign} {getattr(limit, name)}")
    return ", ".join(words)


def _storages(given: Sequence[str]) -> list[Storage]:
    return [TypeAdapter(Storage).validate_python(name) for name in dict.fromkeys(given)]


def parse_overrides(assignments: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Turn `{"rotation.k": 64}` into settings by diagnostic, checked against their signatures.

    Raises:
        UsageError: If a diagnostic or setting is not known, or the value has the wrong type.
    """
    found: dict[str, dict[str, Any]] = {}
    known = {
        f"{d.name}.{p.name}": p.annotation
        for d in diagnostics().values()
        if not d.settings_of
        for p in inspect.signature(d.function).parameters.values()
        if p.kind is p.KEYWORD_ONLY
    }
    known[f"{similarity.NAME}.K"] = similarity.Ranks
    for key, value in assignments.items():
        if key not in known:
            raise UsageError(
                f"--set {key}",
                expected=f"one of {', '.join(known)}",
                found=repr(key),
                do=suggestion(key, known),
            )
        try:
            checked = TypeAdapter(known[key]).validate_python(value, strict=True)
        except ValidationError as error:
            raise UsageError(
                f"--set {key}",
                expected=f"a value of {_plain(known[key])}",
                found=repr(value),
                do=error.errors()[0]["msg"],
            ) from error
        name, setting = key.split(".")
        found.setdefault(name, {})[setting] = checked
    return found
