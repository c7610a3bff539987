"""PEFT's adapters: what they change of a base, as the thin factors that they are."""

from offaxis.checkpoints.adapters.folder import AdapterFolder

__all__ = ["AdapterFolder"]
