"""What `transformers.Trainer` is told, and what it is not to do."""

import torch
from torch.utils.data import Dataset
from transformers import TrainingArguments

from offaxis.errors import UsageError
from offaxis.recipe import Precision, Recipe

# transformers' schedule, by ours and by whether it ends above zero.
_SCHEDULES = {
    ("constant", False): "constant_with_warmup",
    ("cosine", False): "cosine",
    ("cosine", True): "cosine_with_min_lr",
}


class Steps(Dataset[int]):
    """The step numbers: Trainer wants something to iterate over, the rows come from the source."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> int:
        return index


def trainer_arguments(recipe: Recipe, scratch: str) -> TrainingArguments:
    """Trainer's settings from the recipe's; saving, logging and stopping are the recorder's."""
    optimizer = recipe.optimizer
    return TrainingArguments(
        output_dir=scratch,
        max_steps=recipe.steps.max,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=optimizer.micro_batches,
        learning_rate=optimizer.lr,
        lr_scheduler_type=_SCHEDULES[optimizer.schedule, optimizer.final_lr > 0],
        lr_scheduler_kwargs={"min_lr": optimizer.final_lr} if optimizer.final_lr else None,
        warmup_steps=optimizer.warmup_steps,
        max_grad_norm=optimizer.clip_norm,
        seed=recipe.seed,
        use_cpu=on_cpu(recipe.precision),
        bf16=False,
        dataloader_pin_memory=False,
        logging_nan_inf_filter=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def on_cpu(precision: Precision) -> bool:
    """Whether a run trains on the CPU: it is asked to, or there is nothing else."""
    return precision.device == "cpu" or not torch.accelerator.is_available()


def no_deepspeed() -> UsageError:
    """Refuse what would train, but not as promised."""
    return UsageError(
        "the configuration of accelerate",
        expected="processes that share a step (DDP), or FSDP",
        found="DeepSpeed, whose engine clips, steps and saves by itself: gradients that are not "
        "finite would not stop the run, nor would it continue bit for bit",
        do="choose MULTI_GPU or FSDP in `accelerate config`, or launch with torchrun",
    )
