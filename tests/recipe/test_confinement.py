"""Recipes that take a subspace or a mask from other runs."""

from pathlib import Path

import pytest

from offaxis.errors import RecipeError
from offaxis.recipe import load_recipe, recipe_hash, recipe_text

TINY = Path(__file__).parents[2] / "recipes" / "tiny"


def written(folder, tables):
    """A recipe of OPD with more tables, beside which `opd.toml` lies as it is."""
    text = (TINY / "opd.toml").read_text()
    for name in ("anchor", "teacher"):
        text = text.replace(f'"{name}.toml"', f'"{TINY / name}.toml"')
    (folder / "opd.toml").write_text(text)
    path = folder / "confined.toml"
    path.write_text(text.replace('arm = "opd"', 'arm = "confined"') + tables)
    return path


EARLY = """
[subspace]
form = "core"
rank = 16
[subspace.of]
recipe = "opd.toml"
fraction = 0.2
[subspace.norm_of]
path = "runs/other"
"""


def test_another_runs_recipe_is_read_and_is_a_prerequisite(tmp_path):
    recipe = load_recipe(written(tmp_path, EARLY))
    opd = load_recipe(tmp_path / "opd.toml")
    assert [p.arm for p in recipe.prerequisites] == ["teacher", "opd"]
    assert recipe_hash(recipe.prerequisites[1]) == recipe_hash(opd)
    assert recipe.subspace.norm_of.path == str(tmp_path / "runs" / "other")
    resolved = tmp_path / "resolved.toml"
    resolved.write_text(recipe_text(recipe))
    assert recipe_hash(load_recipe(resolved)) == recipe_hash(recipe)


def test_from_the_anchor_the_recipes_own_start_is_needed_and_the_source_only_for_its_basis(
    tmp_path,
):
    path = written(tmp_path, EARLY)
    arms = [p.arm for p in load_recipe(path, ["subspace.start=anchor"]).prerequisites]
    assert arms == ["anchor", "teacher", "opd"]
    changes = ["subspace.start=anchor", "subspace.basis=random"]
    assert [p.arm for p in load_recipe(path, changes).prerequisites] == ["anchor", "teacher"]


def test_every_confining_table_changes_the_hash_and_no_other_recipe(tmp_path):
    path = written(tmp_path, EARLY)
    changes = [[], ["subspace.rank=4"], ["subspace.form=right"], ["subspace.of.fraction=0.3"]]
    assert len({recipe_hash(load_recipe(path, each)) for each in changes}) == 4
    plain = load_recipe(TINY / "opd.toml").resolved()
    assert not {"subspace", "mask"} & set(plain)
    assert not {"kind", "momentum"} & set(plain["optimizer"])
    assert "stochastic_rounding" not in plain["precision"]
    assert "stop_at_norm" not in plain["steps"]


@pytest.mark.parametrize(
    ("override", "where", "do"),
    [
        ("subspace.ranks=3", "subspace.ranks", "did you mean rank"),
        ("subspace.of.fraction=2", "subspace.of.fraction", "correct"),
        ("subspace.of.stepp=2", "subspace.of.stepp", "did you mean step"),
        ("subspace.form=both", "subspace.form", "correct"),
        ("subspace.of.step=3", "subspace.of", "correct"),
    ],
)
def test_mistakes_are_explained_where_they_are(tmp_path, override, where, do):
    with pytest.raises(RecipeError) as caught:
        load_recipe(written(tmp_path, EARLY), [override])
    assert where in caught.value.where
    assert do in caught.value.do


def test_parts_that_exclude_each_other_are_told_in_a_line(tmp_path):
    mask = 'mask={kind="random",density=0.1}'
    with pytest.raises(RecipeError) as caught:
        load_recipe(written(tmp_path, EARLY), [mask])
    assert caught.value.expected == "give [subspace] or [mask], not both"
    assert caught.value.found.startswith("a table of ")
    assert "{" not in caught.value.found
