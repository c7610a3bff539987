"""Plug-ins are found by listing a package; nothing registers itself."""

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, create_model

from offaxis.errors import CatalogError

Plugin = TypeVar("Plugin")


def names(package: str) -> list[str]:
    """The public modules of a package, sorted, without importing any of them."""
    found = importlib.import_module(package)
    return sorted(m.name for m in pkgutil.iter_modules(found.__path__) if m.name[0] != "_")


def collect(package: str, kind: type[Plugin]) -> dict[str, Plugin]:
    """Every object of a kind in the modules of a package, by its `name`, sorted.

    Raises:
        CatalogError: If two of them share a name.
    """
    plugins: dict[str, Plugin] = {}
    for module_name in names(package):
        for plugin in _defined(f"{package}.{module_name}", kind):
            name: str = getattr(plugin, "name")  # noqa: B009 - any plug-in class has one
            if plugins.setdefault(name, plugin) is not plugin:
                raise CatalogError(
                    f"{package}.{module_name}",
                    expected="a name that no other plug-in has",
                    found=f"a second {name!r}",
                    do="rename one of the two",
                )
    return dict(sorted(plugins.items()))


def find(package: str, kind: type[Plugin], name: str) -> Plugin:
    """The plug-in of that name.

    Raises:
        CatalogError: If there is none; the message lists those that are known.
    """
    plugins = collect(package, kind)
    if name not in plugins:
        raise CatalogError(
            package,
            expected=f"one of {', '.join(plugins)}",
            found=repr(name),
            do=suggestion(name, plugins),
        )
    return plugins[name]


def suggestion(found: str, known: Iterable[str]) -> str:
    """What to write instead of a name that is not known."""
    known = list(known)
    close = difflib.get_close_matches(found, known, n=2, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"choose one of {', '.join(known)}" if known else "remove it"


@cache
def settings_model(function: Callable[..., Any]) -> type[BaseModel]:
    """The settings of a plug-in: the keyword-only parameters of its function."""
    fields: dict[str, Any] = {
        p.name: (p.annotation, ... if p.default is p.empty else p.default)
        for p in inspect.signature(function).parameters.values()
        if p.kind is p.KEYWORD_ONLY
    }
    config = ConfigDict(extra="forbid", frozen=True)
    return create_model(f"{function.__name__}_settings", __config__=config, **fields)


def _defined(module_name: str, kind: type[Plugin]) -> list[Plugin]:
    """The objects of a kind in a module; one that is imported from elsewhere is the same object."""
    members = vars(importlib.import_module(module_name)).values()
    return [member for member in members if isinstance(member, kind)]
