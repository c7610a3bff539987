"""Models and tokenizers as genuine Hugging Face folders: made, opened, and written whole."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3MoeConfig,
)

from offaxis.errors import CheckpointError, RecipeError
from offaxis.files import disk_errors, settle, write_atomically
from offaxis.recipe import ModelConfig, ModelSource, Precision
from offaxis.tasks.base import GeneratedTask
from offaxis.training.linears import use_full_width
from offaxis.training.rollouts import ends_of


def task_tokenizer(task: GeneratedTask) -> PreTrainedTokenizerBase:
    """A fast tokenizer in which every character of the task's alphabet is one token."""
    vocabulary = {character: i for i, character in enumerate(task.alphabet)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=task.padding))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=task.end,
        pad_token=task.padding,
        unk_token=task.padding,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def new_model(
    config: ModelConfig, tokenizer: PreTrainedTokenizerBase, precision: Precision
) -> PreTrainedModel:
    """A model of Qwen3's architecture with seeded weights."""
    shape = config.model_dump(exclude={"init_seed", "init_std"})  # experts only where there are
    kind = Qwen3MoeConfig if config.num_experts else Qwen3Config
    full = kind(
        vocab_size=len(tokenizer),
        initializer_range=config.init_std,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **shape,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.init_seed)
        model = AutoModelForCausalLM.from_config(
            full, attn_implementation=precision.attention, dtype=torch.float32
        )
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    use_full_width(model)
    return model


def open_model(
    folder: Path, precision: Precision
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model (float32) and the tokenizer of a folder.

    Raises:
        CheckpointError: If the folder is not one that transformers can open.
    """
    if not (folder / "config.json").is_file():
        found = "no config.json" if folder.is_dir() else "no such folder"
        raise _unopened(folder, found)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            attn_implementation=precision.attention,
            local_files_only=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # safetensors, JSON and transformers each raise their own kinds
        raise _unopened(folder, f"{type(error).__name__}: {error}") from error
    broken = [name for name, w in model.named_parameters() if not bool(w.isfinite().all())]
    if broken:
        raise CheckpointError(
            str(folder),
            expected="weights that are finite",
            found=f"others in {broken[0]}",
            do="restore the folder, or start from another",
        )
    use_full_width(model)
    return model, tokenizer


def start_model(
    source: ModelSource, task: GeneratedTask | None, precision: Precision, trained: Path | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model a run starts from or learns from.

    Args:
        source: Where the recipe takes it from.
        task: The task of ours, whose alphabet makes the tokenizer of a model from scratch and whose
            end the model has to know; None for other data.
        precision: The run's precision policy.
        trained: The checkpoint of the prerequisite, where the source is a recipe.
    """
    if source.config is not None:
        assert task is not None  # a recipe without one is refused when it is read
        tokenizer = task_tokenizer(task)
        return new_model(source.config, tokenizer, precision), tokenizer
    folder = trained or Path(source.path or "")
    model, tokenizer = open_model(folder, precision)
    if task is not None:
        _check_end(model, tokenizer, task, folder)
    return model, tokenizer


def nothing_beside(_: Path) -> None:
    """Write no further files into a checkpoint."""


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    beside: Callable[[Path], object] = nothing_beside,
    state: dict[str, Tensor] | None = None,
) -> None:
    """Write a checkpoint folder whole or not at all.

    Args:
        model: The weights and their configuration.
        tokenizer: Saved with them.
        folder: The folder that shall exist afterwards.
        beside: Writes further files into the folder before it takes its place.
        state: The weights, where the model holds only a part of them.

    Raises:
        ResultsError: If the disk is full or the folder cannot be written.
    """

    def write(temporary: Path) -> None:
        try:
            with disk_errors(temporary):
                # A checkpoint is float32 whatever it was trained in; widening loses nothing.
                whole = model if model.dtype == torch.float32 else copy.deepcopy(model).float()
                whole.save_pretrained(temporary, state_dict=state)
                tokenizer.save_pretrained(temporary)
                beside(temporary)
            settle(temporary)
            # `os.replace` cannot put a folder over one that is not empty.
            shutil.rmtree(folder, ignore_errors=True)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    write_atomically(folder, write)


def _check_end(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: GeneratedTask, folder: Path
) -> None:
    """Refuse a model that cannot end a text as the task does: it would never solve a problem."""
    ends = [tokenizer.decode([end]) for end in ends_of(model, tokenizer)]
    if task.end not in ends:
        raise RecipeError(
            str(folder),
            expected=f"a model that ends its texts by {task.end!r}, as task {task.name} does",
            found=", ".join(map(repr, ends)) or "no end-of-text",
            do="choose a task with an `end` of this model, or give the tokenizer this eos_token",
        )


def _unopened(folder: Path, found: str) -> CheckpointError:
    return CheckpointError(
        str(folder),
        expected="a Hugging Face folder with config.json, safetensors weights and a tokenizer",
        found=found,
        do="check the path, or restore the folder",
    )
