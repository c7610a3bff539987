"""What the names of an adapter's tensors say, and by which prefix its base has other names."""

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from offaxis.errors import CheckpointError

PREFIX = "base_model.model."

_PART = re.compile(
    r"(?P<module>.+)\.lora_(?:(?P<side>(?:embedding_)?[AB])|magnitude_vector)"
    r"(?:\.(?P<kind>weight|bias))?"
)


class Adapted(NamedTuple):
    """One module that is adapted, as PEFT names it, and its tensors' names.

    These are known as A and B, embedding_A and embedding_B, magnitude, and B.bias.
    """

    module: str
    names: dict[str, str]

    @property
    def is_embedding(self) -> bool:
        """Whether it is adapted as a table of rows."""
        return "embedding_A" in self.names


class Keys(NamedTuple):
    """The modules that are adapted, and the names of whole tensors by those of the adapter."""

    modules: list[Adapted]
    whole: dict[str, str]


def sort_keys(path: Path, stored: Iterable[str]) -> Keys:
    """Sort the names of an adapter's tensors.

    Raises:
        CheckpointError: If one of them is not as PEFT writes them.
    """
    modules: dict[str, Adapted] = {}
    whole = {}
    for key in stored:
        if not key.startswith(PREFIX):
            raise CheckpointError(
                f"{key!r} in {path}",
                expected=f"names that begin with {PREFIX!r}, as PEFT writes them",
                found="another one",
                do="save the adapter with PEFT's save_pretrained",
            )
        name = key.removeprefix(PREFIX)
        match = _PART.fullmatch(name)
        if match is None:
            whole[key] = _unwrapped(name)
            continue
        kind = match["side"] or "magnitude"
        if match["kind"] == "bias":
            kind += ".bias"
        module = match["module"]
        adapted = modules.setdefault(module, Adapted(_unwrapped(module), {}))
        adapted.names[kind] = key
    return Keys(list(modules.values()), whole)


def _unwrapped(name: str) -> str:
    """A name without the layers that PEFT has put around a module."""
    return ".".join(part for part in name.split(".") if part != "base_layer")


class Renaming(NamedTuple):
    """From PEFT's names to the base's: one prefix taken off, another put before."""

    off: str = ""
    on: str = ""

    def __call__(self, name: str) -> str:
        """The base's name."""
        return self.on + name.removeprefix(self.off)


def renaming(names: Collection[str], base: Collection[str]) -> Renaming:
    """Return the one prefix that makes every name one of the base's; none where none does.

    A file of a model without its head (`h.0...`) lacks the prefix that its module has with it.
    """
    first = next((name for name in names if name not in base), None)
    if first is None:
        return Renaming()
    found = {
        *(Renaming(on=held.removesuffix(first)) for held in base if held.endswith(f".{first}")),
        *(Renaming(off=first.removesuffix(held)) for held in base if first.endswith(f".{held}")),
    }
    every = [one for one in found if all(one(name) in base for name in names)]
    return every[0] if len(every) == 1 else Renaming()
