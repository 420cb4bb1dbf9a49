"""The Llama against reference vectors, and what must hold of any causal model made of parts."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from precisionlaws.config import ConfigError, build
from precisionlaws.models.attention import Rope
from precisionlaws.models.base import Size
from precisionlaws.models.llama import Llama
from precisionlaws.models.parts import Decoder, RMSNorm, initialize, stack
from precisionlaws.overrides import option

SIZE = Size(depth=2, width=32, heads=2)
VARIANTS = [
    {},
    {"kv_heads": 1},
    {"tied": True},
    {"qk_norm": True},
    {"activation": "relu2", "qk_norm": True, "kv_heads": 1, "tied": True},
]
NAMES = {  # ours -> those of the reference implementation
    "embed": "model.embed_tokens",
    "norm": "model.norm",
    "head": "lm_head",
    "blocks": "model.layers",
    ".norm": ".input_layernorm",
    ".mlp_norm": ".post_attention_layernorm",
    ".attn.": ".self_attn.",
}


@dataclass(frozen=True, kw_only=True)
class AnySize(Size):
    """The reference models are not of our widths."""

    def rules(self) -> None:
        pass


def llama(**fields: Any) -> Llama:
    spec = build(option("model", "llama") | fields, Llama)
    assert isinstance(spec, Llama)
    return spec


def made(seed: int = 0, dtype: torch.dtype = torch.float32, **fields: Any) -> Decoder:
    model = llama(**fields).build(SIZE, 64, 24)
    initialize(model, seed)
    return model.to(dtype)


def tokens(*shape: int) -> Tensor:
    return torch.randint(64, shape, generator=torch.Generator().manual_seed(3))


def reference_name(name: str) -> str:
    first, _, rest = name.partition(".")
    for ours in (".norm", ".mlp_norm", ".attn."):
        rest = f".{rest}".replace(ours, NAMES[ours])[1:]
    for linear in ("q", "k", "v", "o", "gate", "up", "down"):
        rest = rest.replace(f".{linear}.weight", f".{linear}_proj.weight")
    return f"{NAMES[first]}.{rest}"


@pytest.fixture(params=["llama_gqa", "llama_mqa_tied"])
def golden(
    request: pytest.FixtureRequest, goldens: Path
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    path = goldens / "arch" / f"{request.param}.json"
    if not path.exists():
        pytest.skip(f"no {path}")
    return json.loads(path.read_text()), load_file(path.with_suffix(".safetensors"))


def golden_model(facts: dict[str, Any], arrays: dict[str, Tensor]) -> Decoder:
    c = facts["config"]
    spec = llama(
        kv_heads=c["num_key_value_heads"],
        hidden=c["intermediate_size"],
        rope_base=c["rope_theta"],
        norm_eps=c["rms_norm_eps"],
        tied=c["tie_word_embeddings"],
    )
    size = AnySize(
        depth=c["num_hidden_layers"], width=c["hidden_size"], heads=c["num_attention_heads"]
    )
    model = spec.build(size, c["vocab_size"], arrays["in.input_ids"].shape[1])
    ours = {n: arrays[f"w.{reference_name(n)}"] for n in model.state_dict()}
    model.load_state_dict(ours)
    assert len(ours) == sum(k.startswith("w.") for k in arrays)
    return model


def golden_loss(model: nn.Module, ids: Tensor) -> Tensor:
    return F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


@pytest.mark.golden
def test_golden_logits_loss_and_gradients(golden: tuple[dict[str, Any], dict[str, Tensor]]) -> None:
    facts, arrays = golden
    model, ids = golden_model(facts, arrays), arrays["in.input_ids"]
    assert sum(p.numel() for p in model.parameters()) == facts["n_params"]
    torch.testing.assert_close(model(ids), arrays["out.logits"], rtol=1e-5, atol=2e-6)  # fp32
    loss = golden_loss(model, ids)
    assert loss.item() == pytest.approx(facts["loss"], abs=2e-6)
    loss.backward()
    for name, parameter in model.named_parameters():
        expected = arrays[f"g.{reference_name(name)}"]
        assert parameter.grad is not None
        error = (parameter.grad - expected).norm() / expected.norm()
        assert error < 1e-5, name  # fp32; 2.2e-6 where sums are in another order


@pytest.mark.golden
def test_golden_trajectory(golden: tuple[dict[str, Any], dict[str, Tensor]]) -> None:
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
    assert losses == pytest.approx(how["losses"], abs=2e-5)
    assert norms == pytest.approx(how["grad_norms_before_clip"], rel=2e-5)


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
    with pytest.raises(
        ValueError, match="sequences of 25 tokens are longer than the context of 24"
    ):
        model(tokens(1, 25))


@pytest.mark.parametrize("fields", VARIANTS)
def test_pack_equals_members(fields: dict[str, Any]) -> None:
    members = [made(s, torch.float64, **fields) for s in (0, 1)]
    pack, ids = stack(members), tokens(2, 3, 12)  # (E, B, T)
    logits = pack(ids)
    weights = torch.randn(logits.shape, dtype=torch.float64)
    grads = torch.autograd.grad(logits, list(pack.parameters()), weights)
    for e, member in enumerate(members):
        alone = member(ids[e])
        torch.testing.assert_close(logits[e], alone, rtol=0, atol=1e-12)
        expected = torch.autograd.grad(alone, list(member.parameters()), weights[e])
        for got, want in zip(grads, expected, strict=True):
            torch.testing.assert_close(got[e], want, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("activation", ["silu", "gelu", "relu", "relu2"])
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_equals_the_equations(activation: str, kv_heads: int) -> None:
    """Norms of queries and keys and the activation, by hand, in fp64."""
    act = {"silu": F.silu, "gelu": F.gelu, "relu": F.relu, "relu2": lambda x: F.relu(x) ** 2}
    fields = {"kv_heads": kv_heads, "qk_norm": True, "activation": activation}
    model, ids = made(1, torch.float64, **fields), tokens(3, 9)
    w, generator = dict(model.named_parameters()), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in w.values():
            if p.dim() == 1:
                p.normal_(generator=generator)

    def norm(x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w[f"{name}.weight"]

    def turned(x: Tensor) -> Tensor:  # (B, H, T, D)
        rates = 10000.0 ** -(torch.arange(0, 16, 2, dtype=torch.float64) / 16)
        angle = torch.outer(torch.arange(9, dtype=torch.float64), rates)
        a, b = x.chunk(2, -1)
        sin, cos = angle.sin(), angle.cos()
        return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)

    x = w["embed.weight"][ids]
    for b in ("blocks.0", "blocks.1"):
        h = norm(x, f"{b}.norm")
        q, k, v = (
            (h @ w[f"{b}.attn.{n}.weight"].T).view(3, 9, -1, 16).transpose(1, 2) for n in "qkv"
        )
        q = turned(norm(q, f"{b}.attn.rope_q.0"))
        k = turned(norm(k, f"{b}.attn.rope_k.0"))
        k, v = (t.repeat_interleave(2 // kv_heads, 1) for t in (k, v))
        scores = (q @ k.mT / 4).masked_fill(torch.ones(9, 9).triu(1).bool(), -torch.inf)
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(3, 9, 32)
        x = x + y @ w[f"{b}.attn.o.weight"].T
        h = norm(x, f"{b}.mlp_norm")
        gate = act[activation](h @ w[f"{b}.mlp.gate.weight"].T)
        x = x + (gate * (h @ w[f"{b}.mlp.up.weight"].T)) @ w[f"{b}.mlp.down.weight"].T
    expected = norm(x, "norm") @ w["head.weight"].T
    torch.testing.assert_close(model(ids), expected, rtol=1e-6, atol=1e-5)  # tables are fp32


def test_options_at_their_neutral_value_leave_no_trace() -> None:
    a = llama().normal()
    assert a is not None
    assert not {"qk_norm", "activation"} & set(a)


def test_rms_norm_equals_torch() -> None:
    norm, x = RMSNorm(24, 1e-5).double(), torch.randn(3, 5, 24, dtype=torch.float64)
    with torch.no_grad():
        norm.weight.normal_()
    x.requires_grad_()
    expected = F.rms_norm(x, (24,), norm.weight, 1e-5)
    g = torch.randn_like(x)
    torch.testing.assert_close(norm(x), expected, rtol=1e-12, atol=1e-12)
    for got, want in zip(
        torch.autograd.grad(norm(x), (x, norm.weight), g),
        torch.autograd.grad(expected, (x, norm.weight), g),
        strict=True,
    ):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)


def test_rotation_is_one_and_depends_on_distance_only() -> None:
    rope = Rope(16, 2, 32, 10000.0)
    x = torch.randn(1, 32, 2, 16, dtype=torch.float64)
    assert torch.autograd.gradcheck(rope.double(), x[:, :4].clone().requires_grad_())
    torch.testing.assert_close(rope(x).norm(dim=-1), x.norm(dim=-1), rtol=1e-6, atol=0)
    same = x[:, :1].expand_as(x)
    q, k = rope(same)[0, :, 0], rope(same)[0, :, 1]
    scores = q @ k.T
    for distance in (1, 9):  # tables are fp32
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=1e-5)


def test_initialization_depends_on_seed_name_and_shape_alone() -> None:
    a, b, other = made(5), made(5), made(6)
    for name, p in a.named_parameters():
        assert torch.equal(p, b.get_parameter(name))
        assert torch.equal(p, other.get_parameter(name)) == (p.dim() == 1)
    deeper = llama().build(replace(SIZE, depth=3), 64, 24)
    initialize(deeper, 5)
    assert torch.equal(
        deeper.get_parameter("blocks.1.attn.q.weight"), a.get_parameter("blocks.1.attn.q.weight")
    )
    wide = llama().build(Size(depth=2, width=256, heads=4), 64, 24)
    initialize(wide, 0)
    stds = {n: p.std().item() for n, p in wide.named_parameters() if p.dim() == 2}
    assert stds["blocks.0.attn.q.weight"] == pytest.approx(1 / 16, rel=0.03)
    assert stds["blocks.0.attn.o.weight"] == pytest.approx(1 / 32, rel=0.03)


def test_forgotten_initialization_is_loud() -> None:
    assert llama().build(SIZE, 64, 24)(tokens(1, 4)).isnan().all()
    with pytest.raises(TypeError, match=r"no rule initializes 0\.weight"):
        initialize(nn.Sequential(nn.Linear(2, 2)), 0)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"activation": "tanh"}, "activation must be one of silu, gelu, relu, relu2, got tanh"),
        ({"kv_heads": 3}, "kv_heads must divide heads=2, got 3"),
        ({"mlp_ratio": 0}, "mlp_ratio must be at least 0.01, got 0"),
        ({"rope_base": "x"}, "rope_base must be a number, got 'x'"),
    ],
)
def test_errors(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        llama(**fields).matrices(SIZE)


def test_size_errors() -> None:
    with pytest.raises(ConfigError, match="width must be divisible by 16, got 40"):
        Size(depth=1, width=40, heads=2)
    with pytest.raises(ConfigError, match="heads must divide width=48, got 5"):
        Size(depth=1, width=48, heads=5)


def test_resolved_replaces_rules_by_numbers() -> None:
    a, b = llama().resolved(SIZE), llama(kv_heads=2, hidden=80, mlp_ratio=4.0).resolved(SIZE)
    assert (a.kv_heads, a.hidden) == (2, 80)
    assert a.normal() == b.normal()
