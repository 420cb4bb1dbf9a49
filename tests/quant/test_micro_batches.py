"""Weights quantized once per step, however many forward passes the step has."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precisionlaws.config import build
from precisionlaws.models.base import Model, Size
from precisionlaws.models.parts import initialize
from precisionlaws.overrides import option
from precisionlaws.quant import attach
from precisionlaws.quant.attachment import QuantLinear, WeightCache, weights_quantized_once
from precisionlaws.quant.formats.int import Int
from precisionlaws.run import compose
from precisionlaws.training import loop
from precisionlaws.training.state import fresh


def int_format(bits: int) -> Int:
    spec = build(option("format", "int") | {"bits": bits}, Int)
    assert isinstance(spec, Int)
    return spec


def made(name: str, **roles: Int) -> nn.Module:
    spec = build(option("model", name), Model)
    assert isinstance(spec, Model)
    model = spec.build(Size(depth=2, width=32, heads=2), 64, 24)
    initialize(model, 0)
    return attach(
        model,
        weights=roles.get("weights"),
        activations=roles.get("activations"),
        kv=roles.get("kv"),
    )


def counting(model: nn.Module) -> list[int]:
    """A list that grows by one with every quantization of a weight."""
    calls: list[int] = []

    def counted(original: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda w: calls.append(1) or original(w)

    for module in model.modules():
        if isinstance(getattr(module, "quantized", None), WeightCache):
            module.quantized.quantize = counted(module.quantized.quantize)  # type: ignore[union-attr, assignment]
    return calls


def summed(model: nn.Module, batches: list[Tensor]) -> None:
    for ids in batches:
        logits = model(ids[:, :-1])
        (F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()) / len(batches)).backward()


def batches(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(64, (2, 13), generator=generator) for _ in range(count)]


@pytest.mark.parametrize("name", ["llama", "gpt"])
@pytest.mark.parametrize("roles", ["weights", "all"])
def test_gradients_are_bit_identical_and_each_weight_is_rounded_once(name: str, roles: str) -> None:
    formats: dict[str, Any] = {"weights": int_format(3)}
    if roles == "all":
        formats |= {"activations": int_format(4), "kv": int_format(4)}
    each, once = made(name, **formats), made(name, **formats)
    calls_each, calls_once = counting(each), counting(once)
    linears = sum(isinstance(m, QuantLinear) for m in once.modules())
    summed(each, batches(4))
    with weights_quantized_once(once):
        summed(once, batches(4))
    assert (len(calls_each), len(calls_once)) == (4 * linears, linears)
    for (n, p), q in zip(each.named_parameters(), once.named_parameters(), strict=True):
        assert p.grad is not None
        assert q[1].grad is not None
        assert torch.equal(p.grad, q[1].grad), n


def test_it_ends_where_it_ends() -> None:
    """Also after an error, and evaluation within sees the weights as they are."""
    model = made("llama", weights=int_format(4))
    calls, ids = counting(model), batches(1)[0]
    with pytest.raises(IndexError, match="out of range"), weights_quantized_once(model):
        summed(model, [ids, ids + 64])
    layer = next(m for m in model.modules() if isinstance(m, QuantLinear))
    assert layer.quantized.held is None
    assert layer.weight.grad is None
    with torch.no_grad(), weights_quantized_once(model):
        pass
    before = len(calls)
    summed(model, [ids, ids])
    assert len(calls) == before + 2 * 14


def test_someone_elses_model_and_frozen_weights() -> None:
    net = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    net[0].weight.requires_grad_(False)
    attach(net, weights=int_format(4), activations=int_format(8))
    x = torch.randn(6, 16)
    net(x).square().sum().backward()
    expected = [p.grad.clone() if p.grad is not None else None for p in net.parameters()]
    net.zero_grad()
    with weights_quantized_once(net):
        net(x).square().sum().backward()
    for p, want in zip(net.parameters(), expected, strict=True):
        assert (p.grad is None) == (want is None)
        assert want is None or torch.equal(p.grad, want)  # type: ignore[arg-type]


def test_the_trainer_uses_it(tiny: list[str]) -> None:
    run = compose([*tiny, "quant=qat", "micro_batch=1"])
    state = fresh(run, "cpu")
    calls = counting(state.model)
    ids = torch.randint(256, (4, 33), generator=torch.Generator().manual_seed(0))
    loop.backward(state, ids, run.micro_batch)
    assert len(calls) == sum(isinstance(m, QuantLinear) for m in state.model.modules())
