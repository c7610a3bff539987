"""Which tensors of an adapter belong to which tensor of its base, and how they lie in it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from offaxis.checkpoints.adapters.keys import Adapted, Renaming, renaming, sort_keys
from offaxis.checkpoints.adapters.settings import Settings
from offaxis.checkpoints.base import TensorInfo
from offaxis.checkpoints.sides import FLOATS
from offaxis.errors import CheckpointError

Infos = Mapping[str, TensorInfo]

_STACK_AXES = 3
_MERGE = "merge the adapter with PEFT's merge_and_unload and give that folder"
_OTHER_BASE = "give the base that the adapter was trained on"
_DAMAGED = "save the adapter again: its settings and its tensors do not belong together"


class Factors(NamedTuple):
    """The names of A (r x in) and B (out x r), and how their product lies in the base's tensor.

    Attributes:
        A: Stored name; of stacked experts, one r x in block after the other.
        B: Likewise, the experts being the last of its columns' two axes.
        scale: Of the product.
        is_transposed: Whether the base has the input side first.
        entries: How many experts are stacked; None for one matrix.
        magnitude: The norms that DoRA gives the outputs; None without it.
    """

    A: str
    B: str
    scale: float
    is_transposed: bool
    entries: int | None = None
    magnitude: str | None = None


class Part(NamedTuple):
    """What an adapter has of one tensor: one in its place, an update, or an addition to a bias."""

    tensor: str | None = None
    factors: Factors | None = None
    bias: tuple[str, float] | None = None


def parts_of(path: Path, settings: Settings, stored: Infos, base: Infos) -> dict[str, Part]:
    """Return, by the base's tensor, what an adapter has of it.

    Args:
        path: The adapter's folder, for messages.
        settings: Of the adapter.
        stored: Its tensors.
        base: Those of its base.

    Raises:
        CheckpointError: If a tensor cannot be told where it belongs, or does not fit there.
    """
    keys = sort_keys(path, stored)
    names = [f"{adapted.module}.weight" for adapted in keys.modules]
    layout = _Layout(path, settings, stored, base, renaming(names, base))
    found = {name: Part(tensor=key) for key, name in layout.whole(keys.whole)}
    shown: list[_Placed] = []
    for adapted in keys.modules:
        placed = layout.placed(adapted)
        before = found.get(placed.name, Part())
        if before.factors is not None:
            raise layout.refused(placed.name, "one adapter of a tensor", "two of it", _DAMAGED)
        found[placed.name] = before._replace(factors=placed.factors)
        shown.append(placed)
        if "B.bias" in adapted.names:
            bias = layout.located(f"{adapted.module}.bias")
            addition = adapted.names["B.bias"], placed.factors.scale
            found[bias] = found.get(bias, Part())._replace(bias=addition)
    layout.require_one_orientation(shown)
    return found


class _Placed(NamedTuple):
    """Where factors belong.

    `told` says whether the shapes alone tell how they lie; None where the settings have no say.
    """

    name: str
    factors: Factors
    told: bool | None


@dataclass(frozen=True)
class _Layout:
    path: Path
    settings: Settings
    stored: Infos
    base: Infos
    renamed: Renaming

    def whole(self, keys: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        """Tensors in the place of the base's, and such as it does not have: a new head."""
        saved = set(self.settings.modules_to_save or ())
        for key, plain in keys.items():
            name = self.renamed(plain)
            if name not in self.base and not saved & set(plain.split(".")):
                expected = "a tensor of the base, or of one of modules_to_save"
                raise self.refused(key, expected, "neither", _OTHER_BASE)
            yield key, name

    def placed(self, adapted: Adapted) -> _Placed:
        """One module's factors, and the tensor that they update."""
        names = adapted.names
        first, second = ("embedding_A", "embedding_B") if adapted.is_embedding else ("A", "B")
        wanted = {first, second}
        wanted |= {"magnitude"} if self.settings.use_dora else set()
        wanted |= {"B.bias"} if self.settings.lora_bias and not adapted.is_embedding else set()
        if names.keys() != wanted:
            found = ", ".join(sorted(names))
            raise self.refused(adapted.module, ", ".join(sorted(wanted)), found, _DAMAGED)
        A, B = self.stored[names[first]].shape, self.stored[names[second]].shape
        if len(A) != 2 or len(B) != 2:
            expected = "A and B with two axes: convolutions are not read"
            raise self.refused(adapted.module, expected, f"{list(A)} and {list(B)}", _MERGE)
        strange = {self.stored[key].dtype for key in names.values()} - set(FLOATS)
        if strange:
            expected = f"dtypes out of {', '.join(FLOATS)}"
            raise self.refused(adapted.module, expected, ", ".join(sorted(strange)), _MERGE)
        factors = Factors(
            names[first], names[second], 0.0, adapted.is_embedding, None, names.get("magnitude")
        )
        if targets := self._parameters(adapted.module):
            return self._in_parameter(adapted, targets, factors)
        return self._in_module(adapted, factors)

    def _in_module(self, adapted: Adapted, factors: Factors) -> _Placed:
        A, B = self.stored[factors.A].shape, self.stored[factors.B].shape
        rank = self.settings.rank_of(adapted.module)
        if (A[0], B[1]) != (rank, rank):
            expected = f"rank {rank}, as adapter_config.json says"
            raise self.refused(adapted.module, expected, f"{A[0]} and {B[1]}", _DAMAGED)
        name = self.located(f"{adapted.module}.weight")
        sides = {False: (B[0], A[1]), True: (A[1], B[0])}
        ways = (True,) if adapted.is_embedding else (False, True)
        fits = [way for way in ways if sides[way] == self.base[name].shape]
        if not fits:
            expected = f"shape {list(sides[factors.is_transposed])} in the base, as its adapter has"
            raise self.refused(name, expected, f"shape {list(self.base[name].shape)}", _OTHER_BASE)
        is_told = len(fits) == 1
        way = fits[0] if is_told else self.settings.fan_in_fan_out
        scale = self.settings.scale_of(adapted.module)
        whole = factors._replace(scale=scale, is_transposed=way)
        return _Placed(name, whole, None if adapted.is_embedding else is_told)

    def _in_parameter(
        self, adapted: Adapted, targets: list[TensorInfo], factors: Factors
    ) -> _Placed:
        """A module's parameters are told apart by their shapes: PEFT's names do not tell them."""
        A, B = self.stored[factors.A].shape, self.stored[factors.B].shape
        fits = []
        for info in targets:
            entries = info.shape[0] if len(info.shape) == _STACK_AXES else None
            rank = self.settings.rank_of(info.name) * (entries or 1)
            for way in (False,) if entries is None else (False, True):
                sides = (A[1], B[0]) if way else (B[0], A[1])
                if info.shape[-2:] == sides and A[0] == B[1] == rank:
                    fits.append((info.name, way, entries))
        if len(fits) != 1:
            expected = "one of target_parameters that its shapes fit, in one way"
            raise self.refused(adapted.module, expected, f"{len(fits)} ways", _MERGE)
        name, way, entries = fits[0]
        scale = self.settings.scale_of(name)
        whole = factors._replace(scale=scale, is_transposed=way, entries=entries)
        return _Placed(name, whole, None)

    def _parameters(self, module: str) -> list[TensorInfo]:
        """The base's tensors right below a module that are among the target parameters."""
        wanted = self.settings.target_parameters or ()
        return [
            info
            for name, info in self.base.items()
            if name.rpartition(".")[0] == module
            and any(f".{name}".endswith(f".{target}") for target in wanted)
            and len(info.shape) in (2, _STACK_AXES)
        ]

    def located(self, plain: str) -> str:
        """The base's name of a tensor.

        Raises:
            CheckpointError: If the base does not have it.
        """
        name = self.renamed(plain)
        if name not in self.base:
            do = f"{_OTHER_BASE}, saved under the same names; or {_MERGE}"
            raise self.refused(name, "such a tensor in the base", "none", do)
        return name

    def require_one_orientation(self, shown: Iterable[_Placed]) -> None:
        """A square matrix lies as the settings say, unless other shapes tell that they are wrong.

        Raises:
            CheckpointError: If they do.
        """
        said = self.settings.fan_in_fan_out
        squares = [each.name for each in shown if each.told is False]
        against = [p.name for p in shown if p.told and p.factors.is_transposed != said]
        if squares and against:
            expected = f"fan_in_fan_out as {against[0]!r} shows it: a square matrix shows nothing"
            do = "correct fan_in_fan_out in adapter_config.json"
            raise self.refused(squares[0], expected, str(said).lower(), do)

    def refused(self, name: str, expected: str, found: str, do: str) -> CheckpointError:
        """The refusal of one tensor."""
        return CheckpointError(f"{name!r} in {self.path}", expected=expected, found=found, do=do)
