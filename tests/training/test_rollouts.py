"""Where rollouts come from: which weights sample, in what company, and what the log says of it."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from tests.training.server import serving

from offaxis.errors import (
    CheckpointError,
    NumericsError,
    OffaxisError,
    RecipeError,
    ServerError,
)
from offaxis.recipe import Precision
from offaxis.tasks.chain import chain13
from offaxis.training import train
from offaxis.training.bucketing import buckets
from offaxis.training.command import time_split
from offaxis.training.heads import head_of
from offaxis.training.history import History
from offaxis.training.models import new_model, task_tokenizer
from offaxis.training.rollouts import complete
from offaxis.training.samplers import Generate
from offaxis.training.sources import Rollouts

PRECISION = Precision(autocast="none")


@pytest.fixture(scope="module")
def tokenizer():
    return task_tokenizer(chain13)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """One folder for all runs, so that what they start from is trained once."""
    return tmp_path_factory.mktemp("rollouts")


@pytest.fixture
def model(base, tokenizer):
    config = base().start.config.model_copy(update={"init_std": 0.3})
    return new_model(config, tokenizer, PRECISION).eval()


def moved(model, step):
    """Stands for an optimizer step: the same change for the same step."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)


def walk(recipe, tokenizer, model, steps, source=None):
    """What a source draws in each step of a student that moves, and the student of each step."""
    source = source or Rollouts(chain13, tokenizer, recipe)
    drawn, students = {}, {}
    for step in steps:
        students[step] = copy.deepcopy(model)
        drawn[step] = source.draw(model, step)
        moved(model, step)
    return drawn, students


def sampled_by(student, tokenizer, recipe, step):
    """What a student samples in a step when nothing but `complete` is asked."""
    indices = range((step - 1) * 2, step * 2)
    prompts = [chain13.document("answers", seed=0, index=i).prompt for i in indices]
    how = recipe.rollouts
    return complete(
        student,
        tokenizer,
        prompts,
        max_tokens=how.max_tokens,
        temperature=1.0,
        per_prompt=how.per_prompt,
        keys=[("rollouts", recipe.seed, index) for index in indices],
    ).rows


def same(one, other):
    pairs = [(one.input_ids_BS, other.input_ids_BS), (one.batch.mask_BT, other.batch.mask_BT)]
    pairs.append((one.batch.sampled_logprobs_BT, other.batch.sampled_logprobs_BT))
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("settings", "whose"),
    [
        ({"source": "student"}, lambda step: step),
        ({"source": "stale", "lag": 2}, lambda step: max(1, step - 2)),
        ({"source": "anchor"}, lambda step: 1),
    ],
)
def test_each_step_is_sampled_by_exactly_the_student_of_then(
    arm, tokenizer, model, settings, whose
):
    recipe = arm("grpo", rollouts=settings)
    drawn, students = walk(recipe, tokenizer, model, range(1, 6))
    for step, (rows, measures, _) in drawn.items():
        expected = sampled_by(students[whose(step)], tokenizer, recipe, step)
        assert same(rows, expected)
        assert measures["age"] == step - whose(step)
        for other in set(range(1, 6)) - {whose(step)}:
            assert not same(rows, sampled_by(students[other], tokenizer, recipe, step))


def test_sampling_from_older_weights_leaves_those_of_now_bit_for_bit(arm, tokenizer, model):
    source = Rollouts(chain13, tokenizer, arm("grpo", rollouts={"source": "stale", "lag": 1}))
    walk(source.recipe, tokenizer, model, [1, 2], source)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    source.draw(model, 3)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    "settings",
    [{"source": "stale", "lag": 2}, {"source": "anchor"}, {"reuse": 3}],
    ids=["stale", "anchor", "reuse"],
)
def test_a_continued_source_draws_what_the_undisturbed_one_would(
    arm, tokenizer, model, tmp_path, settings
):
    recipe = arm("grpo", rollouts=settings)
    untouched = copy.deepcopy(model)
    whole, _ = walk(recipe, tokenizer, model, range(1, 7))
    source = Rollouts(chain13, tokenizer, recipe)
    walk(recipe, tokenizer, untouched, range(1, 5), source)
    torch.save(source.state_dict(), tmp_path / "state.pt")
    again = Rollouts(chain13, tokenizer, recipe)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    rest, _ = walk(recipe, tokenizer, untouched, range(5, 7), again)
    for step, (rows, measures, _) in rest.items():
        assert same(rows, whole[step].rows)
        assert torch.equal(rows.batch.rewards_PG, whole[step].rows.batch.rewards_PG)
        assert measures["age"] == whole[step].measures["age"]


def test_a_history_with_a_gap_is_refused(arm, tokenizer, model):
    for settings in ({"source": "stale", "lag": 1}, {"source": "anchor"}):
        source = Rollouts(chain13, tokenizer, arm("grpo", rollouts=settings))
        with pytest.raises(CheckpointError, match="every earlier step"):
            source.draw(model, 4)


def test_a_history_keeps_one_copy_more_than_the_lag(model):
    history = History(2)
    for done in range(6):
        history.record(model, done)
    assert sorted(history.state_dict()["kept"]) == [3, 4, 5]


def test_reused_rollouts_are_drawn_once_and_split_by_prompts(arm, tokenizer, model):
    drawn, students = walk(arm("grpo", rollouts={"reuse": 2}), tokenizer, model, range(1, 5))
    assert [drawn[step].measures["age"] for step in range(1, 5)] == [0, 1, 0, 1]
    whole = arm("grpo", data={"prompts": 4})
    indices = [chain13.document("answers", seed=0, index=i).prompt for i in range(4)]
    keys = [("rollouts", 0, index) for index in range(4)]
    expected = complete(
        students[1], tokenizer, indices, max_tokens=5, temperature=1.0, per_prompt=2, keys=keys
    ).rows
    both = torch.cat([drawn[step].rows.input_ids_BS for step in (1, 2)])
    assert torch.equal(both, expected.input_ids_BS)
    assert whole.data.prompts == 2 * arm("grpo").data.prompts
    assert "reward_seconds" in drawn[1].measures
    assert "reward_seconds" not in drawn[2].measures


def test_the_teacher_can_sample_and_the_log_tells_the_mismatch(arm, out):
    lines = {}
    for source in ("student", "teacher"):
        recipe = arm("opd", name=source, rollouts={"source": source}, steps={"max": 2})
        lines[source] = train(recipe, out).log()[1:]
    assert all(line["age"] == 0 for line in lines["student"])
    assert all("age" not in line for line in lines["teacher"])
    assert all(0 <= line["mismatch_kl_nats"] < 1e-3 for line in lines["student"])
    # Two models of different seeds are further apart than bf16 products are from float32 ones.
    assert all(line["mismatch_kl_nats"] > 1e-2 for line in lines["teacher"])


def test_age_and_mismatch_grow_where_the_anchor_samples(arm, out):
    for settings in ({"source": "anchor"}, {"source": "stale", "lag": 2}):
        changes = {"rollouts": settings, "name": settings["source"], "steps": {"max": 4}}
        log = train(arm("grpo", **changes), out).log()[1:]
        ages = [0, 1, 2, 3] if settings["source"] == "anchor" else [0, 1, 2, 2]
        assert [line["age"] for line in log] == ages
        assert log[0]["mismatch_kl_nats"] < 1e-3 < log[-1]["mismatch_kl_nats"]


def weights_after(arm, out, kind, importance, proximal):
    how = {"source": "stale", "lag": 1, "importance": importance, "proximal": proximal}
    folder = train(arm(kind, name=f"{kind}-{importance}-{proximal}", rollouts=how), out)
    return load_file(folder.checkpoint(3) / "model.safetensors")


def apart(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_a_correction_changes_what_stale_rollouts_teach_and_nothing_else(arm, out):
    # A divergence has no ratio of its own: what it is taken to changes nothing, weights do.
    own, now, weighed = (
        weights_after(arm, out, "opd", *how)
        for how in (("none", "sampler"), ("none", "student"), ("token", "student"))
    )
    assert apart(own, now) == 0 < apart(weighed, now)
    own, now, weighed, by_sequence = (
        weights_after(arm, out, "grpo", *how)
        for how in (
            ("none", "sampler"),
            ("none", "student"),
            ("token", "student"),
            ("sequence", "student"),
        )
    )
    # One step of a policy gradient that no clip touches: its own ratio or the same as a weight.
    assert apart(own, weighed) < 1e-6
    assert min(apart(own, now), apart(own, by_sequence), apart(now, by_sequence)) > 1e-4


def test_prompts_of_similar_length_are_completed_together():
    lengths = [10, 300, 12, 11, 310, 80]
    assert buckets(lengths, max_tokens=20, most=9) == [[0, 2, 3], [5], [1, 4]]
    assert buckets(lengths, max_tokens=20, most=1) == [[0], [3], [2], [5], [1], [4]]
    # Long completions make the padding of prompts small beside them.
    assert buckets(lengths, max_tokens=2000, most=9) == [[0, 1, 2, 3, 4, 5]]


UNEQUAL = ["Qc+0;+5;-a;-9;-5;=", "Q0+0;=", "Q7-9;+b;-5;+1;-c;=", "Q1-2;=", "Q3+4;="]
KEYS = [("unequal", index) for index in range(len(UNEQUAL))]


def test_buckets_are_put_back_in_order_and_do_not_depend_on_theirs(
    arm, tokenizer, model, monkeypatch
):
    recipe = arm("grpo", rollouts={"max_tokens": 5})
    sampler = Generate(tokenizer, recipe)
    one = sampler.sample(model, UNEQUAL, KEYS)
    from offaxis.training import samplers

    plain = samplers.buckets
    assert len(plain([18, 6, 18, 6, 6], max_tokens=5, most=5)) == 2
    monkeypatch.setattr(samplers, "buckets", lambda *a, **k: plain(*a, **k)[::-1])
    other = sampler.sample(model, UNEQUAL, KEYS)
    assert one.texts == other.texts
    assert same(one.rows, other.rows)
    for b, text in enumerate(one.texts):
        prompt = UNEQUAL[b // 2]
        ids = tokenizer(prompt + text)["input_ids"]
        assert one.rows.input_ids_BS[b, : len(ids)].tolist() == ids
        assert int(one.lengths_B[b]) == int(one.rows.batch.mask_BT[b].sum()) == len(text)
    with torch.no_grad():
        log_p = head_of(model, one.rows).logits().log_softmax(-1)
    batch = one.rows.batch
    log_p = log_p.gather(-1, batch.tokens_BT[..., None])[..., 0]
    torch.testing.assert_close(
        batch.sampled_logprobs_BT[batch.mask_BT], log_p[batch.mask_BT], rtol=1e-4, atol=1e-4
    )


def test_a_limit_of_rows_is_kept(arm, tokenizer, model, monkeypatch):
    sizes = []
    generate = model.generate
    monkeypatch.setattr(
        model, "generate", lambda ids, **k: sizes.append(len(ids)) or generate(ids, **k)
    )
    sampler = Generate(tokenizer, arm("grpo", rollouts={"rows": 4}))
    assert len(sampler.sample(model, UNEQUAL, KEYS).texts) == 2 * len(UNEQUAL)
    assert max(sizes) == 4


def test_sampling_stops_when_every_completion_has_ended(tokenizer, model, monkeypatch):
    calls = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    drawn = complete(
        model, tokenizer, UNEQUAL[:1], max_tokens=900, temperature=1.0, keys=[("early",)]
    )
    # One call reads the prompt, one gives each token; 900 tokens would overrun the positions.
    assert len(calls) == int(drawn.lengths_B.max()) + 1 < 900


def test_only_shared_ids_are_sampled_and_their_probabilities_sum_to_one(tokenizer, model):
    how = {"max_tokens": 9, "temperature": 1.0, "per_prompt": 4}
    drawn = complete(model, tokenizer, UNEQUAL, **how, num_ids=20, keys=KEYS)
    batch = drawn.rows.batch
    assert int(batch.tokens_BT[batch.mask_BT].max()) < 20
    with torch.no_grad():
        log_p = head_of(model, drawn.rows).logits()[..., :20].log_softmax(-1)
    tokens = batch.tokens_BT.clamp_max(19)[..., None]
    log_p = log_p.gather(-1, tokens)[..., 0][batch.mask_BT]
    torch.testing.assert_close(
        batch.sampled_logprobs_BT[batch.mask_BT], log_p, rtol=1e-4, atol=1e-4
    )


def test_rollouts_with_nothing_in_them_stop_the_run(arm, tokenizer, model):
    model.lm_head.register_forward_hook(lambda _, __, out: end_only(out, tokenizer.eos_token_id))
    source = Rollouts(chain13, tokenizer, arm("grpo"))
    with pytest.raises(NumericsError, match="end before their first token"):
        source.draw(model, 1)


def end_only(logits, end):
    return torch.full_like(logits, -1e4).index_fill(-1, torch.tensor([end]), 0.0)


@pytest.mark.parametrize(
    ("rollouts", "words"),
    [
        ({"source": "stale"}, "a lag of at least 1"),
        ({"lag": 3}, "a lag of at least 1"),
        ({"engine": "vllm"}, "engine and url belong together"),
        ({"engine": "vllm", "url": "http://x"}, "the folder through which"),
        ({"engine": "vllm", "url": "http://x", "weights": "w"}, "no request that loads"),
        (
            {"engine": "sglang", "url": "http://x", "source": "anchor", "temperature": 0.7},
            "temperature 1",
        ),
        ({"source": "teacher"}, "a teacher for rollouts of the teacher"),
    ],
)
def test_what_cannot_be_sampled_is_refused_with_the_recipe(arm, rollouts, words):
    with pytest.raises(RecipeError, match=words):
        arm("grpo", rollouts=rollouts)


def test_settings_at_their_defaults_leave_earlier_hashes_alone(arm):
    assert set(arm("grpo").resolved()["rollouts"]) == {"per_prompt", "temperature", "max_tokens"}


def test_an_engine_samples_the_anchor(arm, tokenizer, model):
    with serving(copy.deepcopy(model), tokenizer) as (url, served):
        for engine in ("vllm", "sglang"):
            served.requests.clear()
            how = {"engine": engine, "url": url, "source": "anchor", "model": "tiny"}
            recipe = arm("grpo", rollouts=how)
            source = Rollouts(chain13, tokenizer, recipe)
            rows, measures, _ = source.draw(model, 1)
            assert measures["age"] == 0
            assert same(rows, Rollouts(chain13, tokenizer, recipe).draw(model, 1).rows)
            check_recorded(model, rows)
            prompts = [chain13.document("answers", seed=0, index=i).prompt for i in range(2)]
            texts = tokenizer.batch_decode(rows.input_ids_BS[:, :18])
            assert texts == [p for p in prompts for _ in range(2)]


def test_a_server_of_other_weights_is_found_out_at_once(arm, base, tokenizer, model):
    config = base().start.config.model_copy(update={"init_std": 0.3, "init_seed": 5})
    other = new_model(config, tokenizer, PRECISION)
    with serving(other, tokenizer) as (url, _):
        how = {"engine": "vllm", "url": url, "source": "anchor", "model": "tiny"}
        source = Rollouts(chain13, tokenizer, arm("grpo", rollouts=how))
        with pytest.raises(ServerError, match="weights that rollouts are to come from"):
            source.draw(model, 1)


@pytest.mark.parametrize(
    ("ids", "told"), [([50_000], "token 50000"), ([], "before their first token")]
)
def test_an_engine_that_samples_foreign_tokens_or_none_ends_the_run(
    ids, told, arm, tokenizer, model
):
    def change(_, path, answer):
        for choice in answer["choices"]:
            choice |= {"token_ids": ids, "logprobs": {"token_logprobs": [-1.0 for _ in ids]}}
        return 200, answer

    with serving(copy.deepcopy(model), tokenizer) as (url, served):
        served.change = change
        how = {"engine": "vllm", "url": url, "source": "anchor", "model": "tiny"}
        source = Rollouts(chain13, tokenizer, arm("grpo", rollouts=how))
        with pytest.raises(OffaxisError, match=told):
            source.draw(model, 1)


def check_recorded(model, rows):
    batch = rows.batch
    with torch.no_grad():
        log_p = head_of(model, rows).logits().log_softmax(-1)
    log_p = log_p.gather(-1, batch.tokens_BT[..., None])[..., 0]
    torch.testing.assert_close(
        batch.sampled_logprobs_BT[batch.mask_BT], log_p[batch.mask_BT], rtol=1e-5, atol=1e-5
    )


def test_an_engine_is_given_the_students_weights_before_every_drawing(
    arm, tokenizer, model, tmp_path
):
    with serving(copy.deepcopy(model), tokenizer) as (url, served):
        how = {"engine": "sglang", "url": url, "weights": str(tmp_path / "weights")}
        recipe = arm("grpo", rollouts=how)
        drawn, students = walk(recipe, tokenizer, model, range(1, 4))
        for step, (rows, *_) in drawn.items():
            check_recorded(students[step], rows)
        paths = [path for path, _ in served.requests]
    assert paths[0] == "/update_weights_from_disk"
    assert paths.count("/update_weights_from_disk") == 3


def test_the_time_split_adds_up():
    log = [
        {"step": 0},
        {"step": 1, "rollout_seconds": 1.0, "training_seconds": 2.0, "reward_seconds": 1.0},
        {"step": 2, "rollout_seconds": 3.0, "training_seconds": 2.0, "teacher_seconds": 1.0},
    ]
    assert time_split(log) == (
        "time of the steps: rollout 4.0 s (40%), reward 1.0 s (10%), teacher 1.0 s (10%), "
        "training 4.0 s (40%)"
    )
