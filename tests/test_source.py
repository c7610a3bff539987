"""What the source must never hold, whatever it does: ways for a checkpoint's code to be run."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))

UNPICKLERS = {
    "checkpoints/trust/unpickling.py",  # finds listed names alone
    "measurement/executors/torchrun.py",  # what its own ranks tell each other
}
RUNNERS: set[str] = set()


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def where(path: Path) -> str:
    return str(path.relative_to(ROOT / "src" / "offaxis"))


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    return {where(path): ast.parse(path.read_text("utf-8")) for path in SOURCES}


def is_true(call: ast.Call, keyword: str) -> bool:
    given = {k.arg: k.value for k in call.keywords}
    value = given.get(keyword)
    return isinstance(value, ast.Constant) and value.value is True


def test_every_torch_load_is_fenced(trees) -> None:
    found = [(w, call) for w, t in trees.items() for name, call in calls(t) if name == "torch.load"]
    assert "checkpoints/trust/pickles.py" in {place for place, _ in found}
    assert all(is_true(call, "weights_only") for _, call in found)


def test_nothing_unpickles_but_what_is_listed(trees) -> None:
    modules = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
    importing = {
        place
        for place, tree in trees.items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Import) and modules & {a.name for a in node.names})
        or (isinstance(node, ast.ImportFrom) and node.module in modules)
    }
    assert importing == UNPICKLERS
    names = {"load", "loads", "Unpickler"}
    (listed,) = (
        tree for place, tree in trees.items() if place == "checkpoints/trust/unpickling.py"
    )
    called = {name for name, _ in calls(listed)}
    assert not called & {f"pickle.{name}" for name in names}


def test_nothing_is_evaluated(trees) -> None:
    running = {
        place
        for place, tree in trees.items()
        for name, _ in calls(tree)
        if name in ("eval", "exec", "compile", "runpy.run_path", "builtins.eval", "builtins.exec")
    }
    assert running == RUNNERS


def test_no_remote_code_and_no_loading_around_the_fence(trees) -> None:
    banned = {
        "trust_remote_code",
        "read_metadata",
        "FileSystemReader",
        "add_safe_globals",
        "safe_globals",
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD",
        "allow_pickle",
    }
    found = {
        (place, word)
        for place, tree in trees.items()
        for node in ast.walk(tree)
        for word in banned
        if (isinstance(node, ast.keyword | ast.arg) and node.arg == word)
        or (isinstance(node, ast.Attribute) and node.attr == word)
        or (isinstance(node, ast.Name) and node.id == word)
        or (isinstance(node, ast.Constant) and node.value == word)
    }
    flags = {("cli.py", "allow_pickle")}
    assert found == flags


def test_the_oldest_torch_that_is_allowed_fences() -> None:
    """Before 2.10, `weights_only` could be got around (CVE-2026-24747)."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    needed = {r.name: r.specifier for r in map(Requirement, project["dependencies"])}
    assert not needed["torch"].contains(Version("2.9.1"))
    assert needed["torch"].contains(Version("2.10.0"))


def test_the_promises_are_written_down() -> None:
    text = (ROOT / "SECURITY.md").read_text("utf-8")
    for path in ROOT.rglob("tests/**/test_*.py"):
        if f"`{path.relative_to(ROOT)}`" in text:
            break
    else:
        pytest.fail("SECURITY.md names no test")
    named = [word.strip("`") for word in text.split() if word.startswith("`tests/")]
    assert all((ROOT / word.rstrip("`.,;)")).is_file() for word in named)
