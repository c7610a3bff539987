"""Files that a stranger would make to have code run, memory filled, or other files read."""

import functools
import io
import operator
import os
import pickle
import shlex
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import Metadata


class Calls:
    """Pickles as a call of any function, which runs where it is loaded without a fence."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


PROOF = Path("offaxis-proof-of-execution")


def payloads(proof: Path) -> dict[str, object]:
    """Objects whose loading would run code, most of it leaving `proof` behind."""
    command, code = f"touch {shlex.quote(str(proof))}", f"open({str(proof)!r}, 'w').close()"
    return {
        "a shell": Calls(os.system, command),
        "eval": Calls(eval, code),
        "exec": Calls(exec, code),
        "getattr": Calls(getattr, proof, "touch"),
        "a method": Calls(proof.touch),
        "partial": Calls(functools.partial, os.system, command),
        "a chain of attributes": Calls(operator.attrgetter("__class__.__base__"), 1),
        "a call by name": Calls(operator.methodcaller("touch"), proof),
        "torch.load": Calls(torch.load, str(proof)),
        "an import": Calls(__import__, "antigravity"),
        "a bomb": Calls(bytearray, 1 << 40),
        "deep inside": {"weights": [torch.ones(2), {"x": Calls(os.system, command)}]},
    }


NAMES = tuple(payloads(PROOF))

RAW = {
    "a name by the stack": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",
    "a name by an opcode of old": b"cos\nsystem\n(S'true'\ntR.",
    "an instance of old": b"(S'true'\nios\nsystem\n.",
    "a memo without end": b"\x80\x02}r\xff\xff\xff\x7f.",
    "an extension": b"\x80\x02\x82\x01.",
    "a persistent name": b"Pfile\n.",
    "an escape that is none": b"ctorch\n\\d\n.",
    "a string with such an escape": b"S'\\d'\n.",
    "a dotted name": b"\x80\x04\x8c\x05torch\x8c\x0chub.os.system\x93\x8c\x04true\x85R.",
    "an attribute of a listed class": (
        b"\x80\x04\x8c&torch.distributed.checkpoint.metadata\x8c\x15Metadata.__init__.x\x93)R."
    ),
}
"""Pickles that no pickler writes."""


def archive(file: Path, pickled: bytes, *, method: int = zipfile.ZIP_STORED, **records) -> Path:
    """An archive of torch.save's layout around any pickle."""
    with zipfile.ZipFile(file, "w", method) as held:
        held.writestr("archive/data.pkl", pickled)
        held.writestr("archive/version", "3\n")
        for name, content in records.items():
            held.writestr(f"archive/data/{name}", content)
    return file


def pickled(item: object, protocol: int = 2) -> bytes:
    buffer = io.BytesIO()
    pickle.Pickler(buffer, protocol).dump(item)
    return buffer.getvalue()


SMALL = {"model": {"w": torch.arange(12.0).view(3, 4), "v": torch.ones(2).bfloat16()}, "step": 3}


def distributed(folder: Path, state: Mapping[str, object] = SMALL) -> Path:
    """A small distributed checkpoint, as torch saves it."""
    with warnings.catch_warnings(action="ignore"):  # that it is one process
        dcp.save(dict(state), checkpoint_id=folder, no_dist=True)
    return folder


def rewritten(folder: Path, change: Callable[[Metadata], object]) -> Path:
    """The same with its metadata changed."""
    file = folder / ".metadata"
    held = pickle.loads(file.read_bytes())
    file.write_bytes(pickle.dumps(change(held) or held))
    return folder
