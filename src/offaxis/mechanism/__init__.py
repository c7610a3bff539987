"""Why updates have the shape they have: gradients of single tokens and rollouts, never stored."""

from offaxis.mechanism.conditions import Choice
from offaxis.mechanism.study import mechanism_of

__all__ = ["Choice", "mechanism_of"]
