"""What a path is, told without reading a weight: steps, format, tensors, precision, what it needs.

Headers and small JSON files are read; pickles only where the user allows them, and mapped then.
"""

import shlex
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from torch import Tensor

from offaxis.checkpoints.access import Access
from offaxis.checkpoints.adapters.folder import AdapterFolder
from offaxis.checkpoints.adapters.settings import CONFIG as CONFIG_OF_ADAPTER
from offaxis.checkpoints.base import CheckpointReader, TensorInfo
from offaxis.checkpoints.formats import format_of
from offaxis.checkpoints.quantised import CONFIG, as_floats
from offaxis.checkpoints.refusals import Refused, unknown
from offaxis.checkpoints.run_folders import is_run, steps_of, weights_of
from offaxis.checkpoints.trust import ALLOW, load_pickle, read_header, read_object
from offaxis.errors import CheckpointError
from offaxis.runs import RunFolder

_OF_ADAPTERS = {
    "peft_type": "type",
    "r": "rank",
    "lora_alpha": "alpha",
    "use_rslora": "rank_stabilised",
    "use_dora": "dora",
    "base_model_name_or_path": "base",
}
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


@dataclass
class Contents:
    """What one checkpoint or file is.

    Attributes:
        format: What its format is called.
        tensors: How many are stored; None where the file was not opened.
        parameters: Floating-point numbers in them.
        bytes: Of the files that hold them.
        dtypes: Tensors and parameters by dtype.
        model: The architecture that its config names.
        precision: What its config says of the weights' format.
        tied_embeddings: Whether its config ties the head to the embedding.
        adapter: Of an adapter, its type, rank, scale and the base it names, which is not followed.
        quantised: How its weights are quantised.
        needs: The flags without which it is not measured.
        refused: Why it is not read as it is, and what to do.
    """

    format: str
    tensors: int | None = None
    parameters: int | None = None
    bytes: int | None = None
    dtypes: dict[str, dict[str, int]] = field(default_factory=dict)
    model: str | None = None
    precision: list[str] = field(default_factory=list)
    tied_embeddings: bool | None = None
    adapter: dict[str, Any] | None = None
    quantised: str | None = None
    needs: list[str] = field(default_factory=list)
    refused: str | None = None


def inspect(path: Path, *, pickle: bool = False) -> dict[str, Any]:
    """Say what a path is.

    Args:
        path: A run folder, the folder of a checkpoint, or one file of weights.
        pickle: Whether pickled files may be opened, through `weights_only=True` alone.

    Returns:
        `path`, `kind` (`run`, `checkpoint` or `file`), the fields of `Contents`, and `measure`, the
        command that would measure it; of a run also `steps` and `anchor`, its contents being those
        of the last step.

    Raises:
        CheckpointError: If there is nothing at the path, it is no checkpoint, or is damaged.
    """
    access = Access(pickle=pickle)
    head: dict[str, Any] = {"path": str(path)}
    if path.is_file():
        return {**head, "kind": "file", **vars(_of_file(path, access))}
    if not is_run(path):
        found = _of_checkpoint(weights_of(path).path, access)
        return {**head, "kind": "checkpoint", **vars(found), "measure": _command(path, found)}
    steps, manifest = steps_of(path), RunFolder(path).manifest() or {}
    found = _of_checkpoint(steps[max(steps)].path, access)
    said = sorted((manifest.get("precision") or {}).items())
    found.precision += [f"{key} {value} (manifest.json)" for key, value in said]
    anchor = manifest.get("anchor") or (steps[0].path.name if 0 in steps else None)
    if anchor is None:
        found.needs.insert(0, "--anchor")
    head |= {"kind": "run", "steps": list(steps), "anchor": anchor}
    return {**head, **vars(found), "measure": _command(path, found, is_run=True)}


def as_lines(found: dict[str, Any]) -> dict[str, str]:
    """The same for people: one line an entry, without those that nothing is known of."""
    counted = [f"{d} ({n['numbers']:,} in {n['tensors']:,})" for d, n in found["dtypes"].items()]
    return {
        key.replace("_", " "): _in_words(value)
        for key, value in {**found, "dtypes": counted}.items()
        if value not in (None, [], {})
    }


def _in_words(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key} {_in_words(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(_in_words, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _command(path: Path, found: Contents, *, is_run: bool = False) -> str | None:
    if found.refused is not None:
        return None
    anchor = "" if is_run else " ANCHOR"
    flags = "".join(f" {flag} ANCHOR" if flag == "--anchor" else f" {flag}" for flag in found.needs)
    return f"offaxis measure{anchor} {shlex.quote(str(path))}{flags}"


def _of_file(path: Path, access: Access) -> Contents:
    if path.suffix == ".safetensors":
        found = Contents("safetensors file")
        _count(found, read_header(path).values(), path.stat().st_size)
        return found
    if path.suffix not in _PICKLES:
        return _refusal(path)
    found = Contents("torch file", needs=["--allow-pickle"])
    if not access.pickle:
        return found
    held = load_pickle(path, access)
    named = held if isinstance(held, dict) else {}
    infos = [
        TensorInfo(str(name), tuple(value.shape), str(value.dtype).removeprefix("torch."))
        for name, value in named.items()
        if isinstance(value, Tensor)
    ]
    _count(found, infos, path.stat().st_size)
    return found


def _refusal(path: Path) -> Contents:
    """What is known and not read."""
    known = format_of(path)
    if not isinstance(known, Refused):
        raise unknown(path)
    return Contents(known.NAME, refused=known.way_out(path))


def _of_checkpoint(folder: Path, access: Access) -> Contents:
    known, is_adapter = format_of(folder), (folder / CONFIG_OF_ADAPTER).is_file()
    if is_adapter:
        return _of_adapter(folder, access)
    if known is None or isinstance(known, Refused):
        return _refusal(folder)
    found = Contents(known.NAME)
    try:
        reader = known.open(folder, access, None)
        infos = reader.tensors()
        _count(found, infos.values(), sum(file.stat().st_size for file in reader.files()))
        if any(file.suffix in _PICKLES for file in reader.files()):
            found.needs.append("--allow-pickle")
        _judge_floats(found, reader)
    except CheckpointError as error:
        if error.do != ALLOW:
            raise
        found.needs.append("--allow-pickle")
    _read_config(found, folder)
    return found


def _judge_floats(found: Contents, reader: CheckpointReader) -> None:
    """Whether the weights are quantised, and can be read nevertheless."""
    try:
        if as_floats(reader, Access(quantised=True)) is not reader:
            found.quantised = "fp8, whose rounding is in every difference"
            found.needs.append("--allow-quantised")
    except CheckpointError as error:
        found.quantised, found.refused = error.found, error.do


def _of_adapter(folder: Path, access: Access) -> Contents:
    config, reader = read_object(folder, CONFIG_OF_ADAPTER), AdapterFolder(folder, access, None)
    found = Contents("adapter")
    known = ((ours, config.get(theirs)) for theirs, ours in _OF_ADAPTERS.items())
    found.adapter = {ours: value for ours, value in known if isinstance(value, str | int | float)}
    try:
        _ = reader.settings
    except CheckpointError as error:
        found.refused = f"{error.found}: {error.do}"
    try:
        size = sum(file.stat().st_size for file in reader.stored.files())
        if any(file.suffix in _PICKLES for file in reader.stored.files()):
            found.needs.append("--allow-pickle")
        _count(found, reader.stored.tensors().values(), size)
    except CheckpointError as error:
        if error.do != ALLOW:
            raise
        found.needs.append("--allow-pickle")
    return found


def _count(found: Contents, infos: Collection[TensorInfo], size: int) -> None:
    tensors = Counter(info.dtype for info in infos)
    numbers = Counter[str]()
    for info in infos:
        numbers[info.dtype] += prod(info.shape)
    found.tensors, found.bytes = len(infos), size
    found.parameters = sum(n for dtype, n in numbers.items() if "float" in dtype)
    found.dtypes = {d: {"tensors": tensors[d], "numbers": numbers[d]} for d in sorted(tensors)}


def _read_config(found: Contents, folder: Path) -> None:
    """What `config.json` says, which verl keeps in a folder beside its files."""
    places = (CONFIG, f"huggingface/{CONFIG}")
    place = next((name for name in places if (folder / name).is_file()), None)
    if place is None:
        return
    config = read_object(folder, place)
    named = config.get("architectures")
    if isinstance(named, list) and named:
        found.model = str(named[0])
    precision = config.get("dtype") or config.get("torch_dtype")
    if precision is not None:
        found.precision.append(f"{precision} ({CONFIG})")
    if isinstance(config.get("tie_word_embeddings"), bool):
        found.tied_embeddings = config["tie_word_embeddings"]
