"""Plug-ins are found by listing, once each; a function's signature is its settings."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from offaxis.catalog import collect, names, settings_model, suggestion
from offaxis.errors import CatalogError


class Plugin:
    def __init__(self, name):
        self.name = name


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes a package of the given modules and gives its name."""

    def write(**modules):
        folder = tmp_path / "plugins_of_a_test"
        folder.mkdir()
        (folder / "__init__.py").touch()
        for name, text in modules.items():
            (folder / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(sys, "plugin_of_a_test", Plugin, raising=False)
        return folder.name

    yield write
    for name in [name for name in sys.modules if name.startswith("plugins_of_a_test")]:
        del sys.modules[name]


PLUGIN = "import sys\nPlugin = sys.plugin_of_a_test\nmine = Plugin('{}')\n"


def test_what_a_module_defines_is_found_and_what_it_imports_is_not_counted_twice(package):
    name = package(
        one=PLUGIN.format("one"), two="from plugins_of_a_test.one import mine\n", _hidden="1 / 0\n"
    )
    assert names(name) == ["one", "two"]
    assert list(collect(name, Plugin)) == ["one"]


def test_two_of_one_name_are_an_error(package):
    name = package(one=PLUGIN.format("same"), two=PLUGIN.format("same"))
    with pytest.raises(CatalogError, match="a second 'same'"):
        collect(name, Plugin)


def test_settings_are_the_keyword_only_parameters():
    def diagnose(update: int, *, k: int = 64, name: str) -> None: ...

    settings = settings_model(diagnose)
    assert settings(name="x").model_dump() == {"k": 64, "name": "x"}
    for wrong in ({"name": "x", "update": 1}, {"name": "x", "k": "many"}, {}):
        with pytest.raises(ValidationError):
            settings(**wrong)


def test_a_suggestion_is_near_or_lists_all():
    assert suggestion("optimiser", ["optimizer", "data"]) == "did you mean optimizer?"
    assert suggestion("zzz", ["a", "b"]) == "choose one of a, b"
    assert suggestion("zzz", []) == "remove it"


def test_recipes_are_read_without_torch():
    code = "import sys, offaxis.recipe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
