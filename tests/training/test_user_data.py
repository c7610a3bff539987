"""Training on the user's data: a real tokenizer with a chat template, from files to a run."""

import json

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast

from offaxis.errors import NumericsError, RecipeError
from offaxis.recipe import Precision, recipe_from, recipe_text
from offaxis.tasks.base import Document
from offaxis.training import plan, train, train_command
from offaxis.training.heads import head_of
from offaxis.training.models import new_model, save_model
from offaxis.training.rewarding import rewarded
from offaxis.training.rollouts import ends_of
from offaxis.training.rows import encode, packed
from offaxis.training.run import run_folder
from offaxis.training.sources import Documents
from offaxis.training.tasks import open_records, task_of

# As ChatML templates are, with a beginning of text that only the template may write.
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if thinking is defined and not thinking %}<think></think>{% endif %}{% endif %}"
)
ROWS = [
    {
        "prompt": f"How much is {a} plus {b}?",
        "completion": f"The sum is {a + b}.",
        "answer": {"value": a + b},
    }
    for a in range(6)
    for b in range(6)
]


def bpe():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((f"{r['prompt']} {r['completion']}" for r in ROWS), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


@pytest.fixture(scope="module")
def start(base, tmp_path_factory):
    """A foreign model: its folder, as a recipe names it."""
    tokenizer = bpe()
    config = base().start.config.model_copy(
        update={"max_position_embeddings": 256, "init_std": 0.2}
    )
    model = new_model(config, tokenizer, Precision(autocast="none"))
    ends = [tokenizer.convert_tokens_to_ids(end) for end in ("<|endoftext|>", "<|im_end|>")]
    model.generation_config = GenerationConfig(eos_token_id=ends)
    folder = tmp_path_factory.mktemp("foreign") / "model"
    save_model(model, tokenizer, folder)
    return folder, model, tokenizer


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(path)


@pytest.fixture(scope="module")
def user(start, rows_file):
    """Builds a recipe on the user's data."""

    def build(kind, data=None, **changes):
        columns = {"prompt": "prompt", "completion": "completion", "answer": "answer.value"}
        content = {
            "arm": kind,
            "start": {"path": str(start[0])},
            "objective": {"kind": kind},
            "data": {"files": [rows_file], "columns": columns, "held_out": 0.3, "max_tokens": 90},
            "optimizer": {"lr": 1e-2, "warmup_steps": 0},
            "steps": {"max": 3},
            "checkpoints": {"count": 3},
            "evaluation": {"problems": 8, "samples": 4},
            "rollouts": {"per_prompt": 4, "max_tokens": 6},
        }
        use = {"mixture": {"demonstrations": 6}} if kind == "sft" else {"prompts": 2}
        content["data"] |= use | (data or {})
        return recipe_from(content | changes, "test")

    return build


def task_for(recipe, start):
    _, model, tokenizer = start
    return task_of(recipe, open_records(recipe), tokenizer, ends_of(model, tokenizer))


def test_sft_on_demonstrations_learns_them_and_writes_where_they_came_from(user, tmp_path):
    recipe = user("sft", steps={"max": 12}, rewards={"judge": "exact"})
    folder = train(recipe, tmp_path)
    losses = [line["loss"] for line in folder.log()[1:]]
    assert losses[-1] < 0.6 * losses[0]
    data = folder.manifest()["data"]
    assert data["files"][0]["path"] == recipe.data.files[0]
    assert data["training_rows"] + data["held_out_rows"] == len(ROWS)
    assert folder.manifest()["accuracy_final"] == 0


def test_grpo_with_an_exact_reward_runs_and_repeats(user, tmp_path):
    rewards = {"kind": "exact", "extract": "marker", "marker": "is"}
    folder = train(user("grpo", rewards=rewards), tmp_path / "a")
    log = folder.log()
    assert [line["unscorable"] for line in log[1:]] == [0.0] * 3
    assert all(0 <= line["reward"] <= 1 for line in log[1:])
    assert folder.manifest()["accuracy_start"] == 0
    again = train(user("grpo", rewards=rewards), tmp_path / "b")
    last = "checkpoint-3/model.safetensors"
    assert (again.root / last).read_bytes() == (folder.root / last).read_bytes()


def test_without_a_rule_demonstrations_have_no_accuracy(user, tmp_path):
    folder = train(user("sft"), tmp_path)
    assert folder.manifest()["accuracy_final"] is None
    assert folder.log()[-1]["forward_kl_nats"] > 0
    assert train(user("sft"), tmp_path).root == folder.root


def test_a_generator_of_reasoning_gym_trains(user, tmp_path):
    pytest.importorskip("reasoning_gym")
    gym = {"files": [], "columns": {}, "gym": "chain_sum", "gym_settings": {"max_terms": 3}}
    folder = train(user("grpo", data=gym), tmp_path)
    assert folder.manifest()["data"]["settings"]["max_terms"] == "3"
    assert all(line["unscorable"] == 0 for line in folder.log()[1:])


def test_the_template_writes_the_special_tokens_and_only_the_completion_is_learned(user, start):
    _, model, tokenizer = start
    task = task_for(user("sft"), start)
    document = task.document("demonstrations", seed=0, index=0)
    assert document.prompt.startswith("<s><|im_start|>user\nHow much")
    assert document.prompt.endswith("<|im_end|>\n<|im_start|>assistant\n")
    # Of the model's two ends the one that the template ends a turn with.
    assert document.answer.endswith(".<|im_end|>")
    rows = Documents(task, tokenizer, {"demonstrations": 3}, seed=0).draw(model, 1).rows
    learned = {
        tokenizer.decode(t[m])
        for t, m in zip(rows.batch.tokens_BT, rows.batch.mask_BT, strict=True)
    }
    answers = [task.document("demonstrations", seed=0, index=i).answer for i in range(3)]
    assert sorted("".join(sorted(learned))) == sorted("".join(answers))
    beginnings = rows.input_ids_BS == tokenizer.bos_token_id
    assert int(beginnings.sum()) == 3  # and none that the tokenizer added


def test_what_is_read_is_what_the_template_tokenizes_itself(user, start):
    _, _, tokenizer = start
    task = task_for(user("sft"), start)
    document = task.document("demonstrations", seed=0, index=0)
    text = document.prompt.split("user\n")[1].split("<|im_end|>")[0]
    turns = [{"role": "user", "content": text}]
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
    assert encode(tokenizer, [(document.prompt, document.answer)])[0].ids[: len(ids)] == ids


def test_packed_chats_do_not_see_each_other(user, start):
    _, model, tokenizer = start
    task = task_for(user("sft"), start)
    drawn = [task.document("demonstrations", seed=0, index=i) for i in range(5)]
    # One of them is long enough that the others share a row.
    texts = [(drawn[0].prompt, 12 * drawn[0].answer), *((d.prompt, d.answer) for d in drawn[1:])]
    together = packed(encode(tokenizer, texts), tokenizer.pad_token_id)
    assert len(together.input_ids_BS) < len(texts)

    def loss_of(rows):
        with torch.no_grad():
            log_p = head_of(model.eval(), rows).logits().log_softmax(-1)
        tokens = rows.batch.tokens_BT[..., None]
        return log_p.gather(-1, tokens)[..., 0][rows.batch.mask_BT].sum()

    apart = [packed(encode(tokenizer, [text]), tokenizer.pad_token_id) for text in texts]
    torch.testing.assert_close(loss_of(together), sum(map(loss_of, apart)), rtol=1e-5, atol=1e-4)


def test_settings_reach_the_template_and_plain_prompts_stand_as_they_are(user, start):
    told = task_for(user("sft", data={"template_settings": {"thinking": False}}), start)
    assert told.problem(seed=0, index=0).prompt.endswith("assistant\n<think></think>")
    plain = task_for(user("sft", data={"template": "plain"}), start)
    document = plain.document("demonstrations", seed=0, index=0)
    assert document.prompt.startswith("How much")
    assert document.prompt.endswith("?")
    assert document.answer.endswith(".<|im_end|>")


def test_a_tokenizer_without_a_template_is_refused(user, start):
    _, model, tokenizer = start
    recipe = user("sft")
    bare = bpe()
    bare.chat_template = None
    with pytest.raises(RecipeError, match="chat template"):
        task_of(recipe, open_records(recipe), bare, ends_of(model, tokenizer))


def test_a_template_that_refuses_messages_names_the_row(user, start):
    _, model, tokenizer = start
    recipe = user("sft")
    strict = bpe()
    strict.chat_template = "{{ raise_exception('no roles today') }}"
    task = task_of(recipe, open_records(recipe), strict, ends_of(model, tokenizer))
    with pytest.raises(RecipeError, match="no roles today") as caught:
        task.problem(seed=0, index=0)
    assert "rows.jsonl, line" in caught.value.where


def test_a_base_model_learns_to_end_as_it_stops(user, start):
    # The template ends turns by <|im_end|>, the model stops at <|endoftext|> alone.
    recipe, tokenizer = user("sft"), bpe()
    tokenizer.eos_token = "<|endoftext|>"
    task = task_of(recipe, open_records(recipe), tokenizer, [tokenizer.eos_token_id])
    assert task.document("demonstrations", seed=0, index=0).answer.endswith(".<|endoftext|>")


def test_documents_that_are_too_long_are_left_out_counted_and_said(user, start, tmp_path, capsys):
    rows = [*ROWS, *({**row, "completion": "very " * 60} for row in ROWS)]
    path = tmp_path / "long.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = user("sft", data={"files": [str(path)]}, name="long")
    task = task_for(recipe, start)
    drawn = [task.document("demonstrations", seed=0, index=i) for i in range(40)]
    assert not any("very" in document.answer for document in drawn)
    assert task.too_long > 10
    assert "more than data.max_tokens = 90" in capsys.readouterr().err
    notes = []
    folder = train(recipe, tmp_path, observe=lambda p: notes.append(p.note))
    counted = [line.get("too_long", 0) for line in folder.log()[1:]]
    assert sum(counted) == folder.manifest()["too_long"] > 0
    assert any(f"{sum(counted):.0f} documents longer" in note for note in notes)
    with pytest.raises(RecipeError, match="in a row"):
        task_for(user("sft", data={"max_tokens": 3}), start).problem(seed=0, index=0)


def test_files_that_are_missing_are_planned_for_and_refused_before_anything_is_trained(
    user, tmp_path
):
    nowhere = str(tmp_path / "nowhere.jsonl")
    recipe = user("sft", data={"files": [nowhere]})
    assert plan(recipe, tmp_path)[-1].absent == (nowhere,)
    (tmp_path / "recipe.toml").write_text(recipe_text(recipe))
    with pytest.raises(RecipeError, match="no such file"):
        train_command(tmp_path / "recipe.toml", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    stage = plan(user("sft"), tmp_path)[-1]
    assert stage.tokens == 3 * 6 * 90  # at most: steps, documents, tokens of each
    assert stage.checkpoint_bytes > 0


def test_what_cannot_be_judged_is_counted_and_never_zero(user, start, tmp_path):
    recipe = user("grpo", rewards={"kind": "exact"})
    task = task_for(recipe, start)
    asked = [Document("q", "", "34"), Document("q", "", ""), Document("q", "", "34")]
    rewards = rewarded(task, recipe, 1, asked, ["34<|im_end|>", "34", "35"])
    assert rewards[[0, 2]].tolist() == [1.0, 0.0]
    assert rewards[1].isnan()
    rows = [{**row, "answer": {"value": "" if i % 4 else "1"}} for i, row in enumerate(ROWS)]
    path = tmp_path / "gaps.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    few = {"kind": "exact", "max_unscorable": 0.1}
    strict = user("grpo", data={"files": [str(path)]}, rewards=few, name="strict")
    with pytest.raises(NumericsError, match="cannot be judged") as caught:
        train(strict, tmp_path)
    assert "step" in caught.value.where
    assert run_folder(strict, tmp_path).manifest()["finished"] is False
    patient = {"kind": "exact", "max_unscorable": 1.0}
    folder = train(user("grpo", data={"files": [str(path)]}, rewards=patient), tmp_path)
    log = folder.log()[1:]
    assert {line["unscorable"] for line in log} <= {0.0, 4.0, 8.0}
    assert any(line["unscorable"] for line in log)
    assert all(("reward" in line) == (line["unscorable"] < 8) for line in log)


def test_a_control_reward_is_judged_by_another_rule(user, tmp_path):
    recipe = user("grpo", rewards={"kind": "random", "judge": "exact", "extract": "boxed"})
    folder = train(recipe, tmp_path)
    assert folder.manifest()["accuracy_final"] == 0
    assert any(0 < line["reward"] < 1 for line in folder.log()[1:])
