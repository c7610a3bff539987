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
        ("precision.weights=float16", "precision.weights"),
        ("start.path=somewhere", "start"),
        ("data.prompts=0", "data.prompts"),
        ("name=../up", "name"),
        ("seed", "--set"),
        ("seed.a=1", "--set"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key(override, where):
    assert where in refusal(override).where


def test_a_required_key_that_is_misspelt_is_named_and_not_the_one_that_is_missing(tmp_path):
    text = (TINY / "base.toml").read_text("utf-8")
    path = tmp_path / "base.toml"
    path.write_text(text.replace("[optimizer]\nlr =", "[optimizer]\nlrr ="), "utf-8")
    with pytest.raises(RecipeError) as refused:
        load_recipe(path)
    assert refused.value.where.endswith("optimizer.lrr")
    assert refused.value.found == "an unknown key (and 1 more)"
    assert "did you mean lr" in refused.value.do


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


@pytest.mark.parametrize(
    ("override", "where"),
    [
        ("start.config.num_key_value_heads=3", "start.config"),
        ("start.config.head_dim=31", "start.config"),
        (f"start.config.init_seed={2**32}", "start.config.init_seed"),
        ("optimizer.beta1=1", "optimizer.beta1"),
        ("optimizer.beta2=1.5", "optimizer.beta2"),
        ("optimizer.lr=1e39", "optimizer.lr"),
        ("optimizer.micro_batches=169", "optimizer.micro_batches"),
        (f"seed={2**32}", "seed"),
        ("precision.threads=1000000", "precision.threads"),
        ("precision.device=gpu", "precision.device"),
        ("steps.max=99999999999", "steps.max"),
        ("checkpoints.count=99999999999", "checkpoints.count"),
        (f"name={'long' * 100}", "name"),
    ],
)
def test_a_value_that_could_not_be_trained_with_is_refused_beforehand(override, where):
    error = refusal(override, recipe="base")
    assert where in error.where
    assert error.exit_code == 2


def test_micro_batches_split_prompts_where_there_are_rollouts():
    assert load_recipe(TINY / "rlvr.toml", ["optimizer.micro_batches=8"])
    error = refusal("optimizer.micro_batches=9", recipe="rlvr")
    assert "at most 8, the prompts" in error.expected


@pytest.mark.parametrize(
    "override", ["objective.clip_low=2", "objective.clip_high=-1", f"objective.clip_high={10**26}"]
)
def test_a_clip_that_turns_the_objective_over_is_refused(override):
    assert "objective.clip" in refusal(override, recipe="rlvr").where


def test_a_temperature_at_which_the_logits_overflow_is_refused():
    assert "temperature" in refusal("rollouts.temperature=1e-30").where


def test_the_device_is_part_of_the_hash_only_where_it_is_not_the_default():
    plain = load_recipe(TINY / "sft.toml")
    assert "device" not in plain.resolved()["precision"]
    assert recipe_hash(load_recipe(TINY / "sft.toml", ["precision.device=cpu"])) == recipe_hash(
        plain
    )
    auto = load_recipe(TINY / "sft.toml", ["precision.device=auto"])
    assert auto.resolved()["precision"]["device"] == "auto"
    assert recipe_hash(auto) != recipe_hash(plain)
