"""Edited weights judged beside the unedited model: what must be equal, is."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from offaxis.cli import run
from offaxis.errors import UsageError
from offaxis.training import train
from offaxis.training.evaluation.edits import apply_edit, parse_edit, with_nulls

NAME = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def finished(arm, tmp_path_factory):
    changes = {"evaluation": {"problems": 4, "samples": 4}, "optimizer": {"lr": 0.05}}
    return train(arm("sft", **changes), tmp_path_factory.mktemp("runs"))


def weights(finished, step):
    found = load_file(finished.checkpoint(step) / "model.safetensors")
    return {name: W.double() for name, W in found.items()}


def edited(finished, text, *, is_null=False):
    last = finished.checkpoint(3)
    model = AutoModelForCausalLM.from_pretrained(last)
    edit = with_nulls([text])[1 + is_null]
    apply_edit(edit, model, finished.checkpoint(0), last, seed=0)
    return {name: W.detach().double() for name, W in model.named_parameters()}


def test_edits_are_made_of_the_update(finished):
    W0, W = weights(finished, 0), weights(finished, 3)
    D = W[NAME] - W0[NAME]
    s = torch.linalg.svdvals(D)
    top = edited(finished, "top=2")
    kept = torch.linalg.svdvals(top[NAME] - W0[NAME])
    torch.testing.assert_close(kept[:2], s[:2], rtol=1e-5, atol=0)
    assert float(kept[2]) < 1e-5
    torch.testing.assert_close(top["model.norm.weight"], W["model.norm.weight"])
    matched = edited(finished, "bottom=2,norm")[NAME] - W0[NAME]
    assert float(matched.norm()) == pytest.approx(float(D.norm()), rel=1e-5)
    half = edited(finished, "scale=0.5")
    for name, found in half.items():
        torch.testing.assert_close(found, (W0[name] + W[name]) / 2, rtol=1e-6, atol=1e-7)
    beyond = edited(finished, "extrapolate=1,from=2")
    W2 = weights(finished, 2)[NAME]
    torch.testing.assert_close(beyond[NAME], W[NAME] + 2 * (W[NAME] - W2), rtol=1e-5, atol=1e-6)
    frames = torch.linalg.svdvals(edited(finished, "spectrum")[NAME])
    torch.testing.assert_close(frames, torch.linalg.svdvals(W0[NAME]), rtol=1e-5, atol=1e-6)
    null = edited(finished, "top=2", is_null=True)
    drawn = null[NAME] - W0[NAME]
    torch.testing.assert_close(torch.linalg.svdvals(drawn)[:2], s[:2], rtol=1e-5, atol=1e-6)
    assert abs(float((drawn * D).sum() / D.square().sum())) < 0.3


def test_the_verb_judges_edits_beside_the_model_and_their_nulls(finished, tmp_path, capsys):
    texts = ["scale=0", "scale=1", "top=99", "top=1"]
    options = [part for text in texts for part in ("--edit", text)]
    out = tmp_path / "found.parquet"
    arguments = ["evaluate", str(finished.checkpoint(3)), *options, "--out", str(out), "--json"]
    assert run(arguments) == 0, capsys.readouterr().err
    rows = json.loads(capsys.readouterr().out)["rows"]
    of = {(row["edit"], row["metric"]): row["value"] for row in rows}
    assert len(of) == 2 * 9
    for text in ("scale=1", "top=99"):
        assert of[text, "forward_kl_nats"] == pytest.approx(of["", "forward_kl_nats"], rel=1e-4)
        null = of[f"{text}, random directions", "forward_kl_nats"]
        assert abs(null - of["", "forward_kl_nats"]) > 1e-3
    assert of["scale=0", "forward_kl_nats"] == 0
    assert run(arguments[:4]) == 0
    header = capsys.readouterr().out.splitlines()[0].split()
    assert header[:4] == ["model", "step", "edit", "metric"]


REFUSED = (
    "top top=0 top=1.5 top=x middle=2 scale=inf scale=1,norm spectrum=2 extrapolate=1,from=x "
    "top=2,from=3 ,"
)


@pytest.mark.parametrize("text", REFUSED.split())
def test_what_is_no_edit_is_refused(text):
    with pytest.raises(UsageError, match="--edit"):
        parse_edit(text)


def test_an_extrapolation_needs_a_checkpoint_before(finished):
    model = AutoModelForCausalLM.from_pretrained(finished.checkpoint(0))
    for text in ("extrapolate=1", "extrapolate=1,from=7"):
        with pytest.raises(UsageError, match="from=STEP"):
            apply_edit(
                parse_edit(text), model, finished.checkpoint(0), finished.checkpoint(0), seed=0
            )
