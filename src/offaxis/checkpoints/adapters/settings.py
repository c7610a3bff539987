"""What `adapter_config.json` says of an adapter, as far as its update depends on it."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from offaxis.checkpoints.trust import read_object
from offaxis.errors import CheckpointError

CONFIG = "adapter_config.json"

_MOST_QUANTIFIERS = 3

_KEEPS_BASE = (True, False, "gaussian", "eva", "orthogonal", "mica")
"""The initialisations that leave the weights of the base as they were."""

_WITHOUT_EFFECT = {
    "auto_mapping",
    "base_model_name_or_path",  # where the base was: never followed
    "bias",
    "corda_config",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
}
"""Settings that say where an adapter applies or how it was trained: its tensors tell the same."""

_MERGE = "merge it with PEFT's merge_and_unload, save the model and give that folder"

Value = TypeVar("Value", int, float)

Rank = Annotated[int, Field(gt=0)]
Alpha = Annotated[float, Field(allow_inf_nan=False)]


class Settings(BaseModel):
    """The settings that the update depends on; any other one is refused if it is switched on."""

    model_config = ConfigDict(strict=True, extra="allow")

    peft_type: str
    r: Rank = 8
    lora_alpha: Alpha = 8.0
    rank_pattern: dict[str, Rank] | None = None
    alpha_pattern: dict[str, Alpha] | None = None
    fan_in_fan_out: bool = False
    use_rslora: bool = False
    use_dora: bool = False
    lora_bias: bool = False
    init_lora_weights: bool | str = True
    modules_to_save: list[str] | None = None
    target_parameters: list[str] | None = None

    def rank_of(self, module: str) -> int:
        """The rank of a module's adapter."""
        return _of(self.rank_pattern, module, self.r)

    def scale_of(self, module: str) -> float:
        """What B A is multiplied by: alpha / r, alpha / sqrt(r) where rank-stabilised."""
        rank = self.rank_of(module)
        alpha = _of(self.alpha_pattern, module, self.lora_alpha)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank


def read_settings(folder: Path) -> Settings:
    """Read and check the settings of the adapter in a folder.

    Raises:
        CheckpointError: If the file is damaged, or the adapter is of a kind that is not read.
    """
    file, content = folder / CONFIG, read_object(folder, CONFIG)
    if content.get("peft_type") != "LORA":
        _refuse(
            file,
            "a LoRA adapter: peft_type 'LORA'",
            f"peft_type {content.get('peft_type')!r}",
            do="turn it into one with peft.convert_to_lora, or " + _MERGE,
        )
    try:
        settings = Settings.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise _damaged(file, f"{place}: {first['msg']}") from error
    _require_known(file, settings)
    return settings


def _require_known(file: Path, settings: Settings) -> None:
    start = settings.init_lora_weights
    if start not in _KEEPS_BASE:
        _refuse(
            file,
            "an adapter on the base as it is",
            f"init_lora_weights {start!r}, which changed the base's weights before training",
            do="save it with path_initial_model_for_weight_conversion, which makes it plain LoRA "
            f"on the base, or {_MERGE}",
        )
    unknown = {
        name: value
        for name, value in (settings.model_extra or {}).items()
        if value and name not in _WITHOUT_EFFECT
    }
    if unknown:
        name = min(unknown)
        _refuse(
            file,
            "LoRA, rank-stabilised LoRA or DoRA and no other variant",
            f"{name!r}: {_short(unknown[name])}",
            do=_MERGE,
        )
    for pattern in {**(settings.rank_pattern or {}), **(settings.alpha_pattern or {})}:
        _require_simple(file, pattern)


def _require_simple(file: Path, pattern: str) -> None:
    """Patterns are a stranger's: one that could search for ever is not tried."""
    quantifiers = re.findall(r"(?<!\\)[*+?{]", pattern)
    is_nested = re.search(r"(?<!\\)\)[*+?{]", pattern) or "(?" in pattern
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise _damaged(file, f"the pattern {_short(pattern)}: {error}") from error
    if is_nested or len(quantifiers) > _MOST_QUANTIFIERS or len(pattern) > 1000:
        _refuse(
            file,
            f"patterns with at most {_MOST_QUANTIFIERS} quantifiers and none on a group",
            _short(pattern),
            do="write the names of the modules out in rank_pattern and alpha_pattern",
        )


def _of(patterns: Mapping[str, Value] | None, module: str, default: Value) -> Value:
    """The value of the first pattern that a module's name ends with, as PEFT matches them."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _damaged(file: Path, found: str) -> CheckpointError:
    return CheckpointError(
        str(file),
        expected="the JSON object of settings that PEFT saves with an adapter",
        found=found,
        do="restore the file, or save the adapter again",
    )


def _refuse(file: Path, expected: str, found: str, *, do: str) -> NoReturn:
    raise CheckpointError(str(file), expected=expected, found=found, do=do)
