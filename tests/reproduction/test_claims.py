import pytest

from offaxis.errors import RecipeError
from offaxis.report.quantities import MINUS, TIMES
from offaxis.reproduction.claims import FILE, Claim, load_claims
from offaxis.reproduction.published import FILE as NUMBERS
from offaxis.reproduction.published import load_published

HEAD = """
misses = 0.05
[[claims]]
id = "one"
figure = "fig4"
sentence = "One exceeds other."
words = "more"
quantity = "hill"
contrasts = [{ one = 1, other = -1 }]
direction = "above"
margin = 0.5
reason = "half a point would be seen"
"""
CONTROL = """[[claims.controls]]
excludes = "size of the update"
point = "norm=matched"
"""
ONE = HEAD + CONTROL


def written(folder, text):
    path = folder / "claims.toml"
    path.write_text(text, "utf-8")
    return path


def test_a_control_is_its_claim_but_for_what_it_says(tmp_path):
    claim = load_claims(written(tmp_path, ONE)).claims[0]
    control = claim.controls[0]
    assert (control.quantity, control.margin, control.reason) == (
        claim.quantity,
        claim.margin,
        claim.reason,
    )
    assert [(term.arm, term.point) for term in control.weights[0]] == [
        ("one", "norm=matched"),
        ("other", "norm=matched"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "where", "said"),
    [
        ("margin = 0.5", "margin = 0.5\nbase = 1", "claims.0.base", "did you mean baseline"),
        ("point = ", "points = ", "claims.0.controls.0.points", "did you mean point"),
        ("margin = 0.5", 'margin = "wide"', "claims.0.margin", "wide"),
        ("margin = 0.5", "margin = -1.0", "claims.0", "no room"),
        ("margin = 0.5", 'margin = 0.5\nscale = "ratio"', "claims.0", "no room"),
        ('"above"\nmargin = 0.5', '"within"\nmargin = 0', "claims.0", "no room"),
        ('"above"', '"upwards"', "claims.0.direction", "upwards"),
        ("other = -1", "other = 0", "claims.0", "weight of 0"),
        ('words = "more"', 'published = ["tab1.otd"]', "one, published", "did you mean tab1.opd"),
        ('words = "more"', "", "claims.0", "published numbers, or the words"),
        ("reason = ", "# reason = ", "claims.0", "reason for its margin"),
        (
            'point = "norm=matched"',
            'point = "norm=matched"\nmargin = 0.1',
            "claims.0",
            "reason for its margin",
        ),
        ("contrasts = ", 'order = ["one", "other"]\ncontrasts = ', "claims.0", "either order or"),
        ("margin = 0.5", 'margin = 2\nbaseline = 0\nscale = "ratio"', "claims.0", "positive"),
        ("misses = 0.05", "misses = 5", "misses", "less than 1"),
        ("[[claims]]", "[[claims", "claims.toml", "TOML"),
        (CONTROL, 'controls = ["none"]\n', "claims.0.controls.0", "none"),
    ],
)
def test_a_mistake_is_one_message_with_its_place(tmp_path, old, new, where, said):
    assert old in ONE
    with pytest.raises(RecipeError) as refused:
        load_claims(written(tmp_path, ONE.replace(old, new, 1)))
    assert where in str(refused.value)
    assert said in str(refused.value)
    assert len(str(refused.value).splitlines()) == 4


def test_a_missing_file_and_a_second_id_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="No such file"):
        load_claims(tmp_path / "none.toml")
    twice = ONE + ONE.split("misses = 0.05")[1]
    with pytest.raises(RecipeError, match="given twice: one"):
        load_claims(written(tmp_path, twice))


def test_contrasts_have_names():
    base = {
        "id": "x",
        "figure": "x",
        "sentence": "x",
        "words": "x",
        "reason": "x",
        "quantity": "hill",
        "direction": "above",
        "margin": 2.0,
    }

    def name(weights, **more):
        claim = Claim.model_validate({**base, "contrasts": [weights], **more})
        return claim.name(claim.weights[0])

    assert name({"a": 1, "b": -1}) == f"a {MINUS} b"
    assert name({"b": -1, "a": 2}) == f"2 a {MINUS} b"
    assert name({"a": -1}) == f"0 {MINUS} a"
    assert name({"a": 1, "a@early": -1}, scale="ratio") == "a / a at early"
    assert name({"a": 1, "b": 1, "c": -1}, scale="ratio") == f"a {TIMES} b / c"
    rising = Claim.model_validate({**base, "order": ["a", "b", "c"]})
    assert [rising.name(w) for w in rising.weights] == [f"b {MINUS} a", f"c {MINUS} b"]


def test_the_declared_claims_cite_their_own_figure_and_have_controls(declared):
    numbers = load_published()
    for claim in declared.claims:
        assert {numbers[name].figure for name in claim.published} <= {claim.figure}
        excluded = [control.excludes for control in claim.controls]
        assert excluded
        assert len(set(excluded)) == len(excluded)


def test_the_published_numbers_are_read_with_their_places():
    numbers = load_published()
    assert [numbers[f"tab1.{arm}"].value for arm in ("sft", "opd", "rlvr")] == [8.1, 51.6, 77.2]
    assert numbers["fig3.low.opd"].text == "53.59 %"
    assert numbers["fig4.norm.sft"].where == "Section 4.1, in a draft only"
    assert numbers["fig2.angle.rlvr"].text == "below 0.5°"
    assert {item.status for item in numbers.values()} == {"published", "figure", "draft"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("value = 8.1", "", "either value"),
        ("value = 8.1", "value = 8.1\nlow = 1", "either value"),
        ("value = 8.1", "low = 9\nhigh = 8", "below high"),
        ('id = "tab1.opd"', 'id = "tab1.sft"', "given twice"),
        ('place = "Table 1"', 'place = "Table 1"\npage = 3', "unknown key"),
        ('unit = "%"', 'unit = "per cent"', "per cent"),
    ],
)
def test_a_mistake_among_the_numbers_is_one_message(tmp_path, old, new, said):
    path = tmp_path / "published.toml"
    path.write_text(NUMBERS.read_text("utf-8").replace(old, new, 1), "utf-8")
    with pytest.raises(RecipeError, match=said):
        load_published(path)


def test_both_files_are_part_of_the_package():
    assert FILE.is_file()
    assert NUMBERS.is_file()
