"""Evaluation: estimates judged by enumeration, distances by float64, the verb by finished runs."""

import json
import shutil
from itertools import combinations, product
from math import comb

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError
from scipy import stats
from transformers import AutoModelForCausalLM, Gemma2Config

from offaxis.cli import run
from offaxis.errors import CheckpointError, OffaxisError, UsageError
from offaxis.recipe import Evaluation, Precision, recipe_hash
from offaxis.tasks.base import GeneratedTask
from offaxis.tasks.chain import chain13
from offaxis.training import train
from offaxis.training.evaluation import (
    StartSamples,
    accuracy,
    distance,
    harness,
    judge,
    logged,
    metrics,
    ruler,
    solving,
)
from offaxis.training.models import new_model, save_model, task_tokenizer

SETTINGS = Evaluation(problems=6, samples=8, k=2, per_problem=4)


@pytest.fixture(scope="module")
def tokenizer():
    return task_tokenizer(chain13)


@pytest.fixture(scope="module")
def models(base, tokenizer):
    """Two models of one shape, spread enough that their samples differ."""
    config = base().start.config.model_copy(update={"init_std": 0.3})
    return [
        new_model(config.model_copy(update={"init_seed": s}), tokenizer, Precision()).eval()
        for s in (0, 1)
    ]


@pytest.fixture(scope="module")
def finished(arm, tmp_path_factory):
    """A finished run whose recipe asks for pass@2 of four completions."""
    return train(arm("sft", evaluation={"k": 2, "per_problem": 4}), tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_pass_at_k_is_the_mean_over_all_choices_of_k_completions(k):
    for solved in product([0, 1], repeat=4):
        expected = np.mean([any(chosen) for chosen in combinations(solved, k)])
        found = metrics.pass_at_k(np.array([4]), np.array([sum(solved)]), k)
        assert found == pytest.approx([expected], abs=1e-15)


def test_pass_at_k_has_no_bias():
    n, k, p = 7, 3, 0.2
    solved = np.arange(n + 1)
    chance = np.array([comb(n, c) * p**c * (1 - p) ** (n - c) for c in solved])
    expected = chance @ metrics.pass_at_k(np.full(n + 1, n), solved, k)
    assert expected == pytest.approx(1 - (1 - p) ** k, rel=1e-13)


@pytest.mark.parametrize(("solved", "of"), [(0, 1), (0, 40), (3, 10), (512, 1024), (9, 9)])
def test_the_interval_of_an_accuracy_is_wilsons(solved, of):
    expected = stats.binomtest(solved, of).proportion_ci(0.95, method="wilson")
    found = metrics.proportion(solved, of)
    assert found == pytest.approx((solved / of, expected.low, expected.high), abs=1e-12)


def test_the_bootstrap_draws_problems_and_is_keyed():
    random = np.random.default_rng(0)
    counts = random.integers(1, 9, 60).astype(float)
    sums = counts * random.random(60)
    found = metrics.pooled_mean(sums, counts, seed=3)
    judged = stats.bootstrap(
        (sums, counts),
        lambda s, c, axis: s.sum(axis) / c.sum(axis),
        paired=True,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    width = judged.high - judged.low
    assert found.value == sums.sum() / counts.sum()
    assert found[1:] == pytest.approx(tuple(judged), abs=0.06 * width)
    assert found == metrics.pooled_mean(sums, counts, seed=3)
    assert found != metrics.pooled_mean(sums, counts, seed=4)


def test_one_problem_or_none_that_differ_leave_a_point():
    assert metrics.mean(np.array([0.3]), 0) == (0.3, 0.3, 0.3)
    assert metrics.mean(np.full(9, 0.1), 0) == pytest.approx((0.1, 0.1, 0.1))


def test_what_cannot_be_scored_is_counted_and_never_zero(models, tokenizer, monkeypatch):
    """Of six problems one is never scored, one in half of its completions, the rest are solved."""
    prompts = [chain13.problem(seed=SETTINGS.seed, index=i).prompt for i in range(6)]
    asked = dict.fromkeys(prompts, 0)

    def score(_, problem, completion):
        asked[problem.prompt] += 1
        is_odd = bool(asked[problem.prompt] % 2)
        return (
            None
            if problem.prompt == prompts[0] or (problem.prompt == prompts[1] and is_odd)
            else 1.0
        )

    monkeypatch.setattr(GeneratedTask, "score", score)
    found = {m.name: m for m in judge(models[0], tokenizer, chain13, SETTINGS)}
    assert {name: (m.value, m.size, m.unscorable) for name, m in found.items()} == {
        "accuracy": (1.0, 4, 2),
        "avg@4": (1.0, 5, 6),
        "pass@2": (1.0, 5, 6),
    }
    assert logged(list(found.values()))["avg@4_unscorable"] == 6


def test_without_a_score_there_is_no_number(models, tokenizer, monkeypatch):
    monkeypatch.setattr(GeneratedTask, "score", lambda *_: None)
    found = judge(models[0], tokenizer, chain13, SETTINGS)
    assert [(m.value, m.low, m.size) for m in found] == [(None, None, 0)] * 3
    assert logged(found)["accuracy"] is None
    assert accuracy(models[0], tokenizer, chain13, num_problems=2, seed=0) is None


def test_samples_follow_the_key_and_the_temperature(models, tokenizer):
    def texts(**changes):
        seen = []
        task = chain13.__class__(
            **{**vars(chain13), "verify": lambda _, text: seen.append(text) or False}
        )
        settings = {"num_problems": 3, "seed": 5, "temperature": 1.0, "per_problem": 3} | changes
        solving.outcomes(models[0], tokenizer, task, **settings)
        return seen

    assert texts() == texts()
    assert texts() != texts(temperature=3.0)
    cold = texts(temperature=0.01)
    assert cold[0] == cold[1] == cold[2] != cold[3]


def test_the_forward_kl_is_that_of_whole_vocabularies_in_float64(models, tokenizer):
    start, other = models
    samples = StartSamples.draw(start, tokenizer, chain13, SETTINGS)
    ids = samples.rows.input_ids_BS[:, :-1]
    with torch.inference_mode():
        before, after = (m.double()(ids).logits.log_softmax(-1) for m in (start, other))
    start.float(), other.float()
    expected = (before.exp() * (before - after)).sum(-1)[samples.rows.batch.mask_BT]
    assert samples.forward_kl_nats(other) == pytest.approx(float(expected.mean()), rel=1e-6)
    assert samples.forward_kl_nats(start) == 0
    assert distance(other, SETTINGS, samples).value == pytest.approx(
        float(expected.mean()), rel=1e-6
    )


def test_logits_exist_for_a_chunk_of_tokens_at_a_time(models, tokenizer, monkeypatch):
    start, other = models
    samples = StartSamples.draw(start, tokenizer, chain13, SETTINGS)
    whole = samples.forward_kl_nats(other)
    sizes = []
    monkeypatch.setattr(ruler, "_LOGITS", 5 * len(tokenizer))
    monkeypatch.setattr(ruler, "_TOKENS", 2 * samples.rows.input_ids_BS.shape[1])
    hooks = [
        head.register_forward_hook(lambda _, __, logits: sizes.append(len(logits)))
        for head in (samples.head, other.get_output_embeddings())
    ]
    chunked = samples.forward_kl_nats(other)
    for hook in hooks:
        hook.remove()
    assert max(sizes) == 5
    assert sum(sizes) == 2 * int(samples.rows.batch.mask_BT.sum())
    assert chunked == pytest.approx(whole, rel=1e-6)


def test_the_anchor_stays_when_the_model_is_trained(base, tokenizer):
    model = new_model(base().start.config, tokenizer, Precision())
    samples = StartSamples.draw(model, tokenizer, chain13, SETTINGS)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(3)
    assert samples.forward_kl_nats(model) > 1e-3


def test_a_model_that_caps_its_logits_is_refused(tokenizer):
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        final_logit_softcapping=0.5,
        initializer_range=0.5,
        attn_implementation="eager",
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(CheckpointError, match="neither scales nor caps"):
        StartSamples.draw(model, tokenizer, chain13, SETTINGS)


def test_settings_that_came_later_change_no_hash(base):
    assert recipe_hash(base()) == recipe_hash(base(evaluation={"k": 0, "temperature": 1.0}))
    assert recipe_hash(base()) != recipe_hash(base(evaluation={"k": 2}))
    with pytest.raises(ValidationError, match="at least k"):
        Evaluation(k=4, per_problem=3)
    assert Evaluation(k=3).completions == 3
    assert Evaluation(per_problem=3).completions == 0


def test_training_logs_every_metric_with_its_interval(finished):
    judged = [line for line in finished.log() if "accuracy" in line]
    assert [line["step"] for line in judged] == [0, 3]
    for line in judged:
        for name in ("accuracy", "avg@4", "pass@2", "forward_kl_nats"):
            assert line[f"{name}_low"] <= line[name] <= line[f"{name}_high"]
    assert judged[-1]["forward_kl_nats_low"] > 0


def evaluated(capsys, *arguments):
    """What `offaxis evaluate --json` says."""
    assert run(["evaluate", *map(str, arguments), "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)["rows"]


def test_a_run_is_evaluated_as_it_was_in_training(finished, capsys):
    rows = evaluated(capsys, finished.root)
    assert {row["step"] for row in rows} == set(finished.steps())
    last = {row["metric"]: row for row in rows if row["step"] == 3}
    line = finished.log()[-1]
    assert list(last) == ["accuracy", "avg@4", "pass@2", "forward_kl_nats"]
    for name, row in last.items():
        found = [row["value"], row["low"], row["high"]]
        assert found == [line[name], line[f"{name}_low"], line[f"{name}_high"]]
        assert row["anchor"] == str(finished.checkpoint(0))
    assert "KL(anchor || model)" in last["forward_kl_nats"]["definition"]


def test_a_checkpoint_and_a_model_are_evaluated_from_any_anchor(finished, tmp_path, capsys):
    last = finished.checkpoint(3)
    own = evaluated(capsys, last)
    assert own == evaluated(capsys, finished.root, "--step", 3)
    model = shutil.copytree(last, tmp_path / "elsewhere")
    options = ("--recipe", finished.recipe_path, "--set", "evaluation.k=0")
    same = evaluated(capsys, model, *options, "--anchor", last)
    assert [row["metric"] for row in same] == ["accuracy", "forward_kl_nats"]
    assert same[0]["step"] is None
    assert same[-1]["value"] == 0


def test_results_are_a_table_and_files(finished, tmp_path, capsys):
    arguments = ["evaluate", str(finished.root), "--step", "0", "--step", "3"]
    for name in ("found.jsonl", "found.parquet"):
        assert run([*arguments, "--out", str(tmp_path / name)]) == 0
    text = capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert lines == pq.read_table(tmp_path / "found.parquet").to_pylist()
    assert [line["step"] for line in lines] == [0] * 4 + [3] * 4
    for line in lines:
        assert f"{line['value']:.4g}" in text
        assert f"{line['metric']}: {line['definition']}" in text
    assert f"anchor of sft-s0: {finished.checkpoint(0)}" in text


def test_what_cannot_be_evaluated_is_one_message(finished, base, tokenizer, tmp_path, capsys):
    alone = tmp_path / "alone"
    save_model(new_model(base().start.config, tokenizer, Precision()), tokenizer, alone)
    recipe = ["--recipe", str(finished.recipe_path)]
    wrong = {
        "--recipe": [str(alone)],
        "--anchor": [str(alone), *recipe],
        "no such folder": [str(tmp_path / "nowhere"), *recipe],
        "a checkpoint of step 9": [str(finished.root), "--step", "9"],
        "leave --step out": [str(alone), *recipe, "--step", "9"],
        ".parquet": [str(finished.root), "--out", str(tmp_path / "found.csv")],
        "--harness TASK": [str(finished.root), "--limit", "3"],
        "at least 1 document": [str(finished.root), "--harness", "x", "--limit", "0"],
        "YAML": [str(finished.root), "--harness", "x", "--include-path", str(tmp_path / "nowhere")],
        "at least k": [str(finished.root), "--set", "evaluation.k=5"],
    }
    for expected, arguments in wrong.items():
        assert run(["evaluate", *arguments]) in (2, 3)
        said = capsys.readouterr().err
        assert expected in said
        assert said.count("where:") == said.count("do:") == 1


def test_another_vocabulary_is_no_anchor(finished, base, tmp_path, capsys):
    task = chain13.__class__(**{**vars(chain13), "alphabet": chain13.alphabet[::-1]})
    other = task_tokenizer(task)
    save_model(new_model(base().start.config, other, Precision()), other, tmp_path / "other")
    assert run(["evaluate", str(finished.checkpoint(3)), "--anchor", str(tmp_path / "other")]) == 3
    assert "the vocabulary of its anchor" in capsys.readouterr().err


@pytest.fixture
def own_task(tmp_path):
    """A multiple-choice task of lm-eval on this machine: which result a sum has."""
    documents = [
        {"prompt": f"Qa+{i};=", "choices": ["a", "b", "c"], "label": i % 3} for i in range(6)
    ]
    data = tmp_path / "sums.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in documents))
    (tmp_path / "sums.yaml").write_text(
        f"task: sums\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{prompt}}'\n"
        "doc_to_choice: '{{choices}}'\ndoc_to_target: '{{label}}'\ntarget_delimiter: ''\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    return tmp_path, documents


@pytest.mark.filterwarnings("ignore")  # of lm-eval and datasets, not ours
def test_the_harness_runs_a_local_task_beside_the_forward_kl(finished, own_task, capsys):
    folder, documents = own_task
    options = ("--harness", "sums", "--include-path", folder, "--limit", 5)
    found = evaluated(capsys, finished.checkpoint(3), *options)
    model = AutoModelForCausalLM.from_pretrained(finished.checkpoint(3)).eval()
    tokenizer = task_tokenizer(chain13)
    right = []
    for document in documents[:5]:
        ids = torch.tensor([tokenizer(document["prompt"])["input_ids"]])
        with torch.inference_mode():
            logits = model(ids).logits[0, -1]
        choices = tokenizer.convert_tokens_to_ids(document["choices"])
        right.append(int(logits[choices].argmax()) == document["label"])
    error = np.std(right, ddof=1) / np.sqrt(5)
    assert [row["metric"] for row in found] == ["sums/acc", "forward_kl_nats"]
    assert found[0]["value"] == np.mean(right)
    assert found[0]["size"] == 5
    assert found[0]["stderr"] == pytest.approx(error)
    assert found[0]["high"] - found[0]["value"] == pytest.approx(1.959964 * error, rel=1e-5)
    assert found[1]["value"] == finished.log()[-1]["forward_kl_nats"]


def test_the_harness_is_an_extra(monkeypatch):
    monkeypatch.setattr("offaxis.errors.find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"offaxis\[evaluate\]"):
        harness.check(harness.Harness(("arc_easy",)))


@pytest.mark.trials
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("task", "said"), [("arc_eazy", "arc_easy"), ("arc_easy", "Hub")])
def test_public_tasks_are_known_and_nothing_is_fetched(models, tokenizer, task, said):
    """The harness's own index takes ten seconds."""
    asked = harness.Harness((task,), 2)
    with pytest.raises(OffaxisError, match=said):
        harness.harness_metrics(models[0], tokenizer, asked, harness.check(asked))
