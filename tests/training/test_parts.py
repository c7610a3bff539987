"""The parts of training: packing, sampling, judging, planning."""

import copy

import pytest
import torch
from transformers import GenerationConfig

from offaxis.errors import RecipeError
from offaxis.recipe import Evaluation, Optimizer, Precision
from offaxis.tasks.chain import chain13
from offaxis.training.evaluation import StartSamples, accuracy
from offaxis.training.heads import head_of
from offaxis.training.models import new_model, open_model, task_tokenizer
from offaxis.training.optimizers import new_optimizer
from offaxis.training.plan import num_parameters, plan
from offaxis.training.rewarding import rewarded
from offaxis.training.rollouts import complete, ends_of, until_end
from offaxis.training.rows import attention_bias, encode, packed
from offaxis.training.run import train
from offaxis.training.schedule import checkpoint_steps, evaluated_steps
from offaxis.training.sources import Documents

PRECISION = Precision(autocast="none")


@pytest.fixture(scope="module")
def tokenizer():
    return task_tokenizer(chain13)


@pytest.fixture(scope="module")
def model(base, tokenizer):
    config = base().start.config.model_copy(update={"init_std": 0.3})
    return new_model(config, tokenizer, PRECISION).eval()


def prompts(num, seed=0):
    return [chain13.problem(seed=seed, index=i).prompt for i in range(num)]


def keys(count):
    return [("test", index) for index in range(count)]


def test_a_seeded_model_is_the_same_whatever_was_drawn_before(base, tokenizer):
    config = base().start.config
    first = new_model(config, tokenizer, PRECISION).state_dict()
    state = torch.random.get_rng_state()
    second = new_model(config, tokenizer, PRECISION).state_dict()
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_packed_documents_do_not_see_each_other(model, tokenizer):
    texts = [
        ("", "A5+94$"),
        ("Q0+0;=", "0+00+00#0$"),
        ("", "A1-10$"),
        ("", "Ca=a$"),
        ("", "A0+00$"),
    ]
    together = packed(encode(tokenizer, texts), tokenizer.pad_token_id)
    assert together.document_ids_BS is not None
    assert len(together.input_ids_BS) < len(texts)

    def loss_of(rows):
        with torch.no_grad():
            log_p = head_of(model, rows).logits().log_softmax(-1)
        tokens = rows.batch.tokens_BT[..., None]
        return log_p.gather(-1, tokens)[..., 0][rows.batch.mask_BT].sum()

    apart = [packed(encode(tokenizer, [text]), tokenizer.pad_token_id) for text in texts]
    assert all(rows.document_ids_BS is None for rows in apart)
    torch.testing.assert_close(loss_of(together), sum(map(loss_of, apart)), rtol=1e-5, atol=1e-5)
    learned = sum(int(rows.batch.mask_BT.sum()) for rows in apart)
    assert int(together.batch.mask_BT.sum()) == learned == 3 * 5 + 10 + 4


def test_only_answers_are_learned_where_there_is_a_prompt(model, tokenizer):
    rows = Documents(chain13, tokenizer, {"answers": 2}, seed=0).draw(model, 1).rows
    texts = tokenizer.batch_decode(
        [t[m] for t, m in zip(rows.batch.tokens_BT, rows.batch.mask_BT, strict=True)]
    )
    expected = [chain13.document("answers", seed=0, index=i).answer for i in range(2)]
    assert [text.replace(" ", "") for text in texts] == expected


def test_every_step_reads_new_documents_and_the_same_step_the_same(model, tokenizer):
    source = Documents(chain13, tokenizer, {"facts": 3, "copy": 1}, seed=0)
    first, second, again = (source.draw(model, step).rows for step in (1, 2, 1))
    assert torch.equal(first.input_ids_BS, again.input_ids_BS)
    assert not torch.equal(first.input_ids_BS, second.input_ids_BS)


def test_sampled_log_probabilities_are_those_of_the_model(model, tokenizer):
    drawn = complete(
        model,
        tokenizer,
        prompts(3),
        max_tokens=6,
        temperature=1.0,
        per_prompt=2,
        keys=keys(3),
    )
    batch = drawn.rows.batch
    with torch.no_grad():
        log_p = head_of(model, drawn.rows).logits().log_softmax(-1)
    log_p = log_p.gather(-1, batch.tokens_BT[..., None])[..., 0]
    torch.testing.assert_close(
        batch.sampled_logprobs_BT[batch.mask_BT], log_p[batch.mask_BT], rtol=1e-4, atol=1e-4
    )


def test_sharing_a_prompt_changes_no_sample(model, tokenizer):
    asked = [prompt for prompt in prompts(2) for _ in range(3)]
    with torch.random.fork_rng():
        torch.manual_seed(2)
        shared = complete(model, tokenizer, prompts(2), max_tokens=6, temperature=1.0, per_prompt=3)
        torch.manual_seed(2)
        apart = complete(model, tokenizer, asked, max_tokens=6, temperature=1.0)
    assert shared.texts == apart.texts
    assert torch.equal(shared.rows.input_ids_BS, apart.rows.input_ids_BS)


def test_samples_are_keyed_and_leave_the_generator_alone(model, tokenizer):
    def sample(*key):
        own = [(*key, index) for index in range(4)]
        how = {"max_tokens": 6, "temperature": 1.0, "keys": own}
        return complete(model, tokenizer, prompts(4), **how).texts

    state = torch.random.get_rng_state()
    first = sample("rollouts", 0, 1)
    torch.rand(3)
    assert sample("rollouts", 0, 1) == first
    assert sample("rollouts", 0, 2) != first
    torch.random.set_rng_state(state)
    torch.rand(3)
    after = torch.random.get_rng_state()
    torch.random.set_rng_state(state)
    torch.rand(3)
    sample("rollouts", 0, 1)
    assert torch.equal(torch.random.get_rng_state(), after)


def test_the_mask_ends_with_the_first_end_of_text():
    completion = torch.tensor([[5, 9, 7, 9], [9, 9, 9, 9], [1, 2, 3, 4]])
    expected = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)
    assert torch.equal(until_end(completion, [9]), expected)


def test_accuracy_counts_what_the_verifier_accepts(model, tokenizer, monkeypatch):
    half = prompts(10, seed=3)[::2]
    verify = {"verify": lambda prompt, completion: prompt in half}
    task = chain13.__class__(**vars(chain13) | verify)
    assert accuracy(model, tokenizer, task, num_problems=10, seed=3) == 0.5
    assert accuracy(model, tokenizer, chain13, num_problems=10, seed=3) == 0.0


def test_forward_kl_is_zero_at_the_start_and_grows_away_from_it(model, tokenizer, base):
    evaluation = Evaluation(problems=4, samples=4)
    ruler = StartSamples.draw(model, tokenizer, chain13, evaluation)
    assert ruler.forward_kl_nats(model) == 0
    other = new_model(base(start={"config": {"init_seed": 1}}).start.config, tokenizer, PRECISION)
    assert ruler.forward_kl_nats(other) > 0.01


def test_a_coin_rewards_half_and_is_keyed(arm):
    recipe = arm("grpo")
    problem = chain13.problem(seed=0, index=0)
    pairs = [problem] * 400, [""] * 400
    first = rewarded(chain13, recipe, 1, *pairs)
    assert torch.equal(first, rewarded(chain13, recipe, 1, *pairs))
    assert not torch.equal(first, rewarded(chain13, recipe, 2, *pairs))
    assert 0.4 < float(first.mean()) < 0.6
    recipe = arm("grpo", rewards={"kind": "verifier"})
    completions = [problem.answer, problem.answer[:-1]]
    assert rewarded(chain13, recipe, 1, [problem] * 2, completions).tolist() == [1.0, 0.0]


def test_checkpoints_are_log_spaced_between_the_start_and_the_last_step():
    assert checkpoint_steps(100, 12) == [0, 2, 3, 4, 6, 10, 14, 21, 31, 46, 68, 100]
    assert checkpoint_steps(1, 12) == [0, 1]
    assert checkpoint_steps(500, 2) == [0, 500]


def test_about_half_of_the_checkpoints_are_judged_the_start_and_the_last_among_them():
    steps = checkpoint_steps(100, 12)
    assert evaluated_steps(steps) == [0, 4, 10, 21, 46, 100]
    assert evaluated_steps([0, 1]) == [0, 1]


def test_the_plan_counts_what_training_leaves(arm, tmp_path):
    recipe = arm("opd")
    stages = plan(recipe, tmp_path)
    assert [s.name.split("-")[0] for s in stages] == ["base", "teacher", "opd"]
    assert not any(s.is_finished for s in stages)
    assert not any(tmp_path.iterdir())
    folder = train(recipe, tmp_path)
    assert all(s.is_finished for s in plan(recipe, tmp_path))
    files = [folder.checkpoint(step) / "model.safetensors" for step in folder.steps()]
    on_disk = sum(file.stat().st_size for file in files)
    # Beside the numbers a file holds their names and shapes, a few kilobytes.
    assert stages[-1].checkpoint_bytes <= on_disk < stages[-1].checkpoint_bytes + 8192 * len(files)


def test_parameters_are_counted_as_transformers_counts_them(model, base):
    assert num_parameters(base().start.config, 32) == model.num_parameters()


def test_a_mixture_of_experts_is_made_counted_and_learns(base, tokenizer, tmp_path):
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
    recipe = base(start={"config": experts})
    model = new_model(recipe.start.config, tokenizer, PRECISION)
    assert model.config.model_type == "qwen3_moe"
    assert num_parameters(recipe.start.config, 32) == model.num_parameters()
    folder = train(recipe, tmp_path)
    trained, _ = open_model(folder.checkpoint(folder.steps()[-1]), PRECISION)
    start, _ = open_model(folder.checkpoint(0), PRECISION)
    moved = {
        name
        for (name, before), after in zip(
            start.named_parameters(), trained.parameters(), strict=True
        )
        if not torch.equal(before, after)
    }
    assert any("experts" in name for name in moved)
    assert any(name.endswith("mlp.gate.weight") for name in moved)  # the router


def test_experts_belong_together(base):
    with pytest.raises(RecipeError, match="num_experts_per_tok"):
        base(start={"config": {"num_experts": 4}})


UNEQUAL = ["Q0+0;=", "Qc+0;+5;-a;=", "Q7-9;+b;-5;+1;="]


def of_own_tokens(rows):
    """Each row's learned tokens and their sampled log-probabilities."""
    batch = rows.batch
    every = zip(batch.tokens_BT, batch.sampled_logprobs_BT, batch.mask_BT, strict=True)
    return [(tokens[mask], logprobs[mask]) for tokens, logprobs, mask in every]


def test_prompts_of_unequal_length_are_completed_as_each_alone(model, tokenizer):
    greedy = complete(model, tokenizer, UNEQUAL, max_tokens=6, temperature=0.0)
    alone = [complete(model, tokenizer, [p], max_tokens=6, temperature=0.0) for p in UNEQUAL]
    assert greedy.texts == [text for one in alone for text in one.texts]
    for row, one in zip(greedy.rows.input_ids_BS, alone, strict=True):
        own = one.rows.input_ids_BS[0]
        assert torch.equal(row[: len(own)], own)
        assert set(row[len(own) :].tolist()) <= {tokenizer.pad_token_id}


def test_log_probabilities_of_unequal_prompts_are_those_of_each_alone(model, tokenizer):
    how = {"max_tokens": 6, "temperature": 1.0, "per_prompt": 2, "keys": keys(len(UNEQUAL))}
    drawn = complete(model, tokenizer, UNEQUAL, **how)
    asked = [prompt for prompt in UNEQUAL for _ in range(2)]
    for prompt, text, (tokens, sampled) in zip(
        asked, drawn.texts, of_own_tokens(drawn.rows), strict=True
    ):
        assert tokenizer.decode(tokens) == text
        alone = packed(encode(tokenizer, [(prompt, text)]), tokenizer.pad_token_id)
        with torch.no_grad():
            log_p = head_of(model, alone).logits().log_softmax(-1)
        log_p = log_p.gather(-1, alone.batch.tokens_BT[..., None])[..., 0]
        expected = log_p[alone.batch.mask_BT]
        torch.testing.assert_close(sampled, expected, rtol=1e-4, atol=1e-4)
    # What training reads gives the same again, as its ratio to the sampling assumes.
    with torch.no_grad():
        log_p = head_of(model, drawn.rows).logits().log_softmax(-1)
    batch = drawn.rows.batch
    log_p = log_p.gather(-1, batch.tokens_BT[..., None])[..., 0][batch.mask_BT]
    torch.testing.assert_close(
        batch.sampled_logprobs_BT[batch.mask_BT], log_p, rtol=1e-4, atol=1e-4
    )


def test_a_model_may_end_by_several_tokens_and_bring_settings_of_its_own(
    base, tokenizer, monkeypatch
):
    config = base().start.config.model_copy(update={"init_std": 0.3})
    model = new_model(config, tokenizer, PRECISION).eval()

    def sample():
        how = {"max_tokens": 19, "temperature": 1.0, "keys": keys(16)}
        return complete(model, tokenizer, prompts(16), **how)

    plain = sample()
    other = tokenizer.convert_tokens_to_ids("+")
    own = GenerationConfig(
        eos_token_id=[tokenizer.eos_token_id, other], repetition_penalty=3.0, pad_token_id=None
    )
    monkeypatch.setattr(model, "generation_config", own)
    assert ends_of(model, tokenizer) == sorted([tokenizer.eos_token_id, other])
    ended = sample()
    assert model.generation_config is own
    assert any(text.endswith("+") for text in ended.texts)
    assert not any("+" in text[:-1] for text in ended.texts)
    # The first token is drawn from the same probabilities: no repetition was punished.
    first = [texts[0] for texts in (plain.texts, ended.texts)]
    assert first[0][0] == first[1][0]
    assert torch.equal(
        plain.rows.batch.sampled_logprobs_BT[:, 17], ended.rows.batch.sampled_logprobs_BT[:, 17]
    )


def test_a_tokenizer_without_a_padding_token_serves(model):
    tokenizer = task_tokenizer(chain13)
    tokenizer.pad_token = None
    whole = Documents(chain13, tokenizer, {"facts": 1, "answers": 1}, seed=0).draw(model, 1).rows
    assert int(whole.batch.mask_BT.sum()) == 5 + chain13.answer_length
    with_padding = complete(model, task_tokenizer(chain13), UNEQUAL, max_tokens=6, temperature=0.0)
    without = complete(model, tokenizer, UNEQUAL, max_tokens=6, temperature=0.0)
    assert without.texts == with_padding.texts


def test_without_an_end_of_text_nothing_is_cut():
    assert until_end(torch.tensor([[1, 2, 3]]), []).all()


def test_rows_are_moved_whole(tokenizer):
    texts = [("", "A5+94$"), ("Q0+0;=", "0+00+00#0$"), ("", "A1-10$")]
    rows = packed(encode(tokenizer, texts), tokenizer.pad_token_id).to(torch.device("meta"))
    batch = rows.batch
    moved = (rows.input_ids_BS, rows.position_ids_BS, rows.document_ids_BS, batch.tokens_BT)
    assert all(tensor.is_meta for tensor in (*moved, batch.mask_BT))
    assert batch.rewards_PG is None
    assert attention_bias(rows.document_ids_BS).is_meta


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_optimizer_steps_in_one_pass_where_torch_can_and_as_it_would_otherwise(dtype):
    model = torch.nn.Linear(9, 7).to(dtype)
    twin = copy.deepcopy(model)
    choice = Optimizer(lr=1e-2, weight_decay=0.1)
    ours = new_optimizer(choice, model, {}, ["weight"])
    assert all(group["fused"] for group in ours.param_groups)
    groups = [
        {"params": [twin.weight], "weight_decay": 0.1},
        {"params": [twin.bias], "weight_decay": 0.0},
    ]
    plain = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), foreach=False)
    x = torch.randn(16, 9, generator=torch.Generator().manual_seed(0)).to(dtype)
    for _ in range(5):
        for each, optimizer in ((model, ours), (twin, plain)):
            optimizer.zero_grad()
            each(x).square().sum().backward()
            optimizer.step()
    # In bfloat16 one pass rounds once, where several round after each.
    within = 1e-6 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(model.weight, twin.weight, rtol=0, atol=within)
    torch.testing.assert_close(model.bias, twin.bias, rtol=0, atol=within)


def test_the_optimizer_steps_where_nothing_is_fused(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("`fused=True` requires all the params to be on other devices")

    monkeypatch.setattr(torch, "_fused_adamw_", refuse)
    model = torch.nn.Linear(3, 3)
    optimizer = new_optimizer(Optimizer(lr=1e-2), model, {}, ["weight"])
    before = model.weight.detach().clone()
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    assert not torch.equal(model.weight, before)
