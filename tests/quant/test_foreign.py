"""Quantizers in models of others: a plain torch model, and a Llama of Hugging Face."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precisionlaws.config import ConfigError, build
from precisionlaws.models.parts import Seam
from precisionlaws.overrides import option
from precisionlaws.quant import attach, fake_quantize
from precisionlaws.quant.attachment import QuantTorchLinear
from precisionlaws.quant.formats.int import Int

INT = build(option("format", "int"), Int)


def fmt(bits: int) -> Int:
    assert isinstance(INT, Int)
    return replace(INT, bits=bits)


class Attention(nn.Module):
    """As people write it; with `seams`, as this project asks for it."""

    def __init__(self, width: int, heads: int, seams: bool) -> None:
        super().__init__()
        self.qkv, self.proj, self.heads = (
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
            heads,
        )
        if seams:
            self.k_cache, self.v_cache = Seam(width // heads), Seam(width // heads)
        self.seams = seams

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = (
            t.view(B, T, self.heads, -1).transpose(1, 2) for t in self.qkv(x).chunk(3, -1)
        )  # (B, H, T, D)
        if self.seams:
            k, v = self.k_cache(k), self.v_cache(v)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y.transpose(1, 2).reshape(B, T, C))


class Plain(nn.Module):
    def __init__(self, seams: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.attn = nn.Embedding(64, 32), Attention(32, 4, seams)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
        self.head = nn.Linear(32, 64)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        x = x + self.attn(x)
        return self.head(x + self.mlp(x))


def tokens() -> Tensor:
    return torch.randint(64, (2, 12), generator=torch.Generator().manual_seed(1))


def quantized(model: nn.Module) -> set[str]:
    return {n for n, m in model.named_modules() if isinstance(m, QuantTorchLinear)}


def test_a_plain_model_is_quantized_everywhere_but_embedding_and_head() -> None:
    model, state = Plain(), list(Plain().state_dict())
    parameters = [id(p) for p in model.parameters()]
    assert attach(model, weights=fmt(4), activations=fmt(8)) is model
    assert quantized(model) == {"attn.qkv", "attn.proj", "mlp.0", "mlp.2"}
    assert list(model.state_dict()) == state
    assert [id(p) for p in model.parameters()] == parameters


def test_its_outputs_are_those_of_rounded_tensors() -> None:
    model, rounded = attach(Plain(), weights=fmt(3)), Plain()
    for m in rounded.modules():
        if isinstance(m, nn.Linear) and m is not rounded.head:
            m.weight.data = fake_quantize(m.weight.detach(), fmt(3))
    assert torch.equal(model(tokens()), rounded(tokens()))
    assert not torch.equal(model(tokens()), Plain()(tokens()))


@pytest.mark.parametrize("bits", [3, 4, 16])
def test_it_trains_and_its_own_optimizer_moves_the_latent_weights(bits: int) -> None:
    model = attach(Plain(), weights=fmt(bits), activations=fmt(8))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = F.cross_entropy(model(tokens()[:, :-1]).flatten(0, 1), tokens()[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    weight = model.get_submodule("mlp.0").weight
    assert len(weight[0].unique()) > 2**4  # type: ignore[index, operator, union-attr]


def test_16_bits_change_nothing() -> None:
    model = attach(Plain(), weights=fmt(16), activations=fmt(16), kv=fmt(16))
    assert not quantized(model)
    assert torch.equal(model(tokens()), Plain()(tokens()))


def test_keys_and_values_are_rounded_where_seams_say_that_they_pass() -> None:
    model, seen = Plain(seams=True), {}
    attach(model, kv=fmt(3))
    for name in ("k_cache", "v_cache"):
        model.attn.get_submodule(name).register_forward_hook(
            lambda _, __, y, name=name: seen.update({name: y})
        )
    model(tokens())
    assert {n: y.shape for n, y in seen.items()} == dict.fromkeys(seen, torch.Size((2, 4, 12, 8)))
    assert all(len(row.unique()) <= 7 for y in seen.values() for row in y.flatten(0, -2))


def test_without_seams_the_error_says_what_to_do() -> None:
    model = Plain()
    with pytest.raises(ConfigError) as caught:
        attach(model, weights=fmt(4), kv=fmt(4))
    said = str(caught.value)
    assert "kv cannot be quantized: this model has no k_cache or v_cache; give its keys" in said
    assert "precisionlaws.models.parts.Seam(length of the last axis) of these names" in said
    assert not quantized(model)  # nothing is half replaced


def test_what_cannot_be_reached_is_refused_and_not_left_out() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    with pytest.raises(
        ConfigError, match=r"self_attn is a torch.nn.MultiheadAttention, which never"
    ):
        attach(layer, weights=fmt(4))
    assert not quantized(layer)


@pytest.mark.parametrize(
    "model", [nn.ReLU(), nn.ModuleDict({"lm_head": nn.Linear(8, 8)}), nn.LSTM(8, 8)]
)
def test_a_model_without_linears_is_refused(model: nn.Module) -> None:
    with pytest.raises(ConfigError, match="weights cannot be quantized: this model has no linears"):
        attach(model, weights=fmt(4))
    with pytest.raises(ConfigError, match="activations cannot be quantized"):
        attach(model, activations=fmt(4))


def hugging_face(**more: Any) -> nn.Module:
    llama = pytest.importorskip(
        "transformers.models.llama",
        reason="transformers is not installed here",
        exc_type=ImportError,
    )
    torch.manual_seed(0)
    config = llama.LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=64, max_position_embeddings=64, use_cache=False, **more,
    )  # fmt: skip
    return llama.LlamaForCausalLM(config).eval()


@pytest.mark.slow
def test_a_llama_of_hugging_face() -> None:
    model = attach(hugging_face(), weights=fmt(4), activations=fmt(8))
    names = {n.rpartition(".")[2] for n in quantized(model)}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert len(quantized(model)) == 14
    loss = model(tokens(), labels=tokens()).loss
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    rounded = hugging_face()
    for name, m in rounded.named_modules():
        if isinstance(m, nn.Linear) and name != "lm_head":
            m.weight.data = fake_quantize(m.weight.detach(), fmt(4))
    weights_only = attach(hugging_face(), weights=fmt(4))
    assert torch.equal(weights_only(tokens()).logits, rounded(tokens()).logits)
    with pytest.raises(ConfigError, match="kv cannot be quantized"):
        attach(model, kv=fmt(4))


@pytest.mark.slow
def test_keys_and_values_of_hugging_face_pass_its_attention_function() -> None:
    """Its own extension point does what a seam would: K and V after the rotation, as a cache stores them."""
    model = hugging_face()
    from transformers import AttentionInterface  # type: ignore[import-not-found]
    from transformers.integrations.sdpa_attention import (  # type: ignore[import-not-found]
        sdpa_attention_forward,
    )

    seen: list[Tensor] = []

    def rounded(
        module: Any, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **more: Any
    ) -> Any:
        key, value = fake_quantize(key, fmt(3)), fake_quantize(value, fmt(3))
        seen.extend((key, value))
        return sdpa_attention_forward(module, query, key, value, *rest, **more)

    AttentionInterface.register("sdpa_kv3", rounded)
    plain, low = (
        model(tokens()).logits,
        hugging_face(attn_implementation="sdpa_kv3")(tokens()).logits,
    )
    assert len(seen) == 4
    assert all(len(row.unique()) <= 7 for y in seen for row in y.flatten(0, -2))
    assert 0 < (plain - low).abs().max() < 1
