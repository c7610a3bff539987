"""Folders of weights that are known and not read, each with the way out; and those not known."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from offaxis.checkpoints.access import Access
from offaxis.checkpoints.trust.documents import read_object
from offaxis.errors import CheckpointError

_SHOWN = 6
_MEGATRON = re.compile(r"mp_rank_\d+(_\d+)*|dist_ckpt")


@dataclass(frozen=True)
class Refused:
    """A format that is told by its files, and refused with the command that converts it.

    Attributes:
        NAME: What it is called.
        recognises: Whether a folder has it, by the names of its files.
        way_out: What to do, for a folder.
    """

    NAME: str
    recognises: Callable[[Path], bool]
    way_out: Callable[[Path], str]

    def open(self, path: Path, access: Access, base: Path | None) -> NoReturn:
        """Refuse a folder of this format.

        Raises:
            CheckpointError: Always.
        """
        raise CheckpointError(
            str(path),
            expected="weights that can be read without the library that wrote them",
            found=f"{self.NAME}: {listing(path)}",
            do=self.way_out(path),
        )


def _is_megatron(path: Path) -> bool:
    """Megatron's own files, or the distributed checkpoint whose names and layout are Megatron's."""
    names = _names(path)
    if any(_MEGATRON.fullmatch(name) and (path / name).is_dir() for name in names):
        return True
    is_distributed = ".metadata" in names or any(name.endswith(".distcp") for name in names)
    return (is_distributed and "common.pt" in names) or _backend(path) in ("torch_dist", "zarr")


def _backend(path: Path) -> str:
    """The back end that Megatron's `metadata.json` names."""
    try:
        return str(read_object(path, "metadata.json").get("sharded_backend", ""))
    except CheckpointError:
        return ""


def _is_zero(path: Path) -> bool:
    return any(name.endswith("_optim_states.pt") for name in _names(path))


def _is_gguf(path: Path) -> bool:
    return any(name.endswith(".gguf") for name in _names(path)) or path.suffix == ".gguf"


def _is_unfinished(path: Path) -> bool:
    names = _names(path)
    return ".metadata" not in names and any(name.endswith(".distcp") for name in names)


REFUSED = (
    Refused(
        "a checkpoint of Megatron",
        _is_megatron,
        lambda path: (
            "export it first, with Megatron-Bridge: AutoBridge.from_hf_pretrained(MODEL)"
            f".export_ckpt({str(path)!r}, OUT); or, of verl: python -m verl.model_merger merge "
            f"--backend megatron --local_dir {path} --target_dir OUT"
        ),
    ),
    Refused(
        "DeepSpeed's ZeRO partitions",
        _is_zero,
        lambda path: (
            "python -m deepspeed.checkpoint.ds_to_universal --input_folder "
            f"{path} --output_folder {path}_universal, then measure that with --allow-pickle"
        ),
    ),
    Refused(
        "GGUF",
        _is_gguf,
        lambda path: (
            "give the checkpoint that it was converted from: most of a difference to a quantised "
            "file is its rounding, and its attention has other rows first"
        ),
    ),
    Refused(
        "a distributed checkpoint without its .metadata",
        _is_unfinished,
        lambda path: "give another step: this one was not saved to its end",
    ),
)
"""In the order in which a folder is tried."""


def unknown(path: Path) -> CheckpointError:
    """The error of a folder that has no known format."""
    return CheckpointError(
        str(path),
        expected="a checkpoint: safetensors, a distributed checkpoint, or with --allow-pickle "
        "pytorch_model.bin, verl's or DeepSpeed's universal files",
        found=listing(path),
        do="give the folder that holds the weights of one step"
        if path.exists()
        else "check the path; a model of the hub is written org/name@revision",
    )


def listing(path: Path) -> str:
    """What a folder holds, in words, for a message."""
    if not path.is_dir():
        return "a file" if path.exists() else "no such folder"
    names = _names(path)
    if not names:
        return "an empty folder"
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def _names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
