"""The published settings beside ours: every key is there, and equal where no note says why not."""

import pytest

from offaxis.errors import RecipeError
from offaxis.reproduction.presets import Setting, lines, load_presets

PRESETS = load_presets()


def number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def test_every_table_of_settings_is_there():
    assert list(PRESETS) == [f"tab{n}" for n in range(2, 10)]


@pytest.mark.parametrize("table", PRESETS)
def test_ours_is_what_is_published_or_a_note_says_why_not(table):
    found = lines(PRESETS[table])
    compared = 0
    for line in found:
        published = number(line.published)
        if published is not None and not line.note:
            assert number(line.ours) == published, line
            compared += 1
    assert compared or table in ("tab2", "tab6", "tab7", "tab8")


def test_names_are_ours_too():
    by_name = {line.name: line for table in PRESETS.values() for line in lines(table)}
    assert by_name["Baseline: teacher"].ours.endswith("Qwen3-32B")
    assert by_name["Mixture-of-experts teacher: teacher"].ours.endswith("Qwen3-30B-A3B")
    for name in (n for n in by_name if n.endswith(": teacher")):
        assert by_name[name].ours.endswith(by_name[name].published)


def test_a_key_that_no_recipe_has_is_refused():
    wrong = Setting(table="tab3", name="x", published="1", arm="opd", key="optimizer.rate")
    with pytest.raises(RecipeError, match=r"optimizer\.rate"):
        lines([wrong])


@pytest.mark.parametrize(
    "given", [{"published": ""}, {"arm": ""}, {"key": ""}, {"arm": "", "key": ""}]
)
def test_a_gap_needs_a_note(given):
    setting = {"table": "t", "name": "n", "published": "1", "arm": "opd", "key": "seed", **given}
    with pytest.raises(ValueError, match=r"note|together"):
        Setting(**setting)
