"""The verbs: parse, call one stage, say where the result is. Nothing heavy is imported here."""

import json
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

from offaxis.errors import Interrupted, OffaxisError, UsageError, printable, require

app = App(
    name="offaxis",
    help="Measure the geometry of weight updates, beside what chance alone would have shown.",
    help_format="plaintext",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)

INTERRUPTED = 130

Storage = Literal["stored", "bf16"]
Preset = Literal["smoke", "default", "study"]
Tier = Literal["exact", "fast"]
Scale = Literal["tiny", "gpu", "paper"]
Engine = Literal["pool", "torchrun", "ray"]

Set = Annotated[
    tuple[str, ...],
    Parameter(name="--set", negative="", help="Override a setting, as key=value; repeatable."),
]
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON document.")]
DryRun = Annotated[
    bool, Parameter(name="--dry-run", negative="", help="Print the plan and stop there.")
]
AllowPickle = Annotated[
    bool,
    Parameter(negative="", help="Open pickled weights, through weights_only=True alone."),
]
AllowQuantised = Annotated[
    bool,
    Parameter(negative="", help="Measure quantised weights too, whose noise is in every number."),
]
Workers = Annotated[
    int | None, Parameter(help="Processes, one thread each; as many as cores by default.")
]


def main() -> None:
    """Run the command line and leave with its exit code."""
    code = run(sys.argv[1:])
    if code > INTERRUPTED - signal.SIGINT:
        # What an interrupted pool has left behind must not be waited for.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command; every foreseen failure is one message and its exit code."""
    try:
        app(list(arguments), exit_on_error=False, print_error=True)
    except OffaxisError as error:
        print(f"offaxis: error\n{error}{_with_flag(arguments, error.do)}", file=sys.stderr)
        return error.exit_code
    except CycloptsError:
        return UsageError.exit_code
    except Interrupted as stopped:
        print(f"offaxis: interrupted; {stopped}", file=sys.stderr)
        return stopped.exit_code
    except KeyboardInterrupt:
        print("offaxis: interrupted; what was finished is kept", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:  # the last resort, so that no user sees a traceback
        if os.environ.get("OFFAXIS_TRACEBACK"):
            raise
        print(
            f"offaxis: internal error: {type(error).__name__}: {printable(str(error))}\n"
            "do:       run again with OFFAXIS_TRACEBACK=1 and report what it prints",
            file=sys.stderr,
        )
        return 1
    return 0


def _with_flag(arguments: Sequence[str], advice: str) -> str:
    """The same command with the flag that is advised, to be copied; nothing without such a flag."""
    flags = [flag for flag in ("--allow-pickle", "--allow-quantised") if flag in advice]
    commands = [printable(shlex.join([*arguments, flag])) for flag in flags]
    return "".join(f"\n{'':<10}offaxis {command}" for command in commands)


@app.command
def demo(
    out: Annotated[
        Path | None, Parameter(help="Output folder; demo, or demo-PRESET, by default.")
    ] = None,
    *,
    preset: Annotated[Preset, Parameter(help="How much to train.")] = "default",
    workers: Workers = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train a tiny model three ways, measure every update against its null, show the result."""
    require("transformers", "train", "offaxis demo")
    from offaxis.demo import demo as run_demo

    folder = out or Path("demo" if preset == "default" else f"demo-{preset}")
    _say(run_demo(folder, preset=preset, workers=workers, dry_run=dry_run), as_json)


@app.command
def reproduce(
    ids: Annotated[
        tuple[str, ...],
        Parameter(help="Tables and figures of the paper; `list` lists them.", negative=""),
    ] = (),
    *,
    scale: Annotated[Scale, Parameter(help="Which recipes.")] = "tiny",
    quick: Annotated[bool, Parameter(negative="", help="Fewer arms and draws.")] = False,
    out: Annotated[
        Path | None, Parameter(help="Output folder; reproduction-SCALE by default.")
    ] = None,
    workers: Workers = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Reproduce tables and figures of the paper, with the controls they lack."""
    require("transformers", "train", "offaxis reproduce")
    from offaxis.reproduction.command import reproduce as run_reproduce

    _say(
        run_reproduce(ids, scale=scale, quick=quick, out=out, workers=workers, dry_run=dry_run),
        as_json,
    )


@app.command
def train(
    recipe: Annotated[Path, Parameter(help="A TOML recipe.")],
    *,
    out: Annotated[Path, Parameter(help="Output folder.")] = Path("runs"),
    overrides: Set = (),
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train one arm from its recipe, and first whatever model it starts from."""
    require("transformers", "train", "offaxis train")
    from offaxis.training import train_command

    _say(train_command(recipe, overrides, out, dry_run=dry_run), as_json)


@app.command
def export(
    run: Annotated[Path, Parameter(help="The folder of a run trained in a subspace.")],
    *,
    out: Annotated[Path, Parameter(help="The adapter's folder, which must not exist yet.")],
    checkpoint: Annotated[int | None, Parameter(help="The step; the last by default.")] = None,
    as_json: Json = False,
) -> None:
    """Write a run in a subspace as the LoRA adapter on its start that it is exactly."""
    require("transformers", "train", "offaxis export")
    from offaxis.training import export_adapter

    _say(export_adapter(run, out, checkpoint), as_json)


@app.command
def disguise(
    model: Annotated[Path, Parameter(help="A Hugging Face folder.")],
    *,
    out: Annotated[Path, Parameter(help="The new model's folder, which must not exist yet.")],
    layer: Annotated[
        tuple[int, ...], Parameter(negative="", help="Only these layers; repeatable.")
    ] = (),
    permute: Annotated[bool, Parameter(negative="", help="Reorder key-value heads, too.")] = False,
    seed: Annotated[int, Parameter(help="Key of the draws.")] = 0,
    as_json: Json = False,
) -> None:
    """Write a model that computes the same from rotated values: do updates follow the weights?"""
    require("transformers", "train", "offaxis disguise")
    from offaxis.training.symmetries import disguise as disguised

    _say(disguised(model, out, layer, permutes=permute, seed=seed), as_json)


@app.command
def evaluate(
    paths: Annotated[
        tuple[Path, ...],
        Parameter(help="Models, runs or checkpoints.", negative="", required=True),
    ],
    *,
    recipe: Annotated[
        Path | None, Parameter(help="The task and how to judge; the run's own by default.")
    ] = None,
    overrides: Set = (),
    anchor: Annotated[
        Path | None,
        Parameter(help="The model the forward KL is measured from; the run's checkpoint-0."),
    ] = None,
    step: Annotated[
        tuple[int, ...], Parameter(negative="", help="Only these checkpoints of a run; repeatable.")
    ] = (),
    edits: Annotated[
        tuple[str, ...],
        Parameter(
            name="--edit",
            negative="",
            help="Judge edited weights too, beside random directions of their size: top=K[,norm], "
            "bottom=K[,norm], scale=BETA, extrapolate=K[,from=STEP], spectrum; repeatable.",
        ),
    ] = (),
    harness: Annotated[
        str | None, Parameter(help="TASK[,TASK] of lm-eval, instead of the recipe's problems.")
    ] = None,
    limit: Annotated[int | None, Parameter(help="Documents of each task of --harness.")] = None,
    include_path: Annotated[
        Path | None, Parameter(help="A folder of YAML tasks for --harness.")
    ] = None,
    out: Annotated[
        Path | None, Parameter(help="Write the rows to this .jsonl or .parquet file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Judge models: accuracy, avg@k, pass@k, and how far they went from their anchor."""
    require("transformers", "train", "offaxis evaluate")
    from offaxis.training import Choices, Harness, as_table, evaluate_command

    if harness is None and (limit is not None or include_path is not None):
        raise UsageError(
            "--limit, --include-path",
            expected="--harness TASK beside them",
            found="none",
            do="name the tasks of lm-eval, or set evaluation.problems with --set",
        )
    asked = None
    if harness is not None:
        asked = Harness(tuple(harness.split(",")), limit, include_path)
    choices = Choices(recipe, overrides, anchor, step)
    found = evaluate_command(paths, choices, edits=edits, harness=asked, out=out)
    _say(found, True) if as_json else print(printable(as_table(found), keep="\n"))


@app.command
def measure(
    paths: Annotated[
        tuple[Path, ...],
        Parameter(
            help="RUN_FOLDER..., or ANCHOR CHECKPOINT... (folders, or org/name@revision).",
            negative="",
            required=True,
        ),
    ],
    *,
    out: Annotated[
        Path | None, Parameter(help="Results folder; RUN_FOLDER/offaxis by default.")
    ] = None,
    anchor: Annotated[
        Path | None, Parameter(help="The checkpoint that updates are measured from.")
    ] = None,
    base: Annotated[
        Path | None, Parameter(help="The model that adapters change, where it is not the anchor.")
    ] = None,
    run: Annotated[str | None, Parameter(help="Name of the run.")] = None,
    storage: Annotated[
        tuple[Storage, ...],
        Parameter(
            name="--as", negative="", help="As stored, or as bf16 files would show; repeatable."
        ),
    ] = ("stored",),
    only: Annotated[
        tuple[str, ...] | None,
        Parameter(name="--diagnostics", negative="", help="Only this diagnostic; repeatable."),
    ] = None,
    tier: Annotated[
        Tier, Parameter(help="Exact, or fast by the anchor's basis, with its bounds.")
    ] = "exact",
    draws: Annotated[int, Parameter(help="Draws of each random null.")] = 3,
    seed: Annotated[int, Parameter(help="Key of the draws.")] = 0,
    device: Annotated[str, Parameter(help="Where to work on matrices: cpu, cuda.")] = "cpu",
    max_memory: Annotated[
        str | None,
        Parameter(
            help="What matrices in work may take together, as 8GB; libraries take 0.4 GB a worker."
        ),
    ] = None,
    workers: Workers = None,
    executor: Annotated[
        Engine | None,
        Parameter(help="What runs the work; pool by default, torchrun where torchrun started it."),
    ] = None,
    allow_pickle: AllowPickle = False,
    allow_quantised: AllowQuantised = False,
    min_coverage: Annotated[
        float, Parameter(help="Share of both sides' weights that must be paired, else exit code 4.")
    ] = 0.99,
    overrides: Set = (),
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Measure every weight matrix of every checkpoint, with its null beside it."""
    from offaxis.checkpoints.access import Access
    from offaxis.measurement.command import measure_command

    result = measure_command(
        paths,
        out=out,
        anchor=anchor,
        run=run,
        storages=storage,
        only=only,
        tier=tier,
        draws=draws,
        seed=seed,
        device=device,
        max_memory=max_memory,
        workers=workers,
        executor=executor,
        overrides=assignments(overrides),
        dry_run=dry_run,
        access=Access(pickle=allow_pickle, quantised=allow_quantised, base=base),
        min_coverage=min_coverage,
    )
    if result:  # of torchrun's ranks, only the first has one
        _say(result, as_json)


@app.command
def inspect(
    path: Annotated[
        Path,
        Parameter(help="A run folder, a checkpoint, a file of weights, or org/name@revision."),
    ],
    *,
    allow_pickle: AllowPickle = False,
    as_json: Json = False,
) -> None:
    """Say what a path holds and what measuring it needs, without reading weights."""
    from offaxis.checkpoints.inspection import as_lines
    from offaxis.checkpoints.inspection import inspect as inspect_path
    from offaxis.console import messages
    from offaxis.measurement.remote import headers_of

    with headers_of([path], messages()) as (folder,):
        told = inspect_path(folder, pickle=allow_pickle)
    # What was laid out to be looked at is gone; its name shall not be told.
    named = ((key, value, isinstance(value, str)) for key, value in told.items())
    found = {k: v.replace(str(folder), str(path)) if is_text else v for k, v, is_text in named}
    _say(found if as_json else as_lines(found), as_json)


@app.command
def compare(
    paths: Annotated[
        tuple[Path, ...],
        Parameter(help="Run folders of one anchor.", negative="", required=True),
    ],
    *,
    anchor: Annotated[
        Path | None, Parameter(help="The checkpoint that updates are measured from.")
    ] = None,
    own_anchors: Annotated[
        bool, Parameter(negative="", help="Measure runs of different anchors, each from its own.")
    ] = False,
    allow_pickle: AllowPickle = False,
    allow_quantised: AllowQuantised = False,
    as_json: Json = False,
) -> None:
    """Compare where runs from one anchor change their weights, with chance and gate beside it."""
    from offaxis.checkpoints.access import Access
    from offaxis.measurement.compare import compare_command
    from offaxis.measurement.compared import as_table

    access = Access(pickle=allow_pickle, quantised=allow_quantised)
    found = compare_command(paths, anchor=anchor, own_anchors=own_anchors, access=access)
    _say(found, True) if as_json else print(printable(as_table(found), keep="\n"))


@app.command
def report(
    results: Annotated[Path, Parameter(help="A results folder.")],
    *,
    out: Annotated[Path | None, Parameter(help="The page; RESULTS/report.html by default.")] = None,
    as_json: Json = False,
) -> None:
    """Write one self-contained page from a results folder."""
    from offaxis.report import write_report

    _say({"report": str(write_report(results, out))}, as_json)


@app.command(name="list")
def list_(*, as_json: Json = False) -> None:
    """List diagnostics, objectives, tasks and recipes."""
    from offaxis.listing import as_lines, listing

    found = listing()
    _say(found if as_json else as_lines(found), as_json)


def assignments(pairs: Sequence[str]) -> dict[str, Any]:
    """Read `key=value` pairs; values are TOML, a bare word is a string.

    Raises:
        UsageError: If there is no `=`.
    """
    import tomllib

    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(
                f"--set {pair}",
                expected="key=value",
                found=repr(pair),
                do="write for example --set rotation.k=64",
            )
        try:
            found[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[key] = value
    return found


def _say(result: dict[str, Any], as_json: bool) -> None:
    """Print a result for programs, or what of it is one line for people."""
    if as_json:
        print(json.dumps(result, indent=2, allow_nan=False))
    else:
        for key, value in result.items():
            if not isinstance(value, dict | list):
                print(f"{printable(key)}: {printable(str(value))}")
