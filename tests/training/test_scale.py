"""Steps split among processes or computed in pieces: the weights of one process, to rounding.

Two processes of `gloo` on one machine stand for many. `Trainer`'s own switch for FSDP is ignored on
a CPU, so torch's `fully_shard` is applied by hand (`two_processes.py`) to the same model, loss,
optimizer and rollouts; through the Trainer it needs a machine with a GPU.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.training.two_processes import KINDS, OPTIMIZERS, by_hand

from offaxis.errors import UsageError
from offaxis.recipe import recipe_text
from offaxis.tasks.chain import chain13
from offaxis.training import run_folder, train
from offaxis.training.memory import layer_bytes_per_token
from offaxis.training.models import new_model, task_tokenizer
from offaxis.training.ranks import Ranks
from offaxis.training.rollouts import complete
from offaxis.training.sampling import KeyedSampling
from offaxis.training.trainer import StreamTrainer

PLAIN = {"precision": {"autocast": "none"}}
PROMPTS = {"data": {"prompts": 5}}
# What is made of sums over the whole step, or of draws that are keyed by its rows.
CONTROLS = {
    "opd mixed": PROMPTS
    | {"objective": {"kind": "mixed", "match_norms": True}, "rewards": {"kind": "random"}},
    "opd tokens": PROMPTS | {"tokens": {"keep": 0.5, "by": "random"}},
    # A gradient is diagonal in its own basis: AdamW would make steps of the rounding beside it.
    "sft core": {
        "subspace": {"form": "core", "rank": 2, "basis": "gradient", "start": "anchor"},
        "optimizer": {"kind": "sgd", "lr": 0.3},
    },
}
# What the log says of the whole step, whoever took which part of it.
COMMON = {
    *("loss", "tokens", "reward", "response_length", "entropy_nats", "kept_tokens", "update_norm"),
    *("gradient_norm_opd", "gradient_norm_grpo", "component_cosine"),
}


@pytest.fixture(scope="module")
def recipes(arm):
    """What one and two processes train; five prompts do not split evenly."""
    found = {kind: arm(kind, **PLAIN, **({} if kind == "sft" else PROMPTS)) for kind in KINDS}
    return found | {
        name: arm(name.split()[0], name=name.replace(" ", "-"), **PLAIN, **changes)
        for name, changes in CONTROLS.items()
    }


@pytest.fixture(scope="module")
def alone(recipes, once):
    """The runs of one process, and the folder they are in."""
    out = once("alone", lambda out: [train(recipe, out) for recipe in recipes.values()])
    return {kind: run_folder(recipe, out) for kind, recipe in recipes.items()}, out


@pytest.fixture(scope="module")
def together(recipes, alone, once):
    """The folder of what two processes have trained from the same models."""

    def launch(out):
        (out / "models").symlink_to(alone[1] / "models")
        given = out / "recipes"
        given.mkdir()
        for kind, recipe in recipes.items():
            (given / f"{kind}.toml").write_text(recipe_text(recipe))
        launched([str(Path(__file__).with_name("two_processes.py")), given, out])

    return once("together", launch)


def launched(script):
    """Run a script in two processes as `torchrun` does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    processes = [
        subprocess.Popen(
            [sys.executable, *script],
            env=os.environ | shared | {"MASTER_PORT": str(port), "RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    try:
        said = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], said


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, w in expected.items():
        torch.testing.assert_close(found[name], w, rtol=1e-3, atol=1e-4, msg=name)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("kind", [*KINDS, *CONTROLS])
def test_two_processes_train_the_weights_of_one(alone, together, recipes, kind):
    run, found = alone[0][kind], run_folder(recipes[kind], together)
    start, last = weights(run.checkpoint(0)), weights(run.checkpoint(3))
    assert any(float((last[name] - w).abs().max()) > 1e-2 for name, w in start.items())
    assert_same(weights(found.checkpoint(3)), last)
    for mine, theirs in zip(found.log(), run.log(), strict=True):
        assert mine.keys() == theirs.keys()
        for key in mine.keys() & COMMON:
            assert mine[key] == pytest.approx(theirs[key], rel=1e-3, abs=1e-5), key
    assert found.manifest()["finished"] is True


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_sharded_model_trains_the_weights_of_a_whole_one(
    alone, together, recipes, kind, optimizer
):
    expected = by_hand(recipes[kind], alone[1], optimizer, Ranks())
    assert_same(load_file(together / f"{kind}-{optimizer}.safetensors"), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_computed_twice_give_the_same_weights(alone, recipes, kind, tmp_path):
    precision = recipes[kind].precision.model_copy(update={"gradient_checkpointing": True})
    (tmp_path / "models").symlink_to(alone[1] / "models")
    again = train(recipes[kind].model_copy(update={"precision": precision}), tmp_path)
    assert_same(weights(again.checkpoint(3)), weights(alone[0][kind].checkpoint(3)))


def test_shares_of_a_step_are_all_of_it():
    for length in (0, 1, 5, 8):
        shares = [range(length)[Ranks(index, 3).share(length)] for index in range(3)]
        assert [item for share in shares for item in share] == list(range(length))


def test_deepspeed_is_refused_with_what_to_choose_instead(base, tmp_path, monkeypatch):
    plain = StreamTrainer.create_accelerator_and_postprocess

    def configured(self):
        plain(self)
        self.is_deepspeed_enabled = True

    monkeypatch.setattr(StreamTrainer, "create_accelerator_and_postprocess", configured)
    with pytest.raises(UsageError, match="DeepSpeed") as caught:
        train(base(), tmp_path)
    assert "FSDP" in caught.value.do


def test_a_confined_run_is_refused_where_weights_are_replaced(
    recipes, alone, monkeypatch, tmp_path
):
    plain = StreamTrainer.create_accelerator_and_postprocess

    def configured(self):
        plain(self)
        self.is_fsdp_enabled = True

    (tmp_path / "models").symlink_to(alone[1] / "models")
    monkeypatch.setattr(StreamTrainer, "create_accelerator_and_postprocess", configured)
    with pytest.raises(UsageError, match="FSDP"):
        train(recipes["sft core"], tmp_path)


def test_what_a_layer_keeps_is_what_the_plan_counts(base):
    shape = {"hidden_size": 64, "intermediate_size": 192, "num_attention_heads": 4, "head_dim": 16}
    config = base().start.config.model_copy(update=shape)
    tokens = torch.arange(32).repeat(4, 1)
    kept = []
    for layers in (1, 3):
        deep = config.model_copy(update={"num_hidden_layers": layers})
        model = new_model(deep, task_tokenizer(chain13), base(**PLAIN).precision)
        weights = {w.untyped_storage().data_ptr() for w in model.parameters()}
        held = {}

        def keep(tensor, held=held):
            storage = tensor.untyped_storage()
            held[storage.data_ptr()] = (storage.nbytes(), tensor)  # alive, its address is its own
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(tokens)
        kept.append(sum(size for at, (size, _) in held.items() if at not in weights))
    measured = (kept[1] - kept[0]) / 2 / tokens.numel()
    assert layer_bytes_per_token(config, 32) == pytest.approx(measured, rel=0.25)


@pytest.fixture(scope="module")
def model(base):
    config = base().start.config.model_copy(update={"init_std": 0.3})
    return new_model(config, task_tokenizer(chain13), base(**PLAIN).precision).eval()


def test_keyed_samples_do_not_depend_on_what_is_sampled_beside_them(model):
    tokenizer = task_tokenizer(chain13)
    prompts = [chain13.problem(seed=0, index=index).prompt for index in range(6)]
    keys = [("test", index) for index in range(6)]

    def sample(part: slice) -> list[str]:
        return complete(
            model, tokenizer, prompts[part], max_tokens=8, temperature=1.0, per_prompt=3,
            keys=keys[part],
        ).texts  # fmt: skip

    whole = sample(slice(0, 6))
    assert sample(slice(0, 2)) + sample(slice(2, 6)) == whole
    assert len(set(whole)) > 6
    assert sample(slice(0, 6)) == whole


@pytest.mark.parametrize("u", [0.0, 1 - 2**-53, 1.0])
def test_no_uniform_draws_a_token_without_probability(monkeypatch, u):
    nothing = -torch.inf
    scores = torch.tensor([[nothing, 0.1, 2.0, nothing], [nothing, 0.3, nothing, nothing]])
    sampling = KeyedSampling([("a",), ("b",)], 1, 1.0, torch.device("cpu"))
    monkeypatch.setattr(sampling, "_uniforms", lambda _: torch.full((1, 1), u, dtype=torch.float64))
    drawn = sampling(torch.zeros(2, 1, dtype=torch.long), scores).argmax(-1)
    assert drawn.tolist() == [1 if u == 0 else 2, 1]


def test_keyed_samples_have_the_models_probabilities(model):
    tokenizer, prompt = task_tokenizer(chain13), chain13.problem(seed=0, index=0).prompt
    num = 4000
    keyed = complete(
        model, tokenizer, [prompt], max_tokens=1, temperature=0.7, per_prompt=num, keys=[("p", 0)]
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = complete(model, tokenizer, [prompt], max_tokens=1, temperature=0.7, per_prompt=num)
    ids = torch.tensor(tokenizer(prompt, add_special_tokens=False)["input_ids"])[None]
    p_V = (model(ids).logits[0, -1].detach() / 0.7).softmax(-1)
    for drawn in (keyed, plain):
        counts = torch.bincount(drawn.rows.input_ids_BS[:, -1], minlength=len(p_V)).double()
        expected = num * p_V.double()
        # Pearson's statistic: of mean and half the variance as many as there are entries.
        statistic = float(((counts - expected).square() / expected).sum())
        assert statistic < len(p_V) + 5 * (2 * len(p_V)) ** 0.5
