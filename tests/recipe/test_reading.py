"""Recipes: every one of ours loads, overrides reach where they should, mistakes are explained."""

from pathlib import Path

import pytest

from offaxis.errors import RecipeError
from offaxis.recipe import load_recipe, recipe_from, recipe_hash, recipe_text

RECIPES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.toml"))
TINY = Path(__file__).parents[2] / "recipes" / "tiny"


def refusal(*overrides: str, recipe: str = "opd") -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        load_recipe(TINY / f"{recipe}.toml", overrides)
    return caught.value


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_loads_and_its_resolved_form_reproduces_it(path, tmp_path):
    recipe = load_recipe(path)
    assert recipe.arm == path.stem
    resolved = tmp_path / "recipe.toml"
    resolved.write_text(recipe_text(recipe))
    assert load_recipe(resolved) == recipe
    assert recipe_hash(load_recipe(resolved)) == recipe_hash(recipe)


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_opens_with_a_paragraph(path):
    assert path.read_text().startswith("# ")


def test_the_arms_from_the_anchor_differ_in_nothing_that_would_be_a_second_cause():
    arms = [load_recipe(TINY / f"{arm}.toml") for arm in ("sft", "opd", "rlvr", "rlvr-random")]
    assert len({recipe_hash(arm.start.recipe) for arm in arms}) == 1
    assert len({arm.optimizer for arm in arms}) == 1
    assert len({arm.steps for arm in arms}) == 1
    sequences = {
        sum(arm.data.mixture.values()) or arm.data.prompts * arm.rollouts.per_prompt for arm in arms
    }
    assert sequences == {64}


def test_a_seed_changes_the_run_and_not_what_it_starts_from():
    zero, one = (load_recipe(TINY / "opd.toml", [f"seed={s}"]) for s in (0, 1))
    assert (zero.run_name, one.run_name) == ("opd-s0", "opd-s1")
    assert zero.start == one.start
    assert recipe_hash(zero) != recipe_hash(one)


def test_an_override_reaches_into_a_prerequisite_and_changes_the_hash():
    plain = load_recipe(TINY / "opd.toml")
    other = load_recipe(TINY / "opd.toml", ["start.recipe.start.recipe.seed=5"])
    assert other.start.recipe.start.recipe.seed == 5
    assert recipe_hash(plain) != recipe_hash(other)


def test_overrides_are_toml_values_and_bare_words_are_strings():
    recipe = load_recipe(
        TINY / "sft.toml",
        ["optimizer.lr=2e-4", "name=mine", "data.mixture={facts=3}", "precision.autocast=none"],
    )
    assert recipe.optimizer.lr == 2e-4
    assert recipe.run_name == "mine"
    assert recipe.data.mixture == {"facts": 3}
    assert recipe.precision.autocast == "none"


@pytest.mark.parametrize(
    ("override", "where", "do"),
    [
        ("optimizer.learning=1", "optimizer.learning", "choose one of lr"),
        ("optimizer.beta_1=1", "optimizer.beta_1", "did you mean beta1"),
        ("sed=1", ", sed", "did you mean seed"),
        ("objective.kind=odp", "opd.toml", "did you mean opd"),
        ("objective.divergense=forward_kl", "objective.divergense", "did you mean divergence"),
        ("data.task=chain12", "opd.toml", "did you mean chain13"),
        ("start.recipe.start.recipe.sed=1", "start.recipe.start.recipe.sed", "did you mean seed"),
        ("start.recipe.data.mixture.answer=1", "data.mixture", "did you mean answers"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_known_one(override, where, do):
    error = refusal(override)
    assert where in error.where
    assert do in error.do
    assert error.exit_code == 2


@pytest.mark.parametrize(
    ("override", "where"),
    [
        ("steps.max=many", "steps.max"),
        ("steps.max=0", "steps.max"),
        ("optimizer.lr=nan", "optimizer.lr"),
        ("objective.divergence=k3", "objective.divergence"),
        ("precision.weights=bfloat16", "precision.weights"),
        ("start.path=somewhere", "start"),
        ("data.prompts=0", "data.prompts"),
        ("name=../up", "name"),
        ("seed", "--set"),
        ("seed.a=1", "--set"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key(override, where):
    assert where in refusal(override).where


def test_parts_that_do_not_fit_are_refused():
    assert "teacher" in refusal("objective.kind=grpo").where
    assert "mixture" in refusal("data.mixture={}", recipe="sft").where


def test_a_missing_teacher_is_refused():
    content = load_recipe(TINY / "opd.toml").resolved()
    del content["teacher"]
    with pytest.raises(RecipeError, match="teacher"):
        recipe_from(content, "here")


def test_files_that_are_missing_broken_or_circular_are_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"nowhere\.toml"):
        load_recipe(tmp_path / "nowhere.toml")
    (tmp_path / "broken.toml").write_text("a = \n")
    with pytest.raises(RecipeError, match="expected: TOML"):
        load_recipe(tmp_path / "broken.toml")
    (tmp_path / "circle.toml").write_text('[start]\nrecipe = "circle.toml"\n')
    with pytest.raises(RecipeError, match="circle"):
        load_recipe(tmp_path / "circle.toml")


def test_paths_are_relative_to_the_recipe(tmp_path):
    text = (TINY / "sft.toml").read_text().replace('recipe = "anchor.toml"', 'path = "model"')
    (tmp_path / "mine.toml").write_text(text)
    assert load_recipe(tmp_path / "mine.toml").start.path == str(tmp_path / "model")
