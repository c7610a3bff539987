"""The command line: its surface, its exit codes, its promises about speed and silence."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from offaxis.cli import app, assignments, run
from offaxis.errors import UsageError
from tests.models import anchor_weights, save, save_run

VERBS = {
    "demo": {"--out", "--preset", "--workers", "--dry-run", "--json"},
    "reproduce": {"--ids", "--scale", "--quick", "--out", "--workers", "--dry-run", "--json"},
    "train": {"--recipe", "--out", "--set", "--dry-run", "--json"},
    "evaluate": {
        "--paths",
        "--recipe",
        "--set",
        "--anchor",
        "--step",
        "--edit",
        "--harness",
        "--limit",
        "--include-path",
        "--out",
        "--json",
    },
    "measure": {
        "--paths",
        "--out",
        "--anchor",
        "--base",
        "--run",
        "--as",
        "--diagnostics",
        "--tier",
        "--draws",
        "--seed",
        "--device",
        "--max-memory",
        "--workers",
        "--executor",
        "--allow-pickle",
        "--allow-quantised",
        "--min-coverage",
        "--set",
        "--dry-run",
        "--json",
    },
    "disguise": {"--model", "--out", "--layer", "--permute", "--seed", "--json"},
    "compare": {
        "--paths",
        "--anchor",
        "--own-anchors",
        "--allow-pickle",
        "--allow-quantised",
        "--json",
    },
    "export": {"--run", "--out", "--checkpoint", "--json"},
    "inspect": {"--path", "--allow-pickle", "--json"},
    "report": {"--results", "--out", "--json"},
    "list": {"--json"},
}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "offaxis", *arguments]


def test_the_surface_grows_on_purpose() -> None:
    """A new verb or flag is a decision: it is written here too."""
    found = {name for name in app if not name.startswith("-")}
    assert found == set(VERBS)
    for verb, flags in VERBS.items():
        arguments = app[verb].assemble_argument_collection()
        names = {name for argument in arguments for name in argument.names}
        assert names == flags, verb


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom offaxis.cli import run\nassert run(['--help']) == 0\n"
        "heavy = {'torch', 'pyarrow', 'transformers', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "measure" in done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture) -> None:
    assert run([verb, "--help"]) == 0
    assert "Usage:" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["fly"],
        ["measure"],
        ["measure", "x", "--draws", "many"],
        ["measure", "x", "--draws", "1"],
        ["measure", "x", "--as", "fp8"],
        ["measure", "x", "--diagnostics", "rankk"],
        ["measure", "x", "--set", "rotation.kk=3"],
        ["measure", "x", "--set", "rotation.k=three"],
        ["measure", "x", "--set", "rotation"],
        ["measure", "x", "--set", "rotation.k=0"],
        ["measure", "x", "--set", "rotation.k=true"],
        ["measure", "x", "--set", "masks.alpha=2"],
        ["measure", "x", "--set", "masks.alpha=nan"],
        ["measure", "x", "--set", "sparsity.eta=-1"],
        ["measure", "x", "--set", "similarity.K=[]"],
        ["demo", "--preset", "huge"],
        ["train"],
        ["evaluate"],
        ["report"],
        ["inspect"],
    ],
)
def test_usage_errors_exit_with_2(arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert captured.err


def test_a_wrong_name_is_answered_with_the_right_one(capsys: pytest.CaptureFixture) -> None:
    run(["measure", "x", "--set", "rotation.kk=3"])
    assert "did you mean rotation.k" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["measure", "report", "train", "evaluate", "inspect"])
def test_a_missing_path_is_one_message(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run([verb, str(tmp_path / "nowhere")]) in (2, 3)
    captured = capsys.readouterr()
    for part in ("where:", "expected:", "found:", "do:"):
        assert captured.err.count(part) == 1
    assert "nowhere" in captured.err


def test_no_anchor_is_usage(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    save(tmp_path / "run" / "checkpoint-3", anchor_weights())
    assert run(["measure", str(tmp_path / "run")]) == 2
    assert "--anchor" in capsys.readouterr().err


def test_measure_then_report_as_a_user_would(tmp_path: Path) -> None:
    folder = save_run(tmp_path / "my run", {3: 1e-3, 9: 1e-2})
    done = subprocess.run(
        command("measure", str(folder), "--json"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["results"] == str(folder / "offaxis")
    assert "plan:" in done.stderr
    assert "and 1 tensor by its elements" in done.stderr
    done = subprocess.run(
        command("report", str(folder / "offaxis"), "--json"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    page = Path(json.loads(done.stdout)["report"])
    assert page == folder / "offaxis" / "report.html"
    assert page.stat().st_size > 100_000


def test_a_pickle_is_refused_with_the_command_that_reads_it(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for step in (0, 1):
        (tmp_path / f"a run/checkpoint-{step}").mkdir(parents=True)
        weights = {"model.layers.0.mlp.up_proj.weight": torch.randn(8, 8)}
        torch.save(weights, tmp_path / f"a run/checkpoint-{step}/pytorch_model.bin")
    arguments = ["measure", str(tmp_path / "a run"), "--out", str(tmp_path / "results")]
    assert run(arguments) == 3
    command = capsys.readouterr().err.splitlines()[-1].strip()
    assert command == f"offaxis {shlex.join(arguments)} --allow-pickle"
    assert run(shlex.split(command)[1:]) == 0


def test_no_workers_is_usage(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = save_run(tmp_path / "run", {3: 1e-3})
    assert run(["measure", str(folder), "--workers", "0"]) == 2
    assert "at least 1" in capsys.readouterr().err


def test_a_dry_run_measures_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = save_run(tmp_path / "run", {3: 1e-3})
    assert run(["measure", str(folder), "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["runs"] == {"run": [3]}
    assert (plan["matrices"], plan["elements_only"], plan["units"]) == (5, 1, 6)
    assert plan["core_minutes_fast"] <= plan["core_minutes"]
    assert not (folder / "offaxis").exists()


def test_list_names_every_plug_in(capsys: pytest.CaptureFixture) -> None:
    assert run(["list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "stable_rank" in found["diagnostics"]["rank"]["quantities"]
    assert {"sft", "opd", "grpo"} <= set(found["objectives"])
    assert "chain13" in found["tasks"]
    assert "tiny/opd.toml" in found["recipes"]


@pytest.mark.parametrize(
    "call",
    [
        ["demo"],
        ["reproduce", "list"],
        ["train", "recipe.toml"],
        ["export", "run", "--out", "adapter"],
        ["disguise", "model", "--out", "other"],
        ["evaluate", "run"],
    ],
)
def test_a_missing_extra_is_named(
    call: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("offaxis.errors.find_spec", lambda name: None)
    assert run(call) == 2
    said = capsys.readouterr().err
    assert f"offaxis {call[0]}" in said
    assert "pip install 'offaxis[train]'" in said


def test_the_list_tells_relatives_apart(capsys: pytest.CaptureFixture) -> None:
    assert run(["list"]) == 0
    said = capsys.readouterr().out
    assert "diagnostic rank: " in said
    assert "relative mask_algebra: " in said


def test_values_are_toml_and_bare_words_are_strings() -> None:
    assert assignments(["a.b=3", "c=0.5", "d=[1, 2]", "e=word", 'f="3"']) == {
        "a.b": 3,
        "c": 0.5,
        "d": [1, 2],
        "e": "word",
        "f": "3",
    }
    with pytest.raises(UsageError, match="key=value"):
        assignments(["=3"])


def test_internal_errors_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("offaxis.cli.assignments", lambda pairs: 1 / 0)
    monkeypatch.delenv("OFFAXIS_TRACEBACK", raising=False)
    assert run(["measure", "x"]) == 1
    error = capsys.readouterr().err
    assert "ZeroDivisionError" in error
    assert "Traceback" not in error
