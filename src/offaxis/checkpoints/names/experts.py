"""Stacks of experts under the names that they have one by one, as transformers knows them.

transformers 5 holds the experts of a layer as one stack, and writes them one by one or as the
stack. Its registry of conversions says which name belongs to which part. It is asked with tiny
tensors of numbers, each of which occurs once, for a model of the config's type that has no memory:
the numbers that come back under a name tell which part of which stack they were.
"""

import math
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from offaxis.checkpoints.views import View

_SIDE = 4
"""Outputs and inputs of a probe: even, as gate and up are halves."""

_WRITTEN_AS = {"qwen3_vl_moe": "qwen3_moe", "qwen3_vl_moe_text": "qwen3_moe"}
"""Models of which the registry knows the stacks alone, stored either way: tools that write their
experts one by one give them the names of the language model that they are built on."""


def can_ask() -> bool:
    """Whether the library that knows the names is installed."""
    return find_spec("transformers") is not None


def single_names(views: Mapping[str, View], model_type: str) -> dict[str, str]:
    """Ask transformers what a side's matrices are called where experts are stored one by one.

    Args:
        views: Whole tensors and parts of stacks, by name: a part's is its tensor's and its label.
        model_type: As the config names it.

    Returns:
        Names by those given. What the registry does not know, or lays out in another way than the
        views do, is not in it.
    """
    probes = _probes(views)
    given = {_shown(_part(probes[_tensor(name, v)], v)): name for name, v in views.items()}
    if model_type in _WRITTEN_AS:
        turned = {_tensor(name, v) for name, v in views.items() if v.piece.transposed}
        square = {_tensor(name, v) for name, v in views.items() if _is_square_entry(v)}
        probes = {
            name: probe.mT if name in turned else probe
            for name, probe in probes.items()
            if name not in square
        }
    converted = _converted(probes, _WRITTEN_AS.get(model_type, model_type))
    return {given[s]: name for name, probe in converted.items() if (s := _shown(probe)) in given}


def _is_square_entry(view: View) -> bool:
    """Whether nothing tells by which axis the outputs of a stack's entry lie."""
    return view.piece.entry is not None and len({*view.piece.shape}) == 1


def _tensor(name: str, view: View) -> str:
    return name.removesuffix(f"[{view.view}]")


def _probes(views: Mapping[str, View]) -> dict[str, Tensor]:
    """A tensor of numbers for each that the views are of; no number occurs in two."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, view in views.items():
        tensor, entry = _tensor(name, view), view.piece.entry
        before = shapes.get(tensor, (0,))[0]
        stack = () if entry is None else (max(before, entry + 1),)
        shapes[tensor] = (*stack, _SIDE, _SIDE)
    found, begin = {}, 0
    for tensor, shape in shapes.items():
        end = begin + math.prod(shape)
        found[tensor] = torch.arange(begin, end).view(shape)
        begin = end
    return found


def _part(probe: Tensor, view: View) -> Tensor:
    """The numbers of one view: its rows are the same share of a probe as of the real matrix."""
    piece = view.piece
    held = probe if piece.entry is None else probe[piece.entry]
    rows = piece.rows
    if rows is not None and rows.period > _SIDE:
        rows = rows._replace(
            start=rows.start * _SIDE // rows.period,
            length=rows.length * _SIDE // rows.period,
            period=_SIDE,
        )
    return piece._replace(rows=rows).cut(held)


def _shown(probe: Tensor) -> tuple[tuple[int, ...], bytes]:
    """A probe's shape and numbers, to be found again by."""
    return tuple(probe.shape), probe.contiguous().numpy().tobytes()


def _converted(probes: Mapping[str, Tensor], model_type: str) -> dict[str, Tensor]:
    """What the registry makes of the probes; nothing where it cannot."""
    from transformers.core_model_loading import revert_weight_conversion  # noqa: PLC0415 - an extra

    model = _skeleton(model_type)
    if model is None:
        return {}
    try:
        found: dict[str, Tensor] = revert_weight_conversion(model, dict(probes))
    except Exception:  # conversions of any model of the library: what fails names nothing
        return {}
    return found


@cache
def _skeleton(model_type: str) -> Any | None:  # noqa: ANN401 - any model of the library
    """A model of a type as the library configures it, without memory for weights."""
    from transformers.models.auto import configuration_auto, modeling_auto  # noqa: PLC0415

    kinds = (
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING,
        modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        modeling_auto.MODEL_MAPPING,
    )
    for held in kinds:
        try:
            config = configuration_auto.CONFIG_MAPPING[model_type]()
            with torch.device("meta"):
                return held[type(config)]._from_config(config)
        except Exception:  # not every model of the library can be made of its defaults
            continue
    return None
