"""Time training against TRL's trainers on the same model, prompts, lengths and settings.

    python benchmarks/training.py [--quick] [--hidden 128] [--device cpu] [SUBJECT ...]

Tokens read by the model per CPU second of one thread (per second of wall clock on an accelerator),
rollouts included, in float32. Both trainers alternate in one process, so that whatever else the
machine does falls on both; a figure is the median ratio of the pairs with its bootstrap interval.
Prints a table and writes it as Parquet and Markdown under benchmarks/results/.
"""

import argparse
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

import offaxis.training  # noqa: F401 - before the Hugging Face libraries, which it keeps offline
from offaxis.catalog import find
from offaxis.objectives.base import Objective
from offaxis.recipe import Recipe, recipe_from
from offaxis.tasks.base import Document, GeneratedTask
from offaxis.training.linears import use_full_width
from offaxis.training.models import task_tokenizer
from offaxis.training.quiet import quiet_and_reproducible
from offaxis.training.resume import Origin, States
from offaxis.training.sources import Documents, Rollouts
from offaxis.training.trainer import StreamTrainer
from rows import Row, markdown
from run import RESULTS

from transformers import (  # isort: skip
    AutoModelForCausalLM,
    PrinterCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen3Config,
    TrainerCallback,
)

ROWS, GROUP, READ, SAMPLED = 8, 4, 32, 64
"""Rows of a step, rollouts of a prompt for GRPO, tokens of a prompt, tokens of a completion."""

WARM_UP = 2
RESAMPLES = 10_000

_FIRST, _VOCABULARY = 0x4E00, 2047
ALPHABET = "".join(chr(_FIRST + i) for i in range(_VOCABULARY))
PADDING, END = "_", "$"
"""The end of text is the one token that the model has no logit for: no completion ends early."""


class Shape(NamedTuple):
    """A model, how many steps of it are timed, and the goals of its rows."""

    hidden: int
    layers: int
    steps: int
    goals: dict[str, str]


SHAPES = {
    128: Shape(128, 4, 8, {"sft": ">= 1.2", "opd": ">= 1.1", "grpo": ">= 1.1"}),
    512: Shape(512, 8, 3, {"sft": ">= 1", "opd": ">= 1.05", "grpo": ">= 1"}),
}


class Clock(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Seconds of all steps but the first ones: whatever a step needs lies between two ends."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.times: list[float] = []

    def on_step_end(self, *_: object, **__: object) -> None:
        """Take the time; every kernel is done by then."""
        if self.device == "cpu":
            self.times.append(time.process_time())
        else:
            torch.accelerator.synchronize()
            self.times.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        """Of the steps after the warm-up."""
        return self.times[-1] - self.times[WARM_UP - 1]


def task() -> GeneratedTask:
    """Random characters to read and to learn; a rollout is rewarded for an even first one."""

    def text(random: Random, length: int) -> str:
        return "".join(random.choices(ALPHABET, k=length))

    return GeneratedTask(
        name="characters",
        alphabet=ALPHABET + PADDING + END,
        end=END,
        padding=PADDING,
        kinds={
            "texts": lambda random: Document("", text(random, READ + SAMPLED)),
            "problems": lambda random: Document(text(random, READ), ""),
        },
        problem_kind="problems",
        verify=lambda _, completion: is_even(completion),
        held_out=lambda _: False,
        answer_length=SAMPLED,
    )


def is_even(completion: str) -> bool:
    return ord(completion[0]) % 2 == 0


def model(
    shape: Shape, tokenizer: PreTrainedTokenizerBase, seed: int, device: str
) -> PreTrainedModel:
    config = Qwen3Config(
        vocab_size=len(tokenizer) - 1,
        hidden_size=shape.hidden,
        intermediate_size=3 * shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.hidden // 32,
        num_key_value_heads=shape.hidden // 64,
        head_dim=32,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    made = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").to(device)
    made.generation_config.eos_token_id = tokenizer.eos_token_id
    made.generation_config.pad_token_id = tokenizer.pad_token_id
    return made


def recipe(kind: str, steps: int, device: str) -> Recipe:
    group = GROUP if kind == "grpo" else 1
    data = {"mixture": {"facts": ROWS}} if kind == "sft" else {"prompts": ROWS // group}
    return recipe_from(
        {
            "arm": kind,
            # Recipes name a bundled task and models; here both are made beside it.
            "start": {"path": "made-here"},
            **({"teacher": {"path": "made-here"}} if kind == "opd" else {}),
            "objective": {"kind": kind},
            "data": {"task": "chain13", **data},
            "rollouts": {"per_prompt": group, "max_tokens": SAMPLED},
            "optimizer": {"lr": 1e-5, "warmup_steps": 0},
            "precision": {
                "autocast": "none",
                "attention": "sdpa",
                "device": "cpu" if device == "cpu" else "auto",
            },
            "steps": {"max": steps},
        },
        "benchmarks/training.py",
    )


def ours(kind: str, shape: Shape, steps: int, device: str) -> float:
    """Seconds of the timed steps of our trainer."""
    made, given = task(), recipe(kind, steps, device)
    tokenizer = task_tokenizer(made)
    source = (
        Documents(made, tokenizer, {"texts": ROWS}, seed=0)
        if kind == "sft"
        else Rollouts(made, tokenizer, given)
    )
    clock = Clock(device)
    student, teacher = (model(shape, tokenizer, seed, device) for seed in (0, 1))
    for each in (student, teacher):  # as our own opening of a model does
        use_full_width(each)
    with tempfile.TemporaryDirectory() as scratch, quiet_and_reproducible(1):
        StreamTrainer(
            student,
            given,
            source=source,
            objective=find("offaxis.objectives", Objective, kind),
            states=States(Path(scratch), Origin("", {})),
            teacher=teacher if kind == "opd" else None,
            callbacks=[clock],
        ).train()
    return clock.seconds


def theirs(kind: str, shape: Shape, steps: int, device: str) -> float:
    """Seconds of the timed steps of TRL's trainer."""
    warnings.filterwarnings("ignore", category=FutureWarning)  # of TRL's use of transformers
    import trl  # noqa: PLC0415 - five seconds
    from datasets import Dataset  # noqa: PLC0415

    made = task()
    tokenizer = task_tokenizer(made)
    num_prompts = ROWS // GROUP if kind == "grpo" else ROWS
    document = "texts" if kind == "sft" else "problems"
    texts = [made.document(document, seed=0, index=i) for i in range(steps * num_prompts)]
    settings: dict[str, Any] = {
        "max_steps": steps,
        "per_device_train_batch_size": ROWS,
        "learning_rate": 1e-5,
        "lr_scheduler_type": "constant",
        "adam_beta2": 0.95,
        "max_grad_norm": 1.0,
        "bf16": False,
        "use_cpu": device == "cpu",
        "activation_checkpointing": False,
        "dataloader_pin_memory": False,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "shuffle_dataset": False,
    }
    clock = Clock(device)
    common = {
        "model": model(shape, tokenizer, 0, device),
        "processing_class": tokenizer,
        "callbacks": [clock],
    }
    with tempfile.TemporaryDirectory() as scratch, quiet_and_reproducible(1):
        settings["output_dir"] = scratch
        if kind == "sft":
            ids = [{"input_ids": tokenizer(text.answer)["input_ids"]} for text in texts]
            trainer = trl.SFTTrainer(
                args=trl.SFTConfig(**settings, dataset_kwargs={"skip_prepare_dataset": True}),
                train_dataset=Dataset.from_list(ids),
                **common,
            )
        elif kind == "opd":
            trainer = trl.DistillationTrainer(
                teacher_model=model(shape, tokenizer, 1, device),
                args=trl.DistillationConfig(**settings, max_completion_length=SAMPLED, beta=1.0),
                train_dataset=Dataset.from_list([{"prompt": text.prompt} for text in texts]),
                **common,
            )
        else:
            trainer = trl.GRPOTrainer(
                reward_funcs=lambda completions, **_: [float(is_even(c)) for c in completions],
                args=trl.GRPOConfig(
                    **settings,
                    num_generations=GROUP,
                    max_completion_length=SAMPLED,
                    epsilon=0.2,
                    epsilon_high=0.28,
                ),
                train_dataset=Dataset.from_list([{"prompt": text.prompt} for text in texts]),
                **common,
            )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return clock.seconds


TRAINERS = {"sft": "SFTTrainer", "opd": "DistillationTrainer", "grpo": "GRPOTrainer"}


def compared(kind: str, shape: Shape, pairs: int, device: str) -> Row:
    """Pairs of runs, each begun by the other trainer in turn; one before them warms up."""
    steps = WARM_UP + shape.steps
    tokens = shape.steps * ROWS * (READ + SAMPLED)
    runs: dict[Callable[..., float], list[float]] = {ours: [], theirs: []}
    for pair in range(pairs):
        for trainer in (ours, theirs)[:: 1 if pair % 2 else -1]:
            runs[trainer].append(trainer(kind, shape, steps, device))
    ratios = np.array(runs[theirs]) / np.array(runs[ours])
    low, high = interval(ratios)
    speeds = [f"{tokens / statistics.median(runs[t]):,.0f}" for t in (ours, theirs)]
    head = "fused LM head" + (", torch fallback" if device == "cpu" else ", Triton")
    return Row(
        f"{kind}, tokens per second: {speeds[0]}",
        f"TRL {version('trl')} {TRAINERS[kind]} ({head}): {speeds[1]}",
        f"hidden {shape.hidden} x {shape.layers}, {ROWS} x ({READ} + {SAMPLED}) tokens, {device}",
        statistics.median(runs[ours]),
        float(np.median(ratios)),
        low,
        high,
        shape.goals[kind],
    )


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """The 95 % percentile bootstrap of the median over pairs."""
    drawn = np.random.default_rng(0).choice(ratios, (RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return float(low), float(high)


def found(subjects: Sequence[str], hidden: Sequence[int], pairs: int, device: str) -> Iterator[Row]:
    for size in hidden:
        for kind in subjects:
            yield compared(kind, SHAPES[size], pairs, device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three pairs instead of ten")
    parser.add_argument("--hidden", type=int, action="append", choices=SHAPES, help="repeatable")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("subjects", nargs="*", help=", ".join(TRAINERS))
    given = parser.parse_args()
    unknown = set(given.subjects) - TRAINERS.keys()
    if unknown:
        parser.error(f"no subject {', '.join(sorted(unknown))}")
    rows = []
    pairs = 3 if given.quick else 10
    for row in found(
        given.subjects or list(TRAINERS), given.hidden or list(SHAPES), pairs, given.device
    ):
        print(markdown([row]).splitlines()[-1], flush=True)
        rows.append(row)
    RESULTS.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist([r.as_dict() for r in rows]), RESULTS / "training.parquet")
    text = markdown(rows, spread="95 % interval")
    (RESULTS / "training.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
