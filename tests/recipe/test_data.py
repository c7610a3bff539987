"""Data and rewards in a recipe: one source, its own keys, a rule that can judge."""

import pytest

from offaxis.errors import RecipeError
from offaxis.recipe import load_recipe, recipe_from, recipe_text

FILES = {
    "arm": "mine",
    "start": {"path": "/models/mine"},
    "objective": {"kind": "grpo"},
    "data": {"files": ["/rows.jsonl"], "columns": {"prompt": "q", "answer": "a"}, "prompts": 2},
    "rewards": {"kind": "exact"},
    "optimizer": {"lr": 1e-5},
    "steps": {"max": 3},
}
SFT = {"objective": {"kind": "sft"}, "rewards": {}}
MADE = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "head_dim": 4}
MADE |= {"num_attention_heads": 2, "num_key_value_heads": 1}


def recipe(data=None, **changes):
    return recipe_from({**FILES, **changes, "data": {**FILES["data"], **(data or {})}}, "test")


def test_files_are_found_beside_the_recipe_and_the_resolved_form_reproduces_it(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(recipe_text(recipe()).replace("/rows.jsonl", "rows.jsonl"))
    read = load_recipe(path)
    assert read.data.files == (str(tmp_path / "rows.jsonl"),)
    again = tmp_path / "deeper" / "again.toml"
    again.parent.mkdir()
    again.write_text(recipe_text(read))
    assert load_recipe(again) == read


def test_a_layout_names_the_columns_and_the_recipe_may_name_others():
    columns = recipe({"layout": "dapo-math-17k", "columns": {}}).data.chosen_columns
    assert (columns.prompt, columns.answer) == (("prompt",), ("reward_model.ground_truth",))
    other = recipe({"layout": "dapo-math-17k", "columns": {"answer": "label"}}).data.chosen_columns
    assert (other.prompt, other.answer) == (("prompt",), ("label",))
    chat = recipe({"layout": "dolci-think-sft", "columns": {"prompt": "q"}}).data.chosen_columns
    assert (chat.prompt, chat.messages) == (("q",), "")


@pytest.mark.parametrize(
    ("changes", "key", "expected"),
    [
        ({"data": {"task": "chain13"}}, "data", "exactly one of"),
        ({"data": {"files": []}}, "data", "exactly one of"),
        ({"data": {"gym_settings": {"x": 1}}}, "data.gym_settings", "no such key"),
        ({"data": {"layout": "dapo"}}, "data.layout", "dapo-math-17k"),
        ({"data": {"columns": {}}}, "data.columns", "prompts"),
        ({"data": {"columns": {"promt": "q"}}}, "data.columns.promt", "prompt"),
        ({**SFT, "data": {"mixture": {"facts": 1}}}, "data.mixture", "demonstrations"),
        ({**SFT, "data": {"mixture": {"demonstrations": 1}}}, "data.columns", "demonstrations"),
        ({"start": {"config": MADE}}, "start.config", "tokenizer"),
        ({"rewards": {}}, "rewards", "a rule"),
        ({"rewards": {"kind": "random"}}, "rewards", "a rule"),
        ({"rewards": {"kind": "exakt"}}, "rewards.kind", "exact"),
        ({"rewards": {"kind": "exact", "judge": "math"}}, "rewards.judge", "no second rule"),
        ({"rewards": {"kind": "random", "judge": "random"}}, "rewards.judge", "exact"),
        ({"rewards": {"kind": "exact", "extract": "first"}}, "rewards.extract", "whole"),
        ({"rewards": {"kind": "exact", "makrer": "x"}}, "rewards.makrer", "marker"),
        ({"rewards": {"kind": "code"}}, "rewards.url", "required"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_key(changes, key, expected):
    with pytest.raises(RecipeError) as caught:
        recipe(**changes)
    assert caught.value.where == f"test, {key}"
    assert expected in caught.value.expected


def test_a_task_of_ours_keeps_its_verifier_and_takes_no_keys_of_others():
    ours = {"files": [], "columns": {}, "task": "chain13"}
    assert recipe(ours, rewards={}).data.task == "chain13"
    for changes, key in (
        ({"data": ours}, "rewards.kind"),
        ({"data": ours | {"max_tokens": 9}, "rewards": {}}, "data.max_tokens"),
        ({"data": ours, "rewards": {"extract": "boxed"}}, "rewards.extract"),
        ({"data": ours, "rewards": {"kind": "random", "judge": "exact"}}, "rewards.judge"),
    ):
        with pytest.raises(RecipeError) as caught:
            recipe(**changes)
        assert caught.value.where == f"test, {key}"
