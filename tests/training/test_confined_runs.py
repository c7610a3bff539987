"""Runs in a subspace or a mask, end to end: from a recipe to what is left behind."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from offaxis.cli import run as cli
from offaxis.errors import CheckpointError, RecipeError, ResultsError
from offaxis.linalg.coordinates import visibly_changed
from offaxis.training import export_adapter, plan, train
from offaxis.training.constraints.bases import read_bases
from offaxis.training.run import model_folder

MATRICES = 7 * 2  # of the two layers
Q = "model.layers.0.self_attn.q_proj.weight"
DOWN = "model.layers.1.mlp.down_proj.weight"


def weights(folder):
    return load_file(folder / "model.safetensors")


def moved(folder):
    """The update of every tensor from a run's start to its end, in float64."""
    steps = folder.steps()
    start, end = (weights(folder.checkpoint(step)) for step in (0, steps[-1]))
    return {name: end[name].double() - W.double() for name, W in start.items()}


def is_layer_matrix(name, W):
    return ".layers." in name and W.ndim == 2


@pytest.fixture(scope="module")
def free(arm, tmp_path_factory):
    """A finished run without constraints, its recipe and its output folder."""
    out = tmp_path_factory.mktemp("confined")
    recipe = arm("sft", steps={"max": 4})
    return recipe, train(recipe, out), out


@pytest.fixture(scope="module")
def confined(free, arm):
    """Trains an arm in a subspace that is taken from the free run unless said otherwise."""
    recipe, _, out = free

    def build(name, kind="sft", **subspace):
        table = {"form": "core", "rank": 2, "of": {"recipe": recipe.resolved(), "step": 2}}
        changes = {"name": name, "subspace": table | subspace, "optimizer": {"lr": 1e-2}}
        recipe_ = arm(kind, **changes)
        return train(recipe_, out)

    return build


@pytest.fixture(scope="module")
def core(confined):
    return confined("core")


def test_a_run_resumes_from_the_checkpoint_of_its_subspace_and_stays_inside(free, core):
    _, source, out = free
    at_two, start = weights(source.checkpoint(2)), weights(core.checkpoint(0))
    assert all(torch.equal(at_two[name], start[name]) for name in start)
    bases, updates = read_bases(core.root), moved(core)
    for name, D in updates.items():
        if not is_layer_matrix(name, D):
            assert not bool(D.any()), f"{name} was to be frozen"
            continue
        U, V = bases[name]
        values = torch.linalg.svdvals(D) / D.norm()
        assert float(values[2]) < 1e-5, "the update has rank two, but for float32's rounding"
        assert float(values[1]) > 10 * float(values[2])
        inside = U.double() @ (U.double().T @ D @ V.double()) @ V.double().T
        assert float((D - inside).norm() / D.norm()) < 1e-4
        # The subspace is that of the source's own update.
        first = weights(source.checkpoint(0))[name].double()
        P, _, Qh = torch.linalg.svd(at_two[name].double() - first)
        assert float((P[:, :2].T @ U.double()).norm()) == pytest.approx(math.sqrt(2), abs=1e-5)
        assert float((Qh[:2] @ V.double()).norm()) == pytest.approx(math.sqrt(2), abs=1e-5)
    # The free run was reused where it lies, and not trained once more.
    assert [p.name.split("-")[0] for p in (out / "models").glob("[!.]*")] == ["base"]


def test_the_log_and_the_manifest_say_how_confined_a_run_was(free, core):
    _, source, _ = free
    assert core.manifest()["trainable_numbers"] == MATRICES * 2 * 2
    assert core.manifest()["start"]["step"] == 2
    total = math.sqrt(
        sum(float(D.square().sum()) for n, D in moved(core).items() if is_layer_matrix(n, D))
    )
    last = core.log()[-1]
    assert last["update_norm"] == pytest.approx(total, rel=1e-5)
    assert last["leakage"] < 1e-4
    plain = source.log()[-1]
    assert plain["update_norm"] > 0
    assert "leakage" not in plain
    everything = sum(W.numel() for W in weights(source.checkpoint(0)).values())
    assert source.manifest()["trainable_numbers"] == everything


# PEFT 0.21 asks transformers 5.23 by a name that it is to lose.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_the_core_is_exported_as_the_adapter_it_is(core, tmp_path, capsys):
    peft = pytest.importorskip("peft")
    out = tmp_path / "adapter"
    assert cli(["export", str(core.root), "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"adapter": str(out), "step": 3, "rank": 2, "matrices": MATRICES}
    base = AutoModelForCausalLM.from_pretrained(core.checkpoint(0))
    adapted = peft.PeftModel.from_pretrained(base, out)
    truth = AutoModelForCausalLM.from_pretrained(core.checkpoint(3))
    ids = torch.arange(20)[None]
    with torch.no_grad():
        start = AutoModelForCausalLM.from_pretrained(core.checkpoint(0))(ids).logits
        found, wanted = adapted(ids).logits, truth(ids).logits
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert float((start - wanted).abs().max()) > 1e-2
    merged = adapted.merge_and_unload().state_dict()
    for name, W in truth.state_dict().items():
        torch.testing.assert_close(merged[name], W, rtol=1e-6, atol=1e-7)
    with pytest.raises(ResultsError, match="something there"):
        export_adapter(core.root, out)
    with pytest.raises(CheckpointError, match="checkpoint-7"):
        export_adapter(core.root, tmp_path / "other", 7)


def test_only_exact_forms_are_exported(free, confined, tmp_path):
    _, source, _ = free
    with pytest.raises(CheckpointError, match="no \\[subspace\\]"):
        export_adapter(source.root, tmp_path / "a")
    with pytest.raises(CheckpointError, match="'gradient'"):
        export_adapter(confined("published", form="gradient").root, tmp_path / "a")
    right = confined("right", form="right")
    assert export_adapter(right.root, tmp_path / "b")["rank"] == 2
    adapter = load_file(tmp_path / "b" / "adapter_model.safetensors")
    prefix = f"base_model.model.{Q.removesuffix('.weight')}"
    D = adapter[f"{prefix}.lora_B.weight"] @ adapter[f"{prefix}.lora_A.weight"]
    torch.testing.assert_close(D.double(), moved(right)[Q], rtol=0, atol=1e-7)


def test_a_confined_run_repeats_bit_for_bit(confined, core):
    again = confined("core-again", form="core")
    for step in core.steps():
        first, second = weights(core.checkpoint(step)), weights(again.checkpoint(step))
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert (core.root / "subspace.safetensors").read_bytes() == (
        again.root / "subspace.safetensors"
    ).read_bytes()


def test_a_random_subspace_is_compensated_to_the_norm_of_another_run(confined, core):
    other = confined("random", basis="random", norm_of={"path": str(core.root)})
    assert other.log()[-1]["update_norm"] == pytest.approx(core.log()[-1]["update_norm"], rel=1e-5)
    assert weights(other.checkpoint(0)).keys() == weights(core.checkpoint(0)).keys()
    V, its = read_bases(core.root)[DOWN].V, read_bases(other.root)[DOWN].V
    assert float((V.T @ its).norm()) < 1.2  # unrelated, while equal ones have sqrt(2)
    with pytest.raises(CheckpointError, match="`update_norm` at each of 3 steps"):
        confined("nowhere", norm_of={"path": str(core.root / "none")})


def test_a_gradients_subspace_is_that_of_the_first_step(confined, free, arm):
    _, _, out = free
    run = confined("gradient-basis", basis="gradient", start="anchor", form="right")
    # One step of plain SGD from the same start is the gradient itself.
    table = {"kind": "sgd", "momentum": 0.0, "lr": 1e-3, "clip_norm": 1e6}
    one = arm("sft", name="one", optimizer=table, steps={"max": 1})
    D = moved(train(one, out))[Q]
    _, _, Qh = torch.linalg.svd(D)
    V = read_bases(run.root)[Q].V.double()
    assert float((Qh[:2] @ V).norm()) == pytest.approx(math.sqrt(2), abs=1e-3)


def test_frozen_none_trains_the_rest_freely(confined):
    run = confined("rest", frozen="none", matrices=["*q_proj*"], form="project", sides="both")
    updates = moved(run)
    values = torch.linalg.svdvals(updates[Q])
    assert int((values > 1e-4 * values[0]).sum()) == 2
    assert int((torch.linalg.svdvals(updates[DOWN]) > 1e-6).sum()) > 2
    assert bool(updates["model.embed_tokens.weight"].any())


def test_masks_of_equal_density_keep_everything_else_bit_for_bit(free, arm):
    recipe, source, out = free
    of = {"recipe": recipe.resolved()}
    first, last = (weights(source.checkpoint(step)) for step in (0, 4))
    for kind in ("update", "principal", "low_magnitude", "random"):
        mask = {"kind": kind, "of": of, "rank": 4}
        run = train(
            arm("sft", name=f"mask-{kind}", mask=mask, optimizer={"weight_decay": 0.1}), out
        )
        masks = load_file(run.root / "mask.safetensors")
        start, end = (weights(run.checkpoint(step)) for step in (0, 3))
        for name, W in start.items():
            if not is_layer_matrix(name, W):
                assert torch.equal(end[name], W)
                continue
            visible = visibly_changed(first[name], last[name])
            assert int(masks[name].sum()) == int(visible.sum())
            assert torch.equal(masks[name], visible) is (kind == "update" or bool(visible.all()))
            bits, its = W.view(torch.int32), end[name].view(torch.int32)
            assert torch.equal(bits[~masks[name]], its[~masks[name]])
            assert bool((bits != its)[masks[name]].any())


def test_a_run_stops_at_the_norm_it_is_to_be_compared_at(arm, free):
    _, source, out = free
    reached = [line.get("relative_update_norm", 0.0) for line in source.log()]
    assert reached == sorted(reached)
    mark = (reached[1] + reached[2]) / 2
    run = train(arm("sft", name="matched", steps={"max": 4, "stop_at_norm": mark}), out)
    assert run.steps()[-1] == 2
    assert run.log()[-1]["relative_update_norm"] == reached[2]
    D = moved(run)
    start = {n: W for n, W in weights(run.checkpoint(0)).items() if is_layer_matrix(n, W)}
    norm = sum(float(D[n].square().sum()) for n in start) ** 0.5
    of = sum(float(W.double().square().sum()) for W in start.values()) ** 0.5
    assert run.log()[-1]["relative_update_norm"] == pytest.approx(norm / of, rel=1e-5)


@pytest.mark.parametrize("is_stochastic", [False, True])
def test_bfloat16_weights_are_trained_and_kept_as_float32(free, arm, is_stochastic):
    _, _, out = free
    precision = {"weights": "bfloat16", "stochastic_rounding": is_stochastic}
    name = f"narrow-{is_stochastic}"
    recipe = arm("opd", name=name, precision=precision, optimizer={"lr": 1e-5})
    run = train(recipe, out)
    assert run.manifest()["precision"]["weights"] == "bfloat16"
    assert ("rounding" in run.manifest()["precision"]) is is_stochastic
    start, end = (weights(run.checkpoint(step)) for step in (0, 3))
    assert all(W.dtype == torch.float32 for W in end.values())
    assert all(torch.equal(W, W.bfloat16().float()) for W in end.values())
    changed = float((start[DOWN] != end[DOWN]).double().mean())
    assert changed < 0.5
    assert not is_stochastic or changed > 0
    config = json.loads((run.checkpoint(3) / "config.json").read_text())
    assert "bfloat16" not in json.dumps(config)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"subspace": {"form": "core", "rank": 2}}, "needs \\[subspace.of\\]"),
        ({"subspace": {"form": "core", "rank": 2, "basis": "random"}}, "start 'resume' needs"),
        ({"mask": {"kind": "random"}}, "exactly one of \\[mask.of\\] and density"),
        ({"mask": {"kind": "update", "density": 0.5}}, "needs \\[mask.of\\]"),
        ({"precision": {"stochastic_rounding": True}}, "needs weights = 'bfloat16'"),
        (
            {
                "subspace": {"form": "core", "rank": 2, "basis": "random", "start": "anchor"},
                "precision": {"weights": "bfloat16"},
            },
            "exact in float32 alone",
        ),
        (
            {
                "subspace": {"form": "none", "rank": 2, "basis": "random", "start": "anchor"},
                "mask": {"kind": "random", "density": 0.5},
            },
            "not both",
        ),
        ({"subspace": {"form": "core", "rank": 2, "of": {"path": "x", "step": 3}}}, "path is one"),
    ],
)
def test_tables_that_cannot_be_meant_are_refused(arm, tables, message):
    with pytest.raises(RecipeError, match=message):
        arm("sft", **tables)


def test_what_the_model_cannot_be_confined_to_is_named(confined, free):
    recipe, _, out = free
    with pytest.raises(RecipeError, match="the smaller side of"):
        confined("wide", rank=9, basis="random")
    with pytest.raises(RecipeError, match="match none of 14"):
        confined("nothing", matrices=["*.experts.*"])
    with pytest.raises(CheckpointError, match="no such folder"):
        confined("lost", of={"path": str(out / "no" / "checkpoint-3")}, start="anchor")
    of = {"recipe": recipe.resolved(), "step": 9}
    with pytest.raises(RecipeError, match="the last one at step 4"):
        confined("late", of=of)


def test_the_plan_names_the_run_a_subspace_is_taken_from(arm, free, tmp_path):
    recipe, _, out = free
    table = {"form": "core", "rank": 2, "of": {"recipe": recipe.resolved(), "fraction": 0.5}}
    confined = arm("sft", name="planned", subspace=table)
    names = [stage.name for stage in plan(confined, tmp_path)]
    assert names[1:] == [model_folder(recipe, tmp_path).root.name, "planned"]
    assert [stage.is_finished for stage in plan(confined, out)] == [True, True, False]
