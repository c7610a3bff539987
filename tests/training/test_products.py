"""Products in bfloat16 taken in float32: the values and gradients of torch's own, at every call."""

import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from offaxis.objectives.base import Head
from offaxis.objectives.chunks import summed
from offaxis.recipe import ModelConfig, Precision, Recipe
from offaxis.tasks.chain import chain13
from offaxis.training import processor, products, train
from offaxis.training.models import new_model, task_tokenizer
from offaxis.training.products import ByFloat32, bfloat16_products

BFLOAT16 = torch.finfo(torch.bfloat16).eps
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


def lowered(enabled: bool = True) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=enabled)


def close(found: Tensor, expected: Tensor) -> bool:
    """Whether two tensors are one but for where sums fall between two numbers in bfloat16."""
    away = (found.double() - expected.double()).abs()
    size = expected.double().abs().max()
    return found.dtype == expected.dtype and bool((away <= BFLOAT16 * size).all())


class Formats(TorchDispatchMode):
    """Notes which numbers are multiplied, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[torch.dtype] = set()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = func.overloadpacket.__name__
        if name.endswith("mm") or "attention" in name or "linear" in name:
            self.found |= {each.dtype for each in args if isinstance(each, Tensor)} & FLOATING
        return func(*args, **(kwargs or {}))


FLOATING = {torch.bfloat16, torch.float32}


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


PRODUCTS: dict[str, tuple[Callable[..., Tensor], list[Tensor]]] = {
    "linear": (nn.functional.linear, [numbers(3, 7, 64), numbers(48, 64), numbers(48)]),
    "linear, no bias": (nn.functional.linear, [numbers(7, 64), numbers(48, 64)]),
    "mm": (torch.mm, [numbers(7, 64), numbers(64, 48)]),
    "bmm": (torch.bmm, [numbers(3, 7, 64), numbers(3, 64, 48)]),
    "matmul": (torch.matmul, [numbers(2, 3, 7, 64), numbers(2, 3, 64, 5)]),
    "@": (lambda a, b: a @ b, [numbers(7, 64), numbers(64, 5)]),
    ".matmul": (lambda a, b: a.matmul(b), [numbers(7, 64), numbers(64, 5)]),
    "addmm": (torch.addmm, [numbers(48), numbers(7, 64), numbers(64, 48)]),
    "baddbmm": (torch.baddbmm, [numbers(3, 7, 48), numbers(3, 7, 64), numbers(3, 64, 48)]),
}


def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def of_groups(A: Tensor, B: Tensor) -> Tensor:
    ends = torch.tensor([3, 8, 8, 16], dtype=torch.int32)
    return nn.functional.grouped_mm(A, B, offs=ends)


LOWERED = {
    **PRODUCTS,
    "addmm, method": (Tensor.addmm, [numbers(48), numbers(7, 64), numbers(64, 48)]),
    "baddbmm, method": (Tensor.baddbmm, PRODUCTS["baddbmm"][1]),
    "attention": (attended, [numbers(2, 3, 16, 32)] * 3),
    "groups": (of_groups, [numbers(16, 64), numbers(4, 64, 48)]),
}


def taught(function: Callable[..., Tensor], given: list[Tensor]) -> list[Tensor]:
    """A product and the gradients of its factors."""
    factors = [each.clone().requires_grad_() for each in given]
    found = function(*factors)
    found.backward(numbers(*found.shape).to(found.dtype))
    return [found.detach(), *(each.grad for each in factors)]  # type: ignore[list-item]


@pytest.mark.parametrize("is_autocast", [True, False])
@pytest.mark.parametrize("name", PRODUCTS)
def test_values_and_gradients_are_those_of_torch(name: str, is_autocast: bool) -> None:
    function, given = PRODUCTS[name]
    given = given if is_autocast else [each.bfloat16() for each in given]
    with lowered(is_autocast):
        expected = taught(function, given)
        with ByFloat32():
            found = taught(function, given)
    assert found[0].dtype == torch.bfloat16
    assert all(close(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
    if is_autocast:
        assert not torch.equal(found[0].float(), function(*given))  # it was rounded


@pytest.mark.parametrize("name", LOWERED)
def test_no_product_is_taken_in_bfloat16(name: str) -> None:
    function, given = LOWERED[name]
    for how in (nullcontext, ByFloat32):
        with how(), Formats() as formats:
            found = taught(function, [each.bfloat16() for each in given])
        assert formats.found
        assert (torch.bfloat16 in formats.found) == (how is nullcontext)
        assert {each.dtype for each in found} == {torch.bfloat16}


def test_rounded_factors_are_multiplied_exactly() -> None:
    A, B = numbers(5, 512), numbers(512, 6)
    with lowered(), ByFloat32():
        found = A @ B
    exact = A.bfloat16().double() @ B.bfloat16().double()
    assert bool(((found.double() - exact).abs() <= BFLOAT16 / 2 * exact.abs() + 1e-5).all())


def test_what_torch_does_not_lower_is_left_alone() -> None:
    A, B = numbers(4, 64), numbers(64, 4)
    with ByFloat32():
        assert torch.equal(A @ B, torch.mm(A, B))
        assert (A @ B).dtype == torch.float32
        with lowered():
            assert (A.double() @ B.double()).dtype == torch.float64
            assert (A + 1).dtype == torch.float32
            assert (A.long() @ B.long()).dtype == torch.int64
            with lowered(enabled=False):
                assert (A @ B).dtype == torch.float32
        with torch.autocast("cpu", torch.float16):
            assert (A @ B).dtype == torch.float16
        place = torch.zeros(4, 4, dtype=torch.bfloat16)
        torch.mm(A.bfloat16(), B.bfloat16(), out=place)
        assert bool((place != 0).any())


@pytest.mark.parametrize("experts", [{}, EXPERTS])
def test_a_model_learns_as_with_torch(experts: dict[str, int]) -> None:
    config = ModelConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        **experts,
    )
    tokenizer = task_tokenizer(chain13)
    model = new_model(config, tokenizer, Precision())
    ids = torch.randint(len(tokenizer), (6, 20), generator=torch.Generator().manual_seed(0))

    def gradient(by: Callable[[], object], is_lowered: bool = True) -> Tensor:
        model.zero_grad()
        with by(), lowered(is_lowered):  # type: ignore[attr-defined]
            logits = model(input_ids=ids, use_cache=False).logits
        nn.functional.cross_entropy(logits.float().flatten(0, 1), ids.flatten()).backward()
        return torch.cat([w.grad.flatten() for w in model.parameters() if w.grad is not None])

    expected, found = gradient(nullcontext), gradient(ByFloat32)
    unrounded = gradient(nullcontext, is_lowered=False)
    assert relative(found, expected) < relative(unrounded, expected) / 2


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


NARROW: dict[str, dict[str, object]] = {
    "autocast": {"autocast": "bfloat16"},
    "weights": {"autocast": "none", "weights": "bfloat16"},
    "both": {"autocast": "bfloat16", "weights": "bfloat16"},
}


@pytest.mark.parametrize("precision", NARROW.values(), ids=NARROW)
def test_a_run_multiplies_in_float32_and_layers_computed_twice_are_the_same(
    precision: dict[str, object],
    arm: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = []
    for is_quick, twice in ((True, False), (False, False), (False, True)):
        monkeypatch.setattr(products, "has_bfloat16", lambda quick=is_quick: quick)
        changed = precision | {"gradient_checkpointing": twice}
        recipe = arm("opd", name=f"{is_quick}-{twice}", precision=changed)
        with Formats() as formats:
            run = train(recipe, tmp_path)
        assert (torch.bfloat16 in formats.found) == is_quick
        weights.append(load_file(run.checkpoint(3) / "model.safetensors"))
    _, once, again = weights
    assert all(torch.equal(W, again[name]) for name, W in once.items())


def test_sums_over_tokens_are_those_of_torch() -> None:
    def gradients(how: Callable[[], object]) -> list[Tensor]:
        hidden, weight = numbers(1, 9, 64).requires_grad_(), numbers(40, 64).requires_grad_()
        head = Head(hidden, weight, None)
        with how(), lowered():  # type: ignore[attr-defined]
            value, _ = summed(
                head, [], lambda logits, _: (logits[0].sin().sum(), torch.zeros(2)), 4
            )
        value.backward()
        return [value.detach(), hidden.grad, weight.grad]  # type: ignore[list-item]

    for found, expected in zip(gradients(ByFloat32), gradients(nullcontext), strict=True):
        assert close(found.bfloat16(), expected.bfloat16())


@pytest.mark.parametrize(
    ("has", "wanted", "enters"),
    [(True, True, False), (False, True, True), (False, False, False)],
)
def test_only_where_the_processor_has_none_and_some_are_wanted(
    has: bool, wanted: bool, enters: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "has_bfloat16", lambda: has)
    assert isinstance(bfloat16_products(wanted=wanted), ByFloat32) == enters


@pytest.mark.parametrize(
    ("instructions", "by_amd", "expected"),
    [
        ({"sse2", "avx2"}, True, False),
        ({"sse2", "avx2", "avx512_bf16"}, True, True),
        ({"sse2", "avx2", "avx512_bf16"}, False, False),  # half as quick as float32
        ({"sse2", "avx2", "avx512_bf16", "amx_bf16"}, False, True),
    ],
)
def test_instructions_decide(
    instructions: set[str],
    by_amd: bool,
    expected: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    told = tmp_path / "cpuinfo"
    vendor = "AuthenticAMD" if by_amd else "GenuineIntel"
    told.write_text(f"vendor_id\t: {vendor}\nflags\t\t: {' '.join(instructions)}\n", "ascii")
    monkeypatch.setattr(processor, "_CPU_INFO", told)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert products.has_bfloat16.__wrapped__() is expected


def test_a_torch_without_onednn_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert products.has_bfloat16.__wrapped__() is False
