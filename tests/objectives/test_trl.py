"""TRL as a judge: on one batch, losses and all gradients are those of its trainers."""

import warnings

import pytest
import torch
from huggingface_hub import constants

from offaxis.objectives.base import TokenBatch
from offaxis.objectives.grpo import group_advantages, grpo
from offaxis.objectives.loss import token_loss
from offaxis.objectives.opd import opd
from offaxis.objectives.sft import sft
from offaxis.recipe import ModelConfig, Precision
from offaxis.tasks.chain import chain13
from offaxis.training.heads import fixed_head, head_of
from offaxis.training.models import new_model, task_tokenizer
from offaxis.training.rows import Rows

pytest.importorskip("trl")

PROMPT, COMPLETION = 5, 7
LENGTHS = torch.tensor([7, 3, 1, 6])
REWARDS = torch.tensor([[1.0, 0.0], [0.25, 0.75]])


@pytest.fixture(scope="module", autouse=True)
def offline():
    """TRL sends word of every trainer that is made, except in offline mode."""
    assert constants.is_offline_mode()


@pytest.fixture(scope="module")
def tokenizer():
    return task_tokenizer(chain13)


def made(tokenizer, seed, hidden=16):
    config = ModelConfig(
        hidden_size=hidden,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        tie_word_embeddings=False,
        init_seed=seed,
        init_std=0.3,
    )
    return new_model(config, tokenizer, Precision(autocast="none"))


@pytest.fixture
def model(tokenizer):
    return made(tokenizer, 0)


@pytest.fixture
def rows(tokenizer):
    """Four rows of a prompt and a completion, the completions of different lengths."""
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(len(tokenizer), (4, PROMPT + COMPLETION), generator=g)
    positions = torch.arange(PROMPT + COMPLETION).expand_as(ids)
    mask = torch.zeros(4, PROMPT + COMPLETION - 1, dtype=torch.bool)
    mask[:, PROMPT - 1 :] = torch.arange(COMPLETION) < LENGTHS[:, None]
    return Rows(ids, positions, None, TokenBatch(ids[:, 1:], mask, REWARDS))


def trl_inputs(rows):
    """The same rows as TRL has them."""
    completion_mask = rows.batch.mask_BT[:, PROMPT - 1 :].long()
    prompts = rows.input_ids_BS[:, :PROMPT]
    return {
        "prompt_ids": prompts,
        "prompt_mask": torch.ones_like(prompts),
        "completion_ids": rows.input_ids_BS[:, PROMPT:],
        "completion_mask": completion_mask,
        "num_items_in_batch": completion_mask.sum(),
    }


def arguments(kind, folder, **settings):
    """TRL's configuration, with everything off that is not the loss."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kind(
            output_dir=str(folder),
            use_cpu=True,
            bf16=False,
            report_to="none",
            gradient_checkpointing=False,
            per_device_train_batch_size=4,
            **settings,
        )


def constructed(kind, *given, **named):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = kind(*given, **named)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def judged(ours, theirs, model):
    """Both losses agree, and so do the gradients of every parameter."""
    names, weights = zip(*model.named_parameters(), strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = theirs()
    expected = torch.autograd.grad(value, weights)
    loss = ours()
    found = torch.autograd.grad(loss, weights)
    torch.testing.assert_close(loss, value, rtol=1e-5, atol=0)
    for name, one, other in zip(names, found, expected, strict=True):
        assert other.norm() > 0, name
        assert (one - other).norm() <= 1e-5 * other.norm(), name


def our_loss(model, rows, streams, *, teacher=None, reference=None):
    num = int(rows.batch.mask_BT.sum()) if streams.normaliser is None else streams.normaliser
    return token_loss(
        head_of(model, rows),
        rows.batch,
        streams,
        num_tokens=num,
        teacher=None if teacher is None else fixed_head(teacher, rows),
        reference=None if reference is None else fixed_head(reference, rows),
    ).value


def test_sft(model, tokenizer, rows, tmp_path):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    ids = rows.input_ids_BS
    labels = ids.clone()
    labels[:, 1:][~rows.batch.mask_BT] = -100
    labels[:, 0] = -100
    data = Dataset.from_dict({"input_ids": ids.tolist(), "labels": labels.tolist()})
    trainer = constructed(
        SFTTrainer,
        model,
        arguments(SFTConfig, tmp_path),
        train_dataset=data,
        processing_class=tokenizer,
    )
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    count = rows.batch.mask_BT.sum()
    judged(
        lambda: our_loss(model, rows, sft(rows.batch)),
        lambda: trainer.compute_loss(model, dict(inputs), num_items_in_batch=count),
        model,
    )


def prompts(tokenizer):
    from datasets import Dataset

    return Dataset.from_dict(
        {"prompt": [chain13.problem(seed=0, index=i).prompt for i in range(4)]}
    )


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo"])
def test_grpo(model, tokenizer, rows, tmp_path, loss_type):
    from trl import GRPOConfig, GRPOTrainer

    config = arguments(
        GRPOConfig,
        tmp_path,
        loss_type=loss_type,
        epsilon=0.2,
        epsilon_high=0.28,
        beta=0.0,
        num_generations=2,
        max_completion_length=COMPLETION,
    )
    trainer = constructed(
        GRPOTrainer,
        model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=config,
        train_dataset=prompts(tokenizer),
        processing_class=tokenizer,
    )
    with torch.no_grad():
        log_p = head_of(model, rows).logits().log_softmax(-1)
    log_p = log_p.gather(-1, rows.batch.tokens_BT[..., None])[..., 0]
    # Sampled by slightly other weights, so that some ratios are clipped and none is one.
    noise = 0.3 * torch.randn(log_p.shape, generator=torch.Generator().manual_seed(1))
    batch = TokenBatch(
        rows.batch.tokens_BT, rows.batch.mask_BT, REWARDS, log_p + noise, max_tokens=COMPLETION
    )
    whole = Rows(rows.input_ids_BS, rows.position_ids_BS, None, batch)
    streams = grpo(batch, normaliser=loss_type, scale="std")
    inputs = trl_inputs(rows) | {
        "advantages": group_advantages(REWARDS).flatten(),
        "old_per_token_logps": batch.sampled_logprobs_BT[:, PROMPT - 1 :],
    }
    judged(
        lambda: our_loss(model, whole, streams), lambda: trainer._compute_loss(model, inputs), model
    )


@pytest.mark.parametrize(
    ("beta", "settings"),
    [
        (0.0, {"divergence": "forward_kl"}),
        (0.5, {"divergence": "jsd", "beta": 0.5}),
        (0.2, {"divergence": "jsd", "beta": 0.2, "temperature": 1.5}),
        (1.0, {"divergence": "reverse_kl"}),
    ],
)
def test_distillation(model, rows, tmp_path, beta, settings):
    from trl import DistillationConfig, DistillationTrainer

    tokenizer = task_tokenizer(chain13)
    teacher = made(tokenizer, 1, hidden=24)
    config = arguments(
        DistillationConfig, tmp_path, beta=beta, temperature=settings.get("temperature", 1.0)
    )
    trainer = constructed(
        DistillationTrainer,
        model,
        teacher,
        args=config,
        train_dataset=prompts(tokenizer),
        processing_class=tokenizer,
    )
    inputs = trl_inputs(rows)
    judged(
        lambda: our_loss(model, rows, opd(rows.batch, **settings), teacher=teacher),
        lambda: trainer.compute_loss(model, inputs),
        model,
    )
