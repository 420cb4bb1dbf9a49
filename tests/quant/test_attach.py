"""Quantizers in a model: nothing happens at 16 bits, no future leaks, and the right tensors are rounded."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precisionlaws.config import ConfigError, build
from precisionlaws.models.base import Size
from precisionlaws.models.llama import Llama
from precisionlaws.models.parts import Decoder, Linear, initialize, linears, stack
from precisionlaws.overrides import option
from precisionlaws.quant import attach, fake_quantize
from precisionlaws.quant.attachment import Quantizer, QuantLinear
from precisionlaws.quant.formats.int import Int

INT = build(option("format", "int"), Int)
SIZE = Size(depth=2, width=32, heads=2)
ROLES = ("weights", "activations", "kv")


def fmt(bits: int, granularity: Any = "row") -> Int:
    assert isinstance(INT, Int)
    return replace(INT, bits=bits, granularity=granularity)


def llama(seed: int = 0, **fields: Any) -> Decoder:
    spec = build(option("model", "llama") | fields, Llama)
    assert isinstance(spec, Llama)
    model = spec.build(SIZE, 64, 24)
    initialize(model, seed)
    return model


def attached(model: nn.Module, roles: dict[str, Int]) -> nn.Module:
    return attach(
        model,
        weights=roles.get("weights"),
        activations=roles.get("activations"),
        kv=roles.get("kv"),
    )


def tokens(*shape: int) -> Tensor:
    return torch.randint(64, shape, generator=torch.Generator().manual_seed(3))


def loss_and_grads(model: nn.Module, ids: Tensor) -> tuple[Tensor, list[Tensor]]:
    loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
    return loss, list(torch.autograd.grad(loss, list(model.parameters())))


def test_16_bits_replace_nothing() -> None:
    plain, quantized = llama(), llama()
    kinds = [type(m) for m in quantized.modules()]
    attach(quantized, weights=fmt(16), activations=fmt(16, "tensor"), kv=None)
    assert [type(m) for m in quantized.modules()] == kinds
    (a, ga), (b, gb) = (loss_and_grads(m, tokens(2, 13)) for m in (plain, quantized))
    assert torch.equal(a, b)
    assert all(torch.equal(x, y) for x, y in zip(ga, gb, strict=True))


@pytest.mark.parametrize("role", ROLES)
def test_each_role_replaces_its_own_and_never_embedding_or_head(role: str) -> None:
    model = llama()
    state = list(model.state_dict())
    parameters = {n: id(p) for n, p in model.named_parameters()}
    assert attached(model, {role: fmt(4)}) is model
    replaced = {n for n, m in model.named_modules() if isinstance(m, (QuantLinear, Quantizer))}
    leaves = {n.rpartition(".")[2] for n in replaced}
    expected = {
        "weights": {"q", "k", "v", "o", "gate", "up", "down"},
        "activations": {"in_qkv", "in_o", "in_mlp", "in_down"},
        "kv": {"k_cache", "v_cache"},
    }
    assert leaves == expected[role]
    assert len(replaced) == SIZE.depth * len(leaves)
    assert list(model.state_dict()) == state
    assert {n: id(p) for n, p in model.named_parameters()} == parameters
    assert type(model.head) is Linear


def test_attaching_again_replaces_the_format() -> None:
    once, twice = llama(), llama()
    attached(twice, {r: fmt(3) for r in ROLES})
    for model in (once, twice):
        attached(model, {r: fmt(8) for r in ROLES})
    assert torch.equal(once(tokens(2, 9)), twice(tokens(2, 9)))


def test_weights_equal_a_model_with_rounded_weights() -> None:
    model, rounded = llama(), llama()
    attach(model, weights=fmt(3))
    with torch.no_grad():
        for _, linear in linears(rounded):
            linear.weight.copy_(fake_quantize(linear.weight, fmt(3)))
    (a, ga), (b, gb) = (loss_and_grads(m, tokens(2, 13)) for m in (model, rounded))
    assert torch.equal(a, b)
    # straight-through: the latent weights get the gradient of the rounded ones
    assert all(torch.equal(x, y) for x, y in zip(ga, gb, strict=True))


def test_linears_see_rounded_activations_and_attention_rounded_keys() -> None:
    model = attach(llama(), activations=fmt(4), kv=fmt(5))
    seen: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, Quantizer):
            module.register_forward_hook(lambda _, __, y, name=name: seen.update({name: y}))
    model(tokens(2, 13))
    assert len(seen) == 6 * SIZE.depth
    for name, y in seen.items():
        levels = 2 ** (5 if "cache" in name else 4) - 1
        assert all(len(row.unique()) <= levels for row in y.flatten(0, -2))
        assert y.shape[-1] == (SIZE.head_dim if "cache" in name else y.shape[-1])


@pytest.mark.parametrize("granularity", ["row", "group"])
def test_a_later_token_never_changes_an_earlier_output(granularity: str) -> None:
    f = fmt(4, granularity)
    model = attach(llama(), weights=f, activations=f, kv=f)
    ids = tokens(2, 20)
    changed = ids.clone()
    changed[:, 12] = (changed[:, 12] + 1) % 64
    with torch.no_grad():
        a, b = model(ids), model(changed)
    assert torch.equal(a[:, :12], b[:, :12])
    assert not torch.equal(a[:, 12:], b[:, 12:])


def test_evaluation_rounds_each_weight_once_until_it_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = attach(llama(), weights=fmt(4))
    layer = next(m for m in model.modules() if isinstance(m, QuantLinear))
    calls: list[int] = []
    quantize = layer.quantized.quantize
    monkeypatch.setattr(layer.quantized, "quantize", lambda w: calls.append(1) or quantize(w))
    ids = tokens(2, 9)
    with torch.no_grad():
        first = model(ids)
        assert torch.equal(model(ids), first)
    assert len(calls) == 1
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    model(ids).square().mean().backward()
    assert len(calls) == 2
    with torch.no_grad():
        model(ids)
        optimizer.step()
        after = model(ids)
        assert len(calls) == 4
        assert not torch.equal(after, first)
        model.load_state_dict(llama(1).state_dict())
        model(ids)
    assert len(calls) == 5
    with torch.inference_mode():
        assert torch.equal(model(ids), attach(llama(1), weights=fmt(4))(ids))


def test_conversion_and_copies_do_not_use_old_weights() -> None:
    model = attach(llama(), weights=fmt(4))
    ids = tokens(2, 9)
    with torch.no_grad():
        first = model(ids)
        twin = copy.deepcopy(model)
        model.double()
        assert model(ids).dtype == torch.float64
        twin.get_submodule("blocks.0.attn.q").weight.add_(1.0)  # type: ignore[operator, union-attr]
        assert not torch.equal(twin(ids), first)


@pytest.mark.parametrize("bits", [3, 8])
def test_pack_equals_its_members(bits: int) -> None:
    members = [llama(s) for s in (0, 1)]
    ids = tokens(2, 3, 12)  # (E, B, T)
    f = fmt(bits)
    roles = {r: f for r in ROLES}
    alone = torch.stack([attached(m, roles)(i) for m, i in zip(members, ids, strict=True)])
    pack = attached(stack([llama(0), llama(1)]), roles)
    torch.testing.assert_close(pack(ids), alone, rtol=0, atol=2e-5 if bits == 8 else 2e-4)


def test_groups_must_divide_and_nothing_is_half_replaced() -> None:
    model = llama(hidden=40)
    with pytest.raises(
        ConfigError, match=r"group must divide the 40 values of blocks.0.mlp.in_down, got 16"
    ):
        attach(model, weights=None, activations=fmt(4, "group"))
    assert not any(isinstance(m, Quantizer) for m in model.modules())
    with pytest.raises(ConfigError, match=r"40 values of blocks.0.mlp.down.weight"):
        attach(model, weights=fmt(4, "group"))


def test_someone_elses_model() -> None:
    net = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    x = torch.randn(5, 16)
    w0, w1 = (fake_quantize(net.get_submodule(i).weight, fmt(4)) for i in "02")  # type: ignore[arg-type]
    b0, b1 = (net.get_submodule(i).bias for i in "02")
    hidden = F.linear(fake_quantize(x, fmt(8)), w0, b0).relu()  # type: ignore[arg-type]
    expected = F.linear(fake_quantize(hidden, fmt(8)), w1, b1)  # type: ignore[arg-type]
    attach(net, weights=fmt(4), activations=fmt(8))
    assert torch.equal(net(x), expected)
    assert len(list(net.parameters())) == 4
    with pytest.raises(
        ConfigError, match="kv cannot be quantized: this model has no k_cache or v_cache"
    ):
        attach(net, kv=fmt(4))


def test_a_linear_in_two_places_is_quantized_in_both() -> None:
    linear, x = nn.Linear(8, 8), torch.randn(3, 8)
    rounded = fake_quantize(linear.weight, fmt(3))
    expected = F.linear(F.linear(x, rounded, linear.bias), rounded, linear.bias)
    assert torch.equal(attach(nn.Sequential(linear, linear), weights=fmt(3))(x), expected)
    assert torch.equal(attach(linear, weights=fmt(3))(x), F.linear(x, rounded, linear.bias))


def test_a_model_without_linears_is_refused() -> None:
    with pytest.raises(ConfigError, match="weights cannot be quantized"):
        attach(nn.Sequential(nn.ReLU()), weights=fmt(4))
