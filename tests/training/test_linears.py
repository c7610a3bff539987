"""Linear layers of another library: the same values and gradients, and only where they gain."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from offaxis.recipe import ModelConfig, Precision
from offaxis.tasks.chain import chain13
from offaxis.training import linears, processor
from offaxis.training.linears import FullWidthLinear, use_full_width
from offaxis.training.models import new_model, open_model, save_model, task_tokenizer

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN"
)


def layers(bias: bool, *, inputs: int = 96, outputs: int = 320) -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(0)
    plain = nn.Linear(inputs, outputs, bias=bias)
    wide = copy.deepcopy(plain)
    wide.__class__ = FullWidthLinear
    return plain, wide


def taught(layer: nn.Linear, x: Tensor, weights: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    found = layer(x)
    (found * weights).sum().backward()
    return [found.detach(), x.grad, *(p.grad for p in layer.parameters())]  # type: ignore[list-item]


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of what oneDNN was given."""
    seen: list[tuple[int, ...]] = []
    own = linears._product

    def told(x: Tensor, W: Tensor, bias: Tensor | None = None) -> Tensor:
        seen.append(tuple(x.shape))
        return own(x, W, bias)

    monkeypatch.setattr(linears, "_product", told)
    return seen


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(4, 24, 96), (96, 96), (1, 200, 96), (6600,)])
def test_values_and_gradients_are_those_of_float64(
    bias: bool, shape: tuple[int, ...], products: list[tuple[int, ...]]
) -> None:
    plain, wide = layers(bias, inputs=shape[-1])
    x, weights = torch.randn(shape), torch.randn(*shape[:-1], 320)
    found = taught(wide, x, weights)
    true = taught(plain.double(), x.double(), weights.double())
    assert len(products) == 3
    for ours, exact in zip(found, true, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), exact, rtol=0, atol=2e-6 * float(exact.norm()))


@pytest.mark.parametrize("trains", ["x", "weight", "bias"])
def test_only_what_is_trained_gets_a_gradient(trains: str) -> None:
    _, wide = layers(bias=True)
    x = torch.randn(96, 96, requires_grad=trains == "x")
    for name, parameter in wide.named_parameters():
        parameter.requires_grad_(name == trains)
    wide(x).square().sum().backward()
    named = {"x": x, **dict(wide.named_parameters())}
    assert [name for name, each in named.items() if each.grad is not None] == [trains]


def test_small_products_lower_precision_and_other_formats_stay_with_torch(
    products: list[tuple[int, ...]],
) -> None:
    plain, wide = layers(bias=True)
    x = torch.randn(256, 96)
    assert torch.equal(wide(x[:8]), plain(x[:8]))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(wide(x), plain(x))
    assert torch.equal(wide.double()(x.double()), plain.double()(x.double()))
    assert not products
    assert torch.equal(wide.float()(x[:0]), plain.float()(x[:0]))


@pytest.mark.parametrize("gains", [True, False])
def test_a_model_keeps_everything_but_the_library(
    gains: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Own(nn.Linear):
        """A layer that has a forward pass of its own."""

    monkeypatch.setattr(linears, "is_narrowed", lambda: gains)
    model = nn.Sequential(nn.Linear(8, 8), Own(8, 8), nn.LayerNorm(8))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    use_full_width(model)
    assert isinstance(model[0], FullWidthLinear) == gains
    assert type(model[1]) is Own
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("vendor", "capability", "expected"),
    [
        ("AuthenticAMD", "AVX512", True),
        ("AuthenticAMD", "AVX2", False),
        ("GenuineIntel", "AVX512", False),  # whose whole width MKL uses
        (None, "AVX512", False),
    ],
)
def test_only_amd_with_avx512(
    vendor: str | None,
    capability: str,
    expected: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = tmp_path / "cpuinfo"
    if vendor:
        told.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n", "ascii")
    monkeypatch.setattr(processor, "_CPU_INFO", told)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert linears.is_narrowed.__wrapped__() is expected


def test_models_that_are_made_and_opened_use_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linears, "is_narrowed", lambda: True)
    tokenizer = task_tokenizer(chain13)
    config = ModelConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
    )
    made = new_model(config, tokenizer, Precision())
    save_model(made, tokenizer, tmp_path / "model")
    opened, _ = open_model(tmp_path / "model", Precision())
    for model in (made, opened):
        kinds = {type(module) for module in model.modules() if isinstance(module, nn.Linear)}
        assert kinds == {FullWidthLinear}
