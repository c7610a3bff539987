"""Every error that a user can cause, and the exit code it ends with.

OffaxisError
├── UsageError       (ValueError)       exit 2: a command line that cannot be meant
├── RecipeError      (ValueError)       exit 2: unknown key, wrong type, impossible combination
├── CatalogError     (LookupError)      exit 2: no such diagnostic, objective or task
├── CheckpointError  (OSError)          exit 3: missing, truncated, mismatched or non-finite tensors
├── ResultsError     (OSError)          exit 3: a results folder that cannot be read or written
├── CoverageError    (ValueError)       exit 4: less was measured than was asked for
├── NumericsError    (ArithmeticError)  exit 3: no convergence, a basis that is not orthonormal
└── ServerError      (ConnectionError)  exit 5: a server of a teacher or of rollouts failed

Interrupted          (KeyboardInterrupt) exit 128 + signal: told to stop, and stopped in good order
"""

from importlib.util import find_spec
from typing import ClassVar


def printable(text: str, keep: str = "") -> str:
    """Spell out what a terminal would obey, so that a name from a file can forge no line.

    Args:
        text: What is to be printed.
        keep: Characters to leave as they are, though they do not print.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)


class OffaxisError(Exception):
    """A failure with its place, what was expected, what was found, and what to do."""

    exit_code: ClassVar[int] = 1

    def __init__(self, where: str, *, expected: str, found: str, do: str) -> None:
        self.where, self.expected, self.found, self.do = where, expected, found, do
        super().__init__(where, expected, found, do)

    def __str__(self) -> str:
        said = {"where": self.where, "expected": self.expected, "found": self.found, "do": self.do}
        return "\n".join(f"{f'{key}:':<10}{printable(text)}" for key, text in said.items())

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.where, self.expected, self.found, self.do)


class Interrupted(KeyboardInterrupt):
    """A signal asked for the end, and what was in work was brought to a point to continue from."""

    def __init__(self, number: int, said: str = "what was finished is kept") -> None:
        self.number, self.said = number, said
        super().__init__(number, said)

    def __str__(self) -> str:
        return self.said

    @property
    def exit_code(self) -> int:
        """What shells report for a process that the signal has ended."""
        return 128 + self.number


def _rebuild(
    kind: type[OffaxisError], where: str, expected: str, found: str, do: str
) -> OffaxisError:
    """Restore an error on the other side of a process boundary."""
    return kind(where, expected=expected, found=found, do=do)


class UsageError(OffaxisError, ValueError):
    """The command line cannot be meant as it stands."""

    exit_code = 2


class RecipeError(OffaxisError, ValueError):
    """A recipe has an unknown key, a wrong type or an impossible combination."""

    exit_code = 2


class CatalogError(OffaxisError, LookupError):
    """No diagnostic, objective or task has this name."""

    exit_code = 2


class CheckpointError(OffaxisError, OSError):
    """A checkpoint is missing, truncated, mismatched or holds values that are not numbers."""

    exit_code = 3


class ResultsError(OffaxisError, OSError):
    """A results folder cannot be read or written."""

    exit_code = 3


class CoverageError(OffaxisError, ValueError):
    """Less of the model was measured than was asked for."""

    exit_code = 4


class NumericsError(OffaxisError, ArithmeticError):
    """A numerical method met an input it is not defined for, or did not converge."""

    exit_code = 3


class ServerError(OffaxisError, ConnectionError):
    """A server of a teacher or of rollouts stopped answering, or answered what cannot be used."""

    exit_code = 5


def require(module: str, extra: str, where: str) -> None:
    """Refuse to go on without a package of an extra.

    Args:
        module: What would be imported.
        extra: The extra that installs it.
        where: What asked for it.

    Raises:
        UsageError: If it is not installed.
    """
    if find_spec(module) is None:
        raise UsageError(
            where,
            expected=f"the packages of the extra `{extra}`",
            found=f"no {module}",
            do=f"pip install 'offaxis[{extra}]'",
        )
