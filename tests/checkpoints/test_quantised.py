"""Quantised weights: refused with the reason, and fp8 read as its numbers times their scales."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from tests.models import anchor_weights, moved, save

from offaxis.checkpoints.access import Access
from offaxis.checkpoints.formats import open_checkpoint
from offaxis.checkpoints.quantised import is_quantised
from offaxis.checkpoints.trajectory import find_trajectories
from offaxis.errors import CheckpointError
from offaxis.measurement import units
from offaxis.measurement.options import Options, passes
from offaxis.measurement.plan import make_plan
from offaxis.measurement.stream import run_task
from offaxis.report.words import FLAG_WORDS
from offaxis.table import ResultsFolder

ALLOWED = Access(quantised=True)
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


def write(path: Path, tensors: dict[str, torch.Tensor], config: object = None) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path / "model.safetensors")
    if config is not None:
        (path / "config.json").write_text(json.dumps({"quantization_config": config}))
    return path


def of_transformers(W: torch.Tensor, block: tuple[int, int]) -> dict[str, torch.Tensor]:
    """A weight as transformers stores it in fp8, a scale for each block."""
    from transformers.integrations.finegrained_fp8 import Fp8Quantize

    asked = SimpleNamespace(weight_block_size=block, scale_fmt="float")
    return Fp8Quantize(SimpleNamespace(quantization_config=asked))._quantize_one("w.weight", W)


@pytest.mark.parametrize("block", [(16, 16), (8, 32), (32, 48)])
def test_blocks_of_transformers(tmp_path: Path, block: tuple[int, int]) -> None:
    W = torch.randn(32, 96, generator=torch.Generator().manual_seed(0))
    stored = of_transformers(W, block)
    folder = write(tmp_path, stored, {"quant_method": "fp8", "weight_block_size": block})
    with pytest.raises(CheckpointError, match=r"fp8[\s\S]*--allow-quantised"):
        open_checkpoint(folder)
    reader = open_checkpoint(folder, ALLOWED)
    assert {(i.name, i.shape, i.dtype) for i in reader.tensors().values()} == {
        ("w.weight", (32, 96), "float32")
    }
    scales = stored["w.weight_scale_inv"]
    expected = stored["w.weight"].double()
    for i in range(32):
        for j in range(96):
            expected[i, j] *= scales[i // block[0], j // block[1]].double()
    assert torch.equal(reader.read("w.weight"), expected.float())
    assert torch.linalg.norm(expected - W) < 0.03 * torch.linalg.norm(W)
    assert is_quantised(reader, "w.weight")


@pytest.mark.parametrize(("dtype", "floor"), [(E4M3, 0.026), (E5M2, 0.053)])
@pytest.mark.parametrize("shape", [(), (1,), (96,), (96, 1)])
def test_one_scale_or_one_a_row(tmp_path, dtype, floor, shape) -> None:
    W = 0.02 * torch.randn(96, 200, generator=torch.Generator().manual_seed(1))
    greatest = W.abs().amax(1) if 96 in shape else W.abs().max()
    scale = (greatest / torch.finfo(dtype).max).reshape(shape)
    stored = (W / (scale[:, None] if shape == (96,) else scale)).to(dtype)
    config = {"quant_method": "compressed-tensors", "format": "float-quantized"}
    folder = write(tmp_path, {"w.weight": stored, "w.weight_scale": scale}, config)
    found = open_checkpoint(folder, ALLOWED).read("w.weight")
    error = (torch.linalg.norm(found - W) / torch.linalg.norm(W)).item()
    assert error == pytest.approx(floor, rel=0.03)
    assert f"{100 * floor:.1f} %" in FLAG_WORDS["quantised"]


def test_fp8_without_scales_and_stacks_with_them(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(2)
    stack, plain = torch.randn(3, 8, 6, generator=g).to(E4M3), torch.randn(8, 6, generator=g)
    scales = torch.rand(3, 2, 3, generator=g) + 0.5
    tensors = {"e": stack, "e_scale_inv": scales, "p": plain.to(E5M2), "norm": torch.ones(8)}
    reader = open_checkpoint(write(tmp_path, tensors), ALLOWED)
    assert torch.equal(reader.read("p"), plain.to(E5M2).float())
    assert torch.equal(reader.read("norm"), torch.ones(8))
    assert not is_quantised(reader, "norm")
    whole = stack.float() * scales.repeat_interleave(4, 1).repeat_interleave(2, 2)
    assert torch.equal(reader.read("e"), whole)
    assert torch.equal(reader.read("e", 2), whole[2])
    with pytest.raises(CheckpointError, match="float8_e4m3fn"):
        open_checkpoint(tmp_path)


def test_a_block_that_does_not_divide_the_weight(tmp_path: Path) -> None:
    W, scales = torch.randn(10, 7).to(E4M3), torch.rand(3, 2)
    config = {"quant_method": "fp8", "weight_block_size": [4, 4]}
    folder = write(tmp_path, {"w": W, "w_scale_inv": scales}, config)
    spread = scales.repeat_interleave(4, 0)[:10].repeat_interleave(4, 1)[:, :7]
    assert torch.equal(open_checkpoint(folder, ALLOWED).read("w"), W.float() * spread)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match="a grid of them"):
        open_checkpoint(folder, ALLOWED)


@pytest.mark.parametrize(
    ("method", "tensors"),
    [
        ("gptq", {"w.qweight": torch.zeros(4, 4, dtype=torch.int32)}),
        ("awq", {"w.qweight": torch.zeros(4, 4, dtype=torch.int32)}),
        ("bitsandbytes", {"w.weight": torch.zeros(8, 1, dtype=torch.uint8)}),
        ("compressed-tensors", {"w.weight_packed": torch.zeros(4, 4, dtype=torch.uint8)}),
        ("mxfp4", {"w.blocks": torch.zeros(4, 4, dtype=torch.uint8)}),
    ],
)
def test_packed_numbers_stay_refused(tmp_path, method, tensors) -> None:
    folder = write(tmp_path, tensors, {"quant_method": method})
    for access in (Access(), ALLOWED):
        with pytest.raises(CheckpointError, match=f"{method}, whose numbers are packed") as refusal:
            open_checkpoint(folder, access)
        assert "--allow-quantised" not in refusal.value.do


def test_gptqs_own_file_and_an_empty_configuration(tmp_path: Path) -> None:
    folder = save(tmp_path / "plain", anchor_weights())
    (folder / "config.json").write_text('{"quantization_config": null}')
    assert not is_quantised(open_checkpoint(folder), "model.embed_tokens.weight")
    (folder / "quantize_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="gptq"):
        open_checkpoint(folder)


def test_rows_of_quantised_weights_say_so(tmp_path: Path) -> None:
    weights = {"layers.0.up_proj.weight": anchor_weights()["model.layers.1.mlp.up_proj.weight"]}
    anchor = save(tmp_path / "anchor", weights)
    tuned = {name: W.to(E4M3) for name, W in moved(weights, 0.1).items()}
    trajectories = find_trajectories([anchor, write(tmp_path / "tuned", tuned)])
    results, chosen = ResultsFolder(tmp_path / "out"), passes(["stored"], ["norm"])
    with pytest.raises(CheckpointError, match="--allow-quantised"):
        make_plan(trajectories, results, Options(passes=chosen), str)
    (task,) = make_plan(trajectories, results, Options(passes=chosen, access=ALLOWED), str).tasks
    assert run_task(task) == 1
    unit = units.load(next(results.root.rglob("*.safetensors")))
    assert unit is not None
    assert unit.readings
    place = units.READING_CELLS.index("flags")
    assert all("quantised" in row[place].split(";") for row in unit.readings)


def test_gguf_is_refused_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"GGUF[\s\S]*converted from"):
        open_checkpoint(tmp_path)
