"""The GPT-2 style model against reference vectors; biases, positions and norms where they belong."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from precisionlaws.config import ConfigError, build
from precisionlaws.models.base import Size
from precisionlaws.models.gpt import Gpt
from precisionlaws.models.parts import Decoder, LayerNorm, initialize, linears, stack
from precisionlaws.optim.base import split
from precisionlaws.overrides import option
from precisionlaws.quant import attach, fake_quantize
from precisionlaws.quant.formats.int import Int

SIZE = Size(depth=2, width=32, heads=2)
VARIANTS = [{}, {"tied": False}, {"kv_heads": 1, "qk_norm": True, "activation": "relu2"}]
NAMES = {"embed": "wte", "positions": "wpe", "norm": "ln_f", "blocks": "h"}  # ours -> GPT-2's
LEAVES = {
    ".norm": ".ln_1",
    ".mlp_norm": ".ln_2",
    ".attn.o": ".attn.c_proj",
    ".mlp.up": ".mlp.c_fc",
    ".mlp.down": ".mlp.c_proj",
}

Golden = tuple[dict[str, Any], dict[str, Tensor]]


class AnySize(Size):
    """The reference model's heads are not of our widths."""

    def rules(self) -> None:
        pass


def gpt(**fields: Any) -> Gpt:
    spec = build(option("model", "gpt") | fields, Gpt)
    assert isinstance(spec, Gpt)
    return spec


def made(seed: int = 0, dtype: torch.dtype = torch.float32, **fields: Any) -> Decoder:
    model = gpt(**fields).build(SIZE, 64, 24)
    initialize(model, seed)
    return model.to(dtype)


def tokens(*shape: int) -> Tensor:
    return torch.randint(64, shape, generator=torch.Generator().manual_seed(3))


def reference(arrays: dict[str, Tensor], kind: str, name: str) -> Tensor:
    """The array `kind` (w, g) of our parameter `name`: theirs are (in, out), with q, k, v in one."""
    first, _, rest = name.partition(".")
    rest = f".{rest}"
    for ours, theirs in LEAVES.items():
        rest = rest.replace(f"{ours}.", f"{theirs}.")
    for part, letter in enumerate("qkv"):
        if f".attn.{letter}." in rest:
            whole = arrays[f"{kind}.transformer.h{rest.replace(f'.{letter}.', '.c_attn.')}"]
            return whole.chunk(3, -1)[part].mT if whole.dim() == 2 else whole.chunk(3)[part]
    array = arrays[f"{kind}.transformer.{NAMES[first]}{rest}"]
    return array.mT if first == "blocks" and array.dim() == 2 else array


@pytest.fixture
def golden(goldens: Path) -> Golden:
    path = goldens / "arch" / "gpt2.json"
    if not path.exists():
        pytest.skip(f"no {path}")
    return json.loads(path.read_text()), load_file(path.with_suffix(".safetensors"))


def golden_model(facts: dict[str, Any], arrays: dict[str, Tensor]) -> Decoder:
    c = facts["config"]
    spec = gpt(norm_eps=c["layer_norm_epsilon"], tied=c["tie_word_embeddings"])
    size = AnySize(depth=c["n_layer"], width=c["n_embd"], heads=c["n_head"])
    model = spec.build(size, c["vocab_size"], c["n_positions"])
    model.load_state_dict({n: reference(arrays, "w", n) for n in model.state_dict()})
    assert sum(p.numel() for p in model.parameters()) == facts["n_params"]
    return model


def golden_loss(model: nn.Module, ids: Tensor) -> Tensor:
    return F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


@pytest.mark.golden
def test_golden_logits_loss_and_gradients(golden: Golden) -> None:
    facts, arrays = golden
    model, ids = golden_model(facts, arrays), arrays["in.input_ids"]
    torch.testing.assert_close(model(ids), arrays["out.logits"], rtol=1e-5, atol=2e-6)  # fp32
    loss = golden_loss(model, ids)
    assert loss.item() == pytest.approx(facts["loss"], abs=2e-6)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        expected = reference(arrays, "g", name)
        if name.endswith("attn.k.bias"):  # zero but for rounding: softmax does not see it
            assert (parameter.grad - expected).norm() < 1e-7, name
        else:
            assert (parameter.grad - expected).norm() / expected.norm() < 1e-5, name


@pytest.mark.golden
def test_golden_trajectory(golden: Golden) -> None:
    facts, arrays = golden
    model, ids, how = golden_model(facts, arrays), arrays["in.input_ids"], facts["adamw"]
    assert how["weight_decay"] == "0.1 on dim>=2, 0 on dim<2"
    groups = [
        {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        groups, lr=how["lr"], betas=tuple(how["betas"]), eps=how["eps"], fused=True
    )
    losses, norms = [], []
    for _ in range(how["steps"]):
        loss = golden_loss(model, ids)
        loss.backward()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), how["clip"]).item())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    losses.append(golden_loss(model, ids).item())
    # Adam makes steps of full length from the rounding noise that the key biases get as gradient.
    assert losses == pytest.approx(how["losses"], abs=2e-5)
    assert norms == pytest.approx(how["grad_norms_before_clip"], rel=2e-5)


@pytest.mark.parametrize("gelu", ["tanh", "erf"])
def test_equals_the_equations(gelu: str) -> None:
    """One block by hand, in fp64."""
    model, ids = made(1, torch.float64, gelu=gelu), tokens(3, 9)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("bias"):
                p.normal_(generator=torch.Generator().manual_seed(len(name)))
    w = dict(model.named_parameters())

    def norm(x: Tensor, name: str) -> Tensor:
        unit = (x - x.mean(-1, keepdim=True)) / (x.var(-1, False, keepdim=True) + 1e-5).sqrt()
        return unit * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def act(x: Tensor) -> Tensor:
        if gelu == "erf":
            return x * (1 + torch.erf(x / 2**0.5)) / 2
        return x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2

    x = w["embed.weight"][ids] + w["positions.weight"][:9]
    for b in ("blocks.0", "blocks.1"):
        h = norm(x, f"{b}.norm")
        q, k, v = (linear(h, f"{b}.attn.{n}").view(3, 9, 2, 16).transpose(1, 2) for n in "qkv")
        scores = (q @ k.mT / 4).masked_fill(torch.ones(9, 9).triu(1).bool(), -torch.inf)
        x = x + linear((scores.softmax(-1) @ v).transpose(1, 2).reshape(3, 9, 32), f"{b}.attn.o")
        x = x + linear(act(linear(norm(x, f"{b}.mlp_norm"), f"{b}.mlp.up")), f"{b}.mlp.down")
    expected = norm(x, "norm") @ w["embed.weight"].T
    torch.testing.assert_close(model(ids), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("fields", VARIANTS)
def test_a_later_token_never_changes_an_earlier_output(fields: dict[str, Any]) -> None:
    model, ids = made(**fields), tokens(2, 20)
    changed = ids.clone()
    changed[:, 12] = (changed[:, 12] + 1) % 64
    a, b = model(ids), model(changed)
    assert torch.equal(a[:, :12], b[:, :12])
    assert not torch.equal(a[:, 12], b[:, 12])


def test_shorter_sequences_are_prefixes() -> None:
    model, ids = made(dtype=torch.float64), tokens(2, 20)
    torch.testing.assert_close(model(ids[:, :7]), model(ids)[:, :7], rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="of 25 tokens are longer than the context of 24"):
        model(tokens(1, 25))


@pytest.mark.parametrize("fields", VARIANTS)
@pytest.mark.parametrize("bits", [16, 8])
def test_pack_equals_members(fields: dict[str, Any], bits: int) -> None:
    members = [noisy(made(s, torch.float64, **fields)) for s in (0, 1)]
    pack, ids = stack(members), tokens(2, 3, 12)  # (E, B, T)
    for model in (pack, *members):
        attach(model, weights=int_format(bits), activations=int_format(bits), kv=int_format(bits))
    logits = pack(ids)
    weights = torch.randn(logits.shape, dtype=torch.float64)
    grads = torch.autograd.grad(logits, list(pack.parameters()), weights)
    for e, member in enumerate(members):
        alone = member(ids[e])
        torch.testing.assert_close(logits[e], alone, rtol=0, atol=1e-12)
        expected = torch.autograd.grad(alone, list(member.parameters()), weights[e])
        for got, want in zip(grads, expected, strict=True):
            torch.testing.assert_close(got[e], want, rtol=1e-10, atol=1e-11)


def noisy(model: Decoder) -> Decoder:
    """Biases that are not zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("bias"):
                p.normal_(generator=generator)
    return model


def int_format(bits: int) -> Int:
    spec = build(option("format", "int") | {"bits": bits}, Int)
    assert isinstance(spec, Int)
    return spec


def test_weights_are_quantized_and_biases_are_not() -> None:
    model, rounded = noisy(made()), noisy(made())
    before = {n: p for n, p in model.named_parameters()}
    attach(model, weights=int_format(3))
    assert all(p is before[n] for n, p in model.named_parameters())
    with torch.no_grad():
        for _, linear in linears(rounded):
            linear.weight.copy_(fake_quantize(linear.weight, int_format(3)))
    ids = tokens(2, 13)
    a, b = golden_loss(model, ids), golden_loss(rounded, ids)
    assert torch.equal(a, b)
    for got, want in zip(
        torch.autograd.grad(a, list(model.parameters())),
        torch.autograd.grad(b, list(rounded.parameters())),
        strict=True,
    ):
        assert torch.equal(got, want)


def test_an_option_that_does_nothing_changes_no_name() -> None:
    a, b = gpt(activation="relu"), gpt(activation="relu", gelu="erf")
    assert a.normal() == b.normal() != gpt().normal()
    assert gpt(kv_heads=2).resolved(SIZE).normal() == gpt().resolved(SIZE).normal()
    assert gpt(kv_heads=1).resolved(SIZE).normal() != gpt().resolved(SIZE).normal()


@pytest.mark.parametrize(
    ("activation", "expected"),
    [("silu", F.silu), ("relu", F.relu), ("relu2", lambda x: F.relu(x) ** 2)],
)
def test_activations(activation: str, expected: Any) -> None:
    mlp = made(2, activation=activation).get_submodule("blocks.0.mlp")
    x, w = torch.randn(5, 32), dict(mlp.named_parameters())
    want = expected(x @ w["up.weight"].T) @ w["down.weight"].T
    torch.testing.assert_close(mlp(x), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_only_matrices_decay(tied: bool) -> None:
    model = made(tied=tied)
    names = {id(p): n for n, p in model.named_parameters()}
    decayed, free = ([names[id(p)] for p in group] for group in split(model))
    matrices = {f"{n}.weight" for n, _, _ in gpt().matrices(SIZE)}
    assert set(decayed) == matrices | (set() if tied else {"head.weight"})
    assert {"embed.weight", "positions.weight", "norm.bias", "blocks.0.attn.q.bias"} <= set(free)
    assert len(decayed) + len(free) == len(names)


def test_start() -> None:
    model = gpt().build(Size(depth=2, width=256, heads=4), 256, 128)
    initialize(model, 0)
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            assert not p.any(), name
        elif "norm" in name:
            assert (p == 1).all(), name
    stds = {n: p.std().item() for n, p in model.named_parameters()}
    assert stds["embed.weight"] == pytest.approx(1 / 16, rel=0.03)
    assert stds["positions.weight"] == pytest.approx(1 / 32, rel=0.03)
    assert stds["blocks.0.mlp.down.weight"] == pytest.approx(1 / 64, rel=0.03)


def test_layer_norm_with_members_equals_torch() -> None:
    norm = LayerNorm(24, 1e-5).double()
    norm.weight, norm.bias = (nn.Parameter(torch.randn(2, 24).double()) for _ in range(2))
    x = torch.randn(2, 3, 5, 24, dtype=torch.float64)
    for e in (0, 1):
        expected = F.layer_norm(x[e], (24,), norm.weight[e], norm.bias[e], 1e-5)
        torch.testing.assert_close(norm(x)[e], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"gelu": "relu"}, "gelu must be one of tanh, erf, got relu"),
        ({"mlp_ratio": 0}, "mlp_ratio must be at least 0.01, got 0"),
        ({"activation": "tanh"}, "activation must be one of gelu, silu, relu, relu2, got tanh"),
        ({"hidden": 0}, "hidden must be at least 1, got 0"),
    ],
)
def test_errors(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        gpt(**fields)


def test_resolved_replaces_rules_by_numbers() -> None:
    a, b = gpt().resolved(SIZE), gpt(hidden=128, mlp_ratio=2.0).resolved(SIZE)
    assert a.hidden == 128
    assert a.normal() == b.normal()
