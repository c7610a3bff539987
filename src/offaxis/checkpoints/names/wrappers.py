"""The names that wrappers of training leave in a checkpoint, taken off."""

import re

_ANYWHERE = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_IN_FRONT = re.compile(r"^(?:module\.|base_model\.model\.)+")


def unwrapped(name: str) -> str:
    """Take off what torch.compile, FSDP, DDP, activation checkpointing and PEFT put around names.

    What stands between dots is taken off wherever it stands, `module.` and `base_model.model.` in
    front only. Taking it off twice changes nothing; a name of nothing else is left as it is.

    Example:
        >>> unwrapped("module._orig_mod.model.layers.0._fsdp_wrapped_module.mlp.up_proj.weight")
        'model.layers.0.mlp.up_proj.weight'
    """
    parts = [part for part in name.split(".") if part not in _ANYWHERE]
    return _IN_FRONT.sub("", ".".join(parts)) or name
