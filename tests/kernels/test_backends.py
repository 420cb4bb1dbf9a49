"""Which code computes, and what is said where it cannot."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from precisionlaws.config import build
from precisionlaws.kernels import (
    asymmetric,
    backend,
    backends,
    blocks,
    fake_quantize,
    hadamard,
    opaque,
    reference,
    scaled,
)
from precisionlaws.overrides import option
from precisionlaws.quant.estimators import straight_through
from precisionlaws.quant.formats.base import Format
from precisionlaws.training.compiler import lacking

Choose = Callable[[str], None]
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
needs_triton = pytest.mark.skipif(not backends._has_triton(), reason="triton is not installed")


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch) -> Iterator[Choose]:
    """Sets the variable as if for a fresh process."""

    def forget() -> None:
        backends._backend.cache_clear()
        backends._implementation.cache_clear()

    def set_to(value: str) -> None:
        monkeypatch.setenv(backends.VARIABLE, value)
        forget()

    monkeypatch.delenv(backends.VARIABLE, raising=False)
    forget()
    yield set_to
    forget()


def test_a_cpu_computes_in_torch(choose: Choose) -> None:
    assert backend("cpu") == backend(torch.device("cpu")) == "torch"
    choose("torch")
    assert backend("cpu") == backend("cuda:0") == "torch"
    x = torch.randn(4, 32)
    assert torch.equal(fake_quantize(x, 7, 16), reference.fake_quantize(x, 7, 16))


@needs_triton
def test_a_gpu_computes_in_triton(choose: Choose) -> None:
    assert backend("cuda") == "triton"
    choose("triton")
    assert backend("cuda:1") == "triton"


def test_without_triton_a_gpu_computes_in_torch(
    choose: Choose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "_has_triton", lambda: False)
    assert backend("cuda") == "torch"


def test_a_choice_that_does_not_exist(choose: Choose) -> None:
    choose("cuda")
    for call in (lambda: backend("cpu"), lambda: fake_quantize(torch.ones(4), 7, 4)):
        with pytest.raises(
            ValueError,
            match="^PRECISIONLAWS_KERNELS must be one of auto, torch, triton, interpret, got cuda$",
        ):
            call()


@no_gpu
@needs_triton
def test_triton_without_a_gpu(choose: Choose) -> None:
    choose("triton")
    with pytest.raises(ValueError, match="=triton, but torch sees no GPU, only cpu; use .*=auto"):
        fake_quantize(torch.ones(4), 7, 4)


@needs_triton
def test_triton_for_a_tensor_elsewhere(choose: Choose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    choose("triton")
    with pytest.raises(ValueError, match="=triton, but this tensor is on cpu; use .*=auto"):
        backend("cpu")


@pytest.mark.parametrize("value", ["triton", "interpret"])
def test_triton_that_is_not_installed(
    choose: Choose, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setattr(backends, "_has_triton", lambda: False)
    choose(value)
    with pytest.raises(ValueError, match=f"={value}, but triton is not installed; pip install"):
        backend("cuda")


@needs_triton
def test_an_interpreter_asked_for_too_late(choose: Choose, monkeypatch: pytest.MonkeyPatch) -> None:
    choose("interpret")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match="set TRITON_INTERPRET=1 in the environment before Python"):
        backend("cpu")


@pytest.mark.parametrize("value", ["auto", "triton"])
def test_an_interpreter_not_asked_for(
    choose: Choose, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setattr(backends, "_has_triton", lambda: True)
    monkeypatch.setattr(backends, "_interpreted", lambda: True)
    choose(value)
    with pytest.raises(ValueError, match=f"={value}, but TRITON_INTERPRET is set"):
        backend("cuda")


def test_fp64_is_the_references_unless_triton_is_forced() -> None:
    def kernel(x: torch.Tensor, q_max: float | torch.Tensor, group: int | None) -> torch.Tensor:
        raise AssertionError("the kernel was asked")

    x = torch.randn(4, 32, dtype=torch.float64)
    got = backends._but_fp64(kernel, reference.fake_quantize)(x, 7, 16)
    assert torch.equal(got, reference.fake_quantize(x, 7, 16))
    with pytest.raises(AssertionError, match="the kernel was asked"):
        backends._but_fp64(kernel, reference.fake_quantize)(x.float(), 7, 16)


def test_a_cpu_never_imports_triton_and_works_without() -> None:
    code = """
import sys
sys.modules["triton"] = None
import torch
from precisionlaws.kernels import backend, fake_quantize
fake_quantize(torch.ones(4, 32), 7, 16)
assert (backend("cpu"), backend("cuda")) == ("torch", "torch")
assert "precisionlaws.kernels.fake_quant" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


OPERANDS: list[tuple[Any, ...]] = [
    (torch.randn(4, 32, requires_grad=True), 7.0, 16),
    (torch.randn(5, 3).bfloat16(), 127.0, None),
    (torch.randn(32, 4).t(), 7.0, 32),
    (torch.randn(2, 4, 32, requires_grad=True), 0.0, None, torch.tensor([7.0, 3.0])),
    (torch.empty(0, 16), 7.0, 16),
]


@pytest.mark.parametrize("operands", OPERANDS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_operator_keeps_the_contract_of_torch(operands: tuple[Any, ...]) -> None:
    found = torch.library.opcheck(opaque.fake_quant_int, operands)
    assert set(found.values()) == {"SUCCESS"}
    x, q_max, group, *members = operands
    expected = reference.fake_quantize(x.detach(), members[0] if members else q_max, group)
    assert torch.equal(opaque.fake_quant_int(*operands), expected)


X, S = torch.randn(4, 32), torch.rand(4, 2)
E2M1 = (1, 0, 6.0)
OPERATORS: dict[str, tuple[tuple[Any, ...], Callable[..., Any]]] = {
    "fake_quant_type": ((*E2M1, 16, [5, 8]), scaled.fake_quantize),
    "fake_quant_given": ((S, *E2M1, 16, None, True), scaled.rounded),
    "fake_quant_within": ((S, *E2M1, 16, 4.0, None, False), scaled.rounded_within),
    "fake_quant_asymmetric": ((15.0, 16), asymmetric.fake_quantize),
    "fake_quant_mx": ((*E2M1, 16, [5, 8]), blocks.mx),
    "fake_quant_nvfp4": ((16, None, False, None), blocks.nvfp4),
    "fake_quant_members": ((torch.tensor([[6.0, 1.0, 0.5]] * 4), 16), scaled.fake_quantize_members),
    "hadamard_rotate": ((16,), hadamard.rotated),
}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_operator_keeps_the_contract_of_torch(name: str) -> None:
    operator, (rest, definition) = getattr(opaque, name), OPERATORS[name]
    found = torch.library.opcheck(operator, (X.clone().requires_grad_(), *rest))
    assert set(found.values()) == {"SUCCESS"}
    x, g = X.clone().requires_grad_(), torch.randn(4, 32)
    got, expected = operator(x, *rest), definition(X, *rest)
    if name == "fake_quant_within":
        (y, mask), expected_y = got, expected[0]
        assert torch.equal(mask, expected[1])
        assert 0 < mask.sum() < mask.numel()
        passed = g * mask
    else:
        y, expected_y = got, expected
        passed = hadamard.rotated(g, 16) if name == "hadamard_rotate" else g
    assert torch.equal(y, expected_y)
    assert torch.equal(torch.autograd.grad(y, x, g)[0], passed)


def made(name: str) -> Format:
    node = option("format", name)
    spec = build(node | ({"bits": 4} if node.get("bits") == 16 else {}), Format)
    assert isinstance(spec, Format)
    return spec


@pytest.mark.slow
@pytest.mark.skipif(lacking("cpu") is not None, reason=f"torch.compile needs {lacking('cpu')}")
@pytest.mark.filterwarnings("ignore")  # of inductor, about itself
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["fp8", "mxfp4", "nvfp4", "int_asym", "quest", "ternary", "fp4"])
def test_every_kind_compiled_equals_eager(name: str, dtype: torch.dtype) -> None:
    torch._dynamo.reset()
    quantize = made(name).quantizer()
    compiled = torch.compile(quantize, fullgraph=True)
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    x[1], x[2, ::2], x[3], x[4] = 0.0, -0.0, x[3] * 1e-42, torch.arange(64) - 31.5
    x = x.to(dtype).requires_grad_()
    y, expected = compiled(x), quantize(x)
    if name in ("quest", "ternary"):  # a mean or a root mean square is a sum, and has another order
        assert ((y - expected).abs() <= 1e-6 * expected.abs()).float().mean() >= 0.999
    else:
        assert torch.equal(y, expected)
    grad, grad_expected = (torch.autograd.grad(t.float().sum(), x)[0] for t in (y, expected))
    assert (grad == grad_expected).float().mean() >= 0.999


@pytest.mark.slow
@pytest.mark.skipif(lacking("cpu") is not None, reason=f"torch.compile needs {lacking('cpu')}")
@pytest.mark.filterwarnings("ignore")  # of inductor, about itself
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("group", [64, 16, None])
def test_compiled_equals_eager(dtype: torch.dtype, group: int | None) -> None:
    quantize = straight_through(lambda x: fake_quantize(x, 15, group))

    def twice(x: torch.Tensor) -> torch.Tensor:
        return quantize(
            quantize(x) * -3
        )  # one operation: inductor rounds to bf16 once, as eager mode

    compiled = torch.compile(twice, fullgraph=True)
    generator = torch.Generator().manual_seed(0)
    for rows in (64, 65):  # the second one with dynamic shapes
        x = torch.randn(rows, 64, generator=generator)
        x[1], x[2, ::2], x[3], x[4] = 0.0, -0.0, x[3] * 1e-42, torch.arange(64) - 31.5
        x = x.to(dtype).requires_grad_()
        y, expected = compiled(x), twice(x)
        assert torch.equal(y, expected)
        grad, grad_expected = (torch.autograd.grad(t.float().sum(), x)[0] for t in (y, expected))
        assert torch.equal(grad, grad_expected)
