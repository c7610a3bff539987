"""Arms, entries and draws: every arm has a recipe, and a draw is a complete re-draw."""

import pytest

from offaxis.errors import RecipeError
from offaxis.recipe import Recipe, load_recipe, recipe_hash
from offaxis.reproduction.arms import arms_of, drawn
from offaxis.reproduction.claims import load_claims
from offaxis.reproduction.entries import ENTRIES, HEADLINE, HEADLINE_DRAWS, QUICK_DRAWS
from offaxis.reproduction.probes import PROBES
from offaxis.reproduction.study import short_of_their_mark, study_jobs
from offaxis.reproduction.verdicts import SIGN_LEVEL
from offaxis.runs import RunFolder

IDS = [
    "fig1",
    "tab1",
    *(f"fig{n}" for n in range(2, 10)),
    *(f"tab{n}" for n in range(2, 10)),
    "sec5.2",
    "relatives",
]


def tree(recipe: Recipe) -> list[Recipe]:
    return [recipe, *(each for inner in recipe.prerequisites for each in tree(inner))]


def test_every_table_and_figure_of_the_paper_is_an_entry() -> None:
    assert list(ENTRIES) == IDS
    assert all(name == entry.id for name, entry in ENTRIES.items())


def test_every_arm_of_an_entry_has_a_tiny_recipe_of_its_name() -> None:
    wanted = {arm for entry in ENTRIES.values() for arm in entry.draws()}
    assert wanted <= arms_of("tiny").keys()
    assert all(load_recipe(arms_of("tiny")[arm]).arm == arm for arm in sorted(wanted)[::7])


def test_every_claim_finds_its_arms_in_its_figure_and_draws_enough_to_decide() -> None:
    for claim in load_claims().claims:
        entry = ENTRIES[claim.figure]
        draws = entry.draws()
        for probe in (PROBES[name] for name in entry.probes):
            draws |= dict.fromkeys(probe.gives, min(draws[arm] for arm in probe.arms))
        for comparison in (claim, *claim.controls):
            for cell in comparison.cells:
                assert 0.5 ** draws[cell.arm] <= SIGN_LEVEL, f"{claim.id}: {cell.arm}"


def test_headline_figures_have_eight_draws_and_quick_ones_can_decide() -> None:
    for name in HEADLINE:
        assert set(ENTRIES[name].draws(headline_only=True).values()) == {HEADLINE_DRAWS}
        quick = ENTRIES[name].draws(quick=True)
        assert set(quick.values()) == {QUICK_DRAWS}
        assert quick.keys() < ENTRIES[name].draws().keys()
    assert HEADLINE_DRAWS >= 8
    assert 0.5**QUICK_DRAWS <= SIGN_LEVEL


def test_the_first_draw_is_the_recipe_as_it_stands() -> None:
    for arm in ("opd-k16-random", "sft-base"):
        assert drawn(arm, 0, "tiny") == load_recipe(arms_of("tiny")[arm])


def test_a_draw_moves_every_seed_and_nothing_else() -> None:
    first, other = (tree(drawn("opd-k16-random", draw, "tiny")) for draw in (0, 3))
    assert len(first) == len(other) > 6
    for one, two in zip(first, other, strict=True):
        assert two.seed - one.seed == 30_000
        if one.start.config is not None:
            assert two.start.config.init_seed - one.start.config.init_seed == 30_000
    moved = {"seed", "start", "teacher", "subspace"}
    one, two = (recipes[0].model_dump(exclude=moved) for recipes in (first, other))
    assert one == two


def test_arms_share_their_models_within_a_draw_and_none_between_draws() -> None:
    arms = ("sft", "opd", "rlvr", "opd-k16-early", "mixed-5-advantages")
    anchors = [
        {
            recipe_hash(each)
            for arm in arms
            for each in tree(drawn(arm, draw, "tiny"))
            if each.arm == "anchor"
        }
        for draw in range(3)
    ]
    assert [len(found) for found in anchors] == [1, 1, 1]
    assert len(set.union(*anchors)) == 3
    # What a constrained run goes on from is the free run of its draw.
    of = drawn("opd-k16-early", 2, "tiny").subspace.of.recipe
    assert recipe_hash(of) == recipe_hash(drawn("opd", 2, "tiny"))


def test_no_two_draws_share_a_seed() -> None:
    seeds = [
        {each.seed for arm in ("opd-k16-random", "rlvr") for each in tree(drawn(arm, draw, "tiny"))}
        for draw in range(4)
    ]
    assert len(set.union(*seeds)) == sum(map(len, seeds))


def test_overrides_reach_what_an_arm_builds_on() -> None:
    recipe = drawn("opd", 1, "tiny", {"*": ("steps.max=7",), "base": ("steps.max=9",)})
    assert {each.arm: each.steps.max for each in tree(recipe)} == {
        "opd": 7,
        "anchor": 7,
        "teacher": 7,
        "base": 9,
    }


def test_an_unknown_arm_is_refused() -> None:
    with pytest.raises(RecipeError, match="did you mean opd-sgd"):
        drawn("opd-sdg", 0, "tiny")


def test_a_model_is_short_of_its_mark_by_its_accuracy_and_not_by_its_steps(tmp_path) -> None:
    jobs = study_jobs({0: {"opd": drawn("opd", 0, "tiny")}}, tmp_path)
    marks = {name: job.recipe.steps.stop_at_accuracy for name, job in jobs.items()}
    for name, job in jobs.items():
        reached = {"teacher": 0.998, "anchor": 0.1}.get(job.recipe.arm, 0.0)
        folder = RunFolder(tmp_path / "models" / name)
        folder.write_manifest({"steps": [0, job.recipe.steps.max], "accuracy_final": reached})
    (note,) = short_of_their_mark(jobs, tmp_path)
    (anchor,) = (name for name, job in jobs.items() if job.recipe.arm == "anchor")
    assert note.startswith(f"{anchor} ended after")
    assert f"0.100, meant to stop at {marks[anchor]}" in note
