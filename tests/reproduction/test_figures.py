"""Figures on a study of known numbers: what they draw, say and leave out."""

import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from tests.reproduction import synthetic

from offaxis.reproduction.curves import Name
from offaxis.reproduction.entries import ENTRIES
from offaxis.reproduction.extract import STUDY
from offaxis.reproduction.figures import DRAWN, Averages, Evidence, averages, static
from offaxis.reproduction.figures.looks import label
from offaxis.reproduction.figures.over_progress import over_progress
from offaxis.reproduction.figures.place import Place
from offaxis.reproduction.local_masks import tiles
from offaxis.reproduction.published import load_published

STABLE_RANK = Name("stable_rank", "attention", "bf16")


@pytest.fixture(scope="module")
def drawn():
    evidence = synthetic.evidence()
    return {name: draw(evidence) for name, draw in DRAWN.items()}


def row(draw, progress, value, **more):
    base = dict.fromkeys(STUDY.names) | {"draw": draw, "arm": "opd", "progress": progress}
    base |= STABLE_RANK._asdict() | {"point": f"step={100 * progress:g}", "value": value}
    return base | more


def study(rows):
    return Averages(pa.Table.from_pylist(rows, schema=STUDY))


def test_every_entry_that_is_drawn_is_an_entry_and_has_its_own_numbers(drawn):
    assert set(DRAWN) <= set(ENTRIES)
    published = load_published().values()
    for name, figure in drawn.items():
        assert figure.heading.id == name
        assert figure.spec, name
        texts = {cell for view in figure.tables.values() for line in view.rows for cell in line}
        wanted = {n.text for n in published if n.figure == name and n.place != "Table 1"}
        assert {n for n in wanted if name != "tab1"} <= texts, name
        json.dumps([figure.spec, figure.rows], allow_nan=False)
    table = drawn["tab1"].tables["Table 1"].rows
    assert {line[2] for line in table} == {
        number.text for number in published if number.place == "Table 1"
    }


def test_a_panel_draws_only_its_own_rows(drawn):
    for figure in drawn.values():
        panels = {each["panel"] for each in figure.rows}
        text = json.dumps(figure.spec)
        assert all(f"datum.panel === '{panel}'" in text for panel in panels)
        assert text.count("datum.panel") >= len(panels)


def test_the_mean_its_interval_and_the_null_are_those_of_the_draws():
    rows = [row(d, 1.0, v, null=2 * v, null_name="n") for d, v in enumerate((1.0, 2.0, 3.0))]
    ((progress, found),) = study(rows).along("opd", STABLE_RANK)
    assert (progress, found.mean, found.draws, found.null) == (1.0, 2.0, 3, 4.0)
    # Student's quantile for two degrees of freedom is 4.303, the standard error 1/sqrt(3).
    assert found.high - found.mean == pytest.approx(4.303 / 3**0.5, rel=1e-3)
    log = averages.estimate(np.array([1.0, 4.0, -1.0]), np.full(3, np.nan), log=True)
    assert (log.mean, log.draws, log.null) == (pytest.approx(2.0), 2, None)
    alone = averages.estimate(np.array([1.0]), np.array([1.0]))
    assert (alone.low, alone.high) == (None, None)


def test_a_curve_of_fewer_draws_is_said_to_be_one():
    rows = [row(d, p, 1.0 + d) for d in range(3) for p in (0.5, 1.0)]
    rows += [row(0, p, 2.0, arm="sft") for p in (0.5, 1.0)]
    place = Place("fig4", "a", "Stable rank")
    evidence = Evidence(study(rows), {})
    panel = over_progress(evidence, place, STABLE_RANK, ("opd", "sft"))
    assert panel.spec["title"]["subtitle"][1] == f"1 of 3 draws: {label('sft')}"
    alike = over_progress(evidence, place, STABLE_RANK, ("opd",))
    assert alike.spec["title"]["subtitle"][1] == " "


def test_draws_of_other_checkpoints_are_read_between_them_and_never_beyond():
    rows = [row(0, p, 10 * p) for p in (0.2, 0.6, 1.0)] + [row(1, p, 10 * p) for p in (0.4, 1.0)]
    found = study(rows).along("opd", STABLE_RANK)
    assert [(p, e.draws) for p, e in found] == [(0.2, 1), (0.6, 2), (1.0, 2)]
    assert [e.mean for _, e in found] == pytest.approx([2.0, 6.0, 10.0])


def test_arms_that_were_not_run_are_named_and_empty_figures_draw_nothing():
    alone = synthetic.table(1, ("opd",), ("stable_rank",))
    evidence = Evidence(Averages(alone), load_published())
    figure = DRAWN["fig4"](evidence)
    assert "not run: sft-base, sft, rlvr" in figure.notes
    assert {each["id"] for each in figure.rows} == {"opd"}
    assert not DRAWN["fig5"](evidence).spec
    assert "run, but not measured for this: opd" in DRAWN["fig5"](evidence).notes


def test_a_null_far_off_does_not_squeeze_the_curves_and_is_said():
    rows = [row(0, p, 10.0 + p, null=1e4, null_name="sign_flip") for p in (0.5, 1.0)]
    figure = DRAWN["fig1"](Evidence(study(rows), load_published()))
    text = json.dumps(figure.spec)
    assert "null off the axis: 10,000" in text
    (panel,) = figure.spec["vconcat"][0]["hconcat"]
    assert panel["layer"][2]["encoding"]["y"]["scale"]["domain"][1] < 20


def test_where_nothing_moves_the_axis_has_room_for_its_numbers():
    figure = DRAWN["fig1"](Evidence(study([row(0, 1.0, 0.0)]), load_published()))
    (panel,) = figure.spec["vconcat"][0]["hconcat"]
    low, high = panel["layer"][2]["encoding"]["y"]["scale"]["domain"]
    assert low < -0.01 < 0.01 < high


def test_tiles_count_what_changed_inside_each_mask():
    start = torch.randn(32, 32, generator=torch.Generator().manual_seed(1))
    end = start.clone()
    end[:2, :2] *= 2  # one tile, and no other, changes whole
    found = list(tiles(start, end))
    density = [tile for tile in found if tile["what"] == "update_density"]
    assert len(density) == 256
    assert [tile["value"] for tile in density] == [1.0] + [0.0] * 255
    assert len(found) == 258  # overlaps of the one tile alone
    assert next(iter(tiles(start, start.clone())))["value"] == 0


@pytest.mark.parametrize("name", ["fig1", "fig3"])  # with clips and opacities, with gradients
def test_a_figure_has_the_same_bytes_each_time(drawn, name):
    pytest.importorskip("vl_convert")
    svg = static.svg(drawn[name])
    assert svg == static.svg(drawn[name])
    assert "http" not in svg.replace("http://www.w3.org", "")
    assert len({static.pdf(svg) for _ in range(4)}) == 1
