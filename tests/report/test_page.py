import math
import re
import subprocess
import sys

import pytest

from offaxis.errors import ResultsError
from offaxis.report import payload, write_report

HOSTILE = "<img src=x onerror=alert(1)></script>\n<b>{layer}.{role}"
HOSTILE_RUN = "<script>alert(2)</script>\n{arm}{seed}"


def data_of(page):
    text = page.read_text("utf-8")
    return payload.unpack(re.search(r'id="payload">([^<]*)<', text).group(1))


def test_the_page_is_one_small_file_beside_the_table(demo_results, tmp_path):
    page = write_report(demo_results, tmp_path / "page.html")
    assert page.stat().st_size < 2_000_000
    text = page.read_text("utf-8")
    assert "default-src &#39;none&#39;" in text
    assert "unsafe" not in re.search(r'Content-Security-Policy" content="([^"]*)"', text).group(1)
    assert not re.search(r'<(?:link|iframe|img)|\ssrc="', text.split("<script>")[0])


def test_the_default_place_is_the_results_folder(results, tmp_path, planted_arm):
    results(tmp_path, {"opd": planted_arm(0.1, seeds=1)})
    assert write_report(tmp_path) == tmp_path / "report.html"


def test_the_same_table_gives_the_same_bytes(demo_results, tmp_path):
    one = write_report(demo_results, tmp_path / "one.html").read_bytes()
    assert one == write_report(demo_results, tmp_path / "two.html").read_bytes()


def test_no_number_in_the_payload_is_not_a_number(demo_results, tmp_path):
    def walk(part):
        if isinstance(part, dict):
            return all(map(walk, part.values()))
        if isinstance(part, list):
            return all(map(walk, part))
        return not isinstance(part, float) or math.isfinite(part)

    assert walk(data_of(write_report(demo_results, tmp_path / "page.html")))
    with pytest.raises(ValueError, match="JSON compliant"):
        payload.pack({"bad": float("nan")})
    assert payload.columns_of([{"a": float("nan")}, {"b": 0.123456789}]) == {
        "a": [None, None],
        "b": [None, 0.12346],
    }


def test_hostile_names_are_text(results, tmp_path, planted_arm):
    arms = {"opd": planted_arm(0.1, seeds=1, steps=9)}
    results(tmp_path, arms, tensor=HOSTILE, name=HOSTILE_RUN, known_arms=False)
    text = write_report(tmp_path).read_text("utf-8")
    assert "<img" not in text
    assert "alert(2)</script>" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text


def test_strange_checkpoints_get_a_page_that_says_what_is_missing(results, tmp_path, planted_arm):
    arms = {"any": planted_arm(0.1, seeds=1, steps=1)}
    results(
        tmp_path, arms, known_arms=False, log=False, count=2, roles=("odd",), tensor="blob.{role}"
    )
    text = write_report(tmp_path).read_text("utf-8")
    assert "No training log came with these checkpoints" in text
    assert "each run stands alone" in text
    assert text.count("cannot tell here</span>") >= 13


def test_a_smoke_study_says_that_it_need_not_have_learned(results, tmp_path, planted_arm):
    results(tmp_path, {"opd": planted_arm(0.1, seeds=1)}, preset="smoke")
    text = write_report(tmp_path).read_text("utf-8")
    assert "need not have learned anything" in text
    assert "No arm has 3 seeds" in text


def test_the_headline_is_computed(demo_results, tmp_path):
    text = write_report(demo_results, tmp_path / "page.html").read_text("utf-8")
    headline = re.search(r'class="headline">([^<]*)<', text).group(1)
    assert "Of 13 claims about such updates, checked here: " in headline
    sparsity = 100 / (1 + 600 * 0.017)
    assert f"OPD {sparsity:.2f}" in headline


def test_a_damaged_folder_is_one_clear_error(tmp_path, results, planted_arm):
    with pytest.raises(ResultsError):
        write_report(tmp_path)
    results(tmp_path, {"opd": planted_arm(0.1, seeds=1)})
    (tmp_path / "readings" / "opd-s0.parquet").write_bytes(b"PAR1")
    with pytest.raises(ResultsError, match="measure again"):
        write_report(tmp_path)


def test_the_page_is_made_without_torch():
    code = "import sys, offaxis.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
