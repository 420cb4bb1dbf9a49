"""nGPT: reference vectors with both rotations, and lengths of 1 wherever they should be."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from precisionlaws.config import ConfigError, build
from precisionlaws.models.base import Size
from precisionlaws.models.ngpt import Ngpt
from precisionlaws.models.parts import Decoder, initialize, linears, stack
from precisionlaws.models.unit_parts import PublicRope, Scale, unit
from precisionlaws.optim.adamw import AdamW
from precisionlaws.overrides import option
from precisionlaws.quant import attach, fake_quantize
from precisionlaws.quant.formats.int import Int
from precisionlaws.run import RunConfig, compose
from precisionlaws.training import loop, pack
from precisionlaws.training.state import State, fresh, resume, save

SIZE = Size(depth=2, width=32, heads=2)
LEAVES = {  # ours -> the public repository's
    "attn.q.weight": "query.weight",
    "attn.k.weight": "key.weight",
    "attn.v.weight": "value.weight",
    "attn.o.weight": "att_c_proj.weight",
    "attn.s_qk.weight": "sqk",
    "attn_alpha.weight": "attn_alpha",
    "mlp_alpha.weight": "mlp_alpha",
    "mlp.down.weight": "mlp_c_proj.weight",
}
HALVES = {  # theirs hold both: ours -> (theirs, which half)
    "mlp.up.weight": ("c_fc.weight", 0),
    "mlp.gate.weight": ("c_fc.weight", 1),
    "mlp.s_u.weight": ("suv", 0),
    "mlp.s_v.weight": ("suv", 1),
}
OUTSIDE = {
    "embed.weight": "transformer.wte.weight",
    "head.weight": "lm_head.weight",
    "s_z.weight": "sz",
}
TURNED = ("attn.q.weight", "attn.k.weight", "attn.s_qk.weight")

Golden = tuple[dict[str, Any], dict[str, Tensor]]


class AnySize(Size):
    """The reference model's heads are not of our widths."""

    def rules(self) -> None:
        pass


def ngpt(**fields: Any) -> Ngpt:
    spec = build(option("model", "ngpt") | fields, Ngpt)
    assert isinstance(spec, Ngpt)
    return spec


def made(seed: int = 0, dtype: torch.dtype = torch.float32, **fields: Any) -> Decoder:
    model = ngpt(**fields).build(SIZE, 64, 24)
    initialize(model, seed)
    return model.to(dtype)


def tokens(*shape: int) -> Tensor:
    return torch.randint(64, shape, generator=torch.Generator().manual_seed(3))


def int4() -> Int:
    spec = build(option("format", "int") | {"bits": 4}, Int)
    assert isinstance(spec, Int)
    return spec


@pytest.fixture(params=["ngpt_fixed_rope", "ngpt_repo_asis_rope"])
def golden(request: pytest.FixtureRequest, goldens: Path) -> Golden:
    path = goldens / "arch" / f"{request.param}.json"
    if not path.exists():
        pytest.skip(f"no {path}")
    return json.loads(path.read_text()), load_file(path.with_suffix(".safetensors"))


def reference(arrays: dict[str, Tensor], kind: str, name: str, heads: int) -> Tensor:
    """The array `kind` (w, g, w6) of our parameter `name`. Theirs rotate pairs (2i, 2i + 1), ours (i, i + D/2)."""
    if name in OUTSIDE:
        return arrays[f"{kind}.{OUTSIDE[name]}"]
    _, block, leaf = name.split(".", 2)
    place = f"{kind}.transformer.h.{block}"
    if leaf in HALVES:
        theirs, half = HALVES[leaf]
        return arrays[f"{place}.{theirs}"].chunk(2)[half]
    array = arrays[f"{place}.{LEAVES[leaf]}"]
    if leaf not in TURNED:
        return array
    pairs = array.unflatten(0, (heads, -1, 2))  # (H, D/2, 2, ...)
    return pairs.transpose(1, 2).flatten(0, 2)


def golden_model(facts: dict[str, Any], arrays: dict[str, Tensor]) -> Decoder:
    c = facts["config"]
    rope = "public" if "AS-IS" in facts["rope"] else "rotary"
    hidden = arrays["w.transformer.h.0.mlp_c_proj.weight"].shape[1]
    size = AnySize(depth=c["n_layer"], width=c["n_embd"], heads=c["n_head"])
    assert c["base_scale"] == pytest.approx(c["n_embd"] ** -0.5)
    model = ngpt(rope=rope, hidden=hidden).build(size, c["vocab_size"], c["block_size"])
    state = {n: reference(arrays, "w", n, c["n_head"]) for n in model.state_dict()}
    model.load_state_dict(state)
    known = sum(v.numel() for k, v in arrays.items() if k.startswith("w."))
    assert known == sum(p.numel() for p in model.parameters())
    return model


def golden_loss(model: nn.Module, arrays: dict[str, Tensor]) -> Tensor:
    logits = model(arrays["in.input_ids"])
    return F.cross_entropy(logits.flatten(0, 1), arrays["in.targets"].flatten())


@pytest.mark.golden
def test_golden_logits_loss_and_gradients(golden: Golden) -> None:
    facts, arrays = golden
    model, heads = golden_model(facts, arrays), facts["config"]["n_head"]
    logits = model(arrays["in.input_ids"])
    torch.testing.assert_close(logits, arrays["out.logits"], rtol=1e-5, atol=2e-6)  # fp32
    loss = golden_loss(model, arrays)
    assert loss.item() == pytest.approx(facts["loss"], abs=2e-6)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        expected = reference(arrays, "g", name, heads)
        assert (parameter.grad - expected).norm() / expected.norm() < 1e-5, name


@pytest.mark.golden
def test_golden_trajectory(golden: Golden) -> None:
    facts, arrays = golden
    model, how = golden_model(facts, arrays), facts["adamw"]
    assert how["weight_decay"] == "0"
    assert how["normalize_after_each_step"]
    beta1, beta2 = how["betas"]
    fields = {"lr": how["lr"], "beta1": beta1, "beta2": beta2, "eps": how["eps"]}
    spec = build(option("optim", "adamw") | fields, AdamW)
    assert isinstance(spec, AdamW)
    optimizer = spec.resolved(1, 32, 1, Ngpt).build(model)
    assert all(g["weight_decay"] == 0 for g in optimizer.param_groups)
    losses, norms = [], []
    for _ in how["grad_norms_before_clip"]:
        loss = golden_loss(model, arrays)
        loss.backward()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), how["clip"]).item())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    losses.append(golden_loss(model, arrays).item())
    assert losses == pytest.approx(how["losses"], abs=2e-5)
    assert norms == pytest.approx(how["grad_norms_before_clip"], rel=5e-5)
    for name, p in model.named_parameters():
        try:
            expected = reference(arrays, "w6", name, facts["config"]["n_head"])
        except KeyError:  # not all were kept
            continue
        torch.testing.assert_close(p.detach(), expected, rtol=0, atol=1e-5, msg=name)


def stray(model: nn.Module) -> float:
    """How far any row, or column of a matrix that writes to the stream, is from length 1."""
    worst = 0.0
    for name, p in model.named_parameters():
        owner = name.split(".")[-2]
        if owner in ("embed", "head", *"qkvo", "gate", "up", "down"):
            axis = -2 if owner in ("o", "down") else -1
            worst = max(worst, (p.detach().double().norm(dim=axis) - 1).abs().max().item())
    return worst


def trained(run: RunConfig, steps: int, state: State | None = None) -> State:
    state = state or fresh(run, "cpu")
    for step in range(state.step, steps):
        loop.advance(state, run, loop.batches_of(run), step + 1, lambda _: 1.0)
        assert stray(state.model) < 1e-6, step
    return state


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["optim=adopt"],
        ["quant=low_precision", "quant.weights.bits=4", "micro_batch=2"],
        ["quant=qat", "quant.weights.bits=3", "quant.rotation=hadamard"],
    ],
)
def test_lengths_are_one_after_every_step_and_after_resume(
    tiny: list[str], more: list[str], tmp_path: Path
) -> None:
    run = compose([*tiny, "model=ngpt", "optim.lr=0.02", *more])
    assert run.optimizer.weight_decay == 0
    start = fresh(run, "cpu")
    assert stray(start.model) < 1e-6
    whole, half = trained(run, 7), trained(run, 4)
    save(half, tmp_path / "half", "facts")
    again = fresh(run, "cpu")
    assert resume(again, tmp_path / "half", "facts")
    assert stray(again.model) < 1e-6
    trained(run, 7, again)
    for name, value in whole.tensors().items():
        assert torch.equal(value, again.tensors()[name]), name


def test_a_pack_agrees_with_runs_alone(tiny: list[str]) -> None:
    each = [["seed=1"], ["quant.weights.bits=4"], ["quant.kv.bits=4"], ["optim.lr=0.003"]]
    base = [*tiny, "model=ngpt", "optim.lr=0.02", "dtype=float64"]
    runs = [compose([*base, *more]) for more in each]
    together = pack.Pack(runs, "cpu")
    for step in range(5):
        pack.advance(together, set(range(4)), step + 1, lambda _: 1.0)
        assert max(stray(m.model) for m in together.members) < 1e-6
    for run, member in zip(runs, together.members, strict=True):
        for name, value in trained(run, 5).tensors().items():
            torch.testing.assert_close(member.tensors()[name], value, rtol=1e-5, atol=1e-8)


def test_quantizers_see_unit_matrices_and_what_they_return_is_not_normalized() -> None:
    model, rounded = made(), made()
    attach(model, weights=int4())
    with torch.no_grad():
        for _, linear in linears(rounded):
            linear.weight.copy_(fake_quantize(linear.weight, int4()))
    assert stray(model) < 1e-6 < 1e-3 < stray(rounded)
    assert torch.equal(model(tokens(2, 9)), rounded(tokens(2, 9)))


def test_the_stream_is_on_the_sphere() -> None:
    model, lengths = made(1), []
    for block in model.blocks:
        block.register_forward_hook(lambda _, __, h: lengths.append(h.norm(dim=-1)))
    model(tokens(2, 9))
    assert len(lengths) == 2
    for length in lengths:
        torch.testing.assert_close(length, torch.ones(2, 9), rtol=0, atol=1e-6)


def test_with_rates_of_zero_blocks_do_nothing() -> None:
    model, ids = made(1, torch.float64, alpha=0.0), tokens(2, 9)
    expected = model.embed.weight[ids] @ model.get_parameter("head.weight").T
    torch.testing.assert_close(model(ids), expected, rtol=0, atol=1e-7)


def test_a_step_moves_what_a_gain_does_and_not_what_is_stored() -> None:
    gain = Scale(3, 0.05, 0.25)
    initialize(nn.ModuleDict({"gain": gain}), 0)
    assert gain.gain(1).tolist() == pytest.approx([0.05] * 3)
    optimizer = torch.optim.Adam(gain.parameters(), lr=0.01, fused=True)
    gain(torch.ones(3)).sum().backward()
    optimizer.step()
    assert gain.gain(1).tolist() == pytest.approx([0.05 - 0.01 * 0.05 / 0.25] * 3, rel=1e-5)


def test_unit_and_its_gradient() -> None:
    x = torch.randn(4, 3, 7, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(unit(x), F.normalize(x, dim=-1), rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(unit, x)
    assert not unit(torch.zeros(2, 3)).any()


def test_the_public_rotation_is_none() -> None:
    """As NVIDIA/ngpt computes it, pair by pair; its pairs (2i, 2i + 1) are our (i, i + D/2)."""
    D, T = 8, 5
    x = torch.randn(1, T, 1, D)
    table = torch.zeros(T, D)
    angles = torch.outer(torch.arange(T), 10000.0 ** (-torch.arange(0, D, 2) / D))
    table[:, 0::2], table[:, 1::2] = angles.sin(), angles.cos()
    sin, cos = table.chunk(2, -1)
    even, odd = x[0, :, 0, : D // 2], x[0, :, 0, D // 2 :]
    expected = torch.cat((-odd * cos, even * sin), -1)
    rope = PublicRope(D, 1, T, 10000.0)
    assert torch.autograd.gradcheck(rope.double(), x.double().requires_grad_())
    got = rope.float()(x)[0, :, 0]
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(got.norm(dim=-1), x[0, :, 0].norm(dim=-1), rtol=0.1)


@pytest.mark.parametrize("rope", ["rotary", "public"])
def test_a_later_token_never_changes_an_earlier_output(rope: str) -> None:
    model, ids = made(rope=rope), tokens(2, 20)
    changed = ids.clone()
    changed[:, 12] = (changed[:, 12] + 1) % 64
    a, b = model(ids), model(changed)
    assert torch.equal(a[:, :12], b[:, :12])
    assert not torch.equal(a[:, 12], b[:, 12])


@pytest.mark.parametrize("bits", [16, 4])
def test_pack_equals_members(bits: int) -> None:
    members = [made(s, torch.float64) for s in (0, 1)]
    pack, ids = stack(members), tokens(2, 3, 12)  # (E, B, T)
    if bits == 4:
        for model in (pack, *members):
            attach(model, weights=int4(), activations=int4(), kv=int4())
    logits = pack(ids)
    weights = torch.randn(logits.shape, dtype=torch.float64)
    grads = torch.autograd.grad(logits, list(pack.parameters()), weights)
    for e, member in enumerate(members):
        alone = member(ids[e])
        torch.testing.assert_close(logits[e], alone, rtol=0, atol=1e-12)
        expected = torch.autograd.grad(alone, list(member.parameters()), weights[e])
        for got, want in zip(grads, expected, strict=True):
            torch.testing.assert_close(got[e], want, rtol=1e-10, atol=1e-11)


def test_no_decay_and_no_warm_up_unless_asked(tiny: list[str]) -> None:
    tiny = [t for t in tiny if "warmup" not in t]
    run, plain = compose([*tiny, "model=ngpt"]), compose(tiny)
    assert (run.optimizer.weight_decay, run.lr_schedule.factor(0, 20)) == (0, 1)
    assert (plain.optimizer.weight_decay, plain.lr_schedule.factor(0, 20)) == (0.1, 1 / 30)
    asked = compose([*tiny, "model=ngpt", "optim.weight_decay=0.2", "lr_schedule.warmup=4"])
    assert (asked.optimizer.weight_decay, asked.lr_schedule.factor(0, 20)) == (0.2, 0.25)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"rope": "rotate"}, "rope must be one of rotary, public, got rotate"),
        ({"alpha": 1.5}, "alpha must be 0 to 1, got 1.5"),
    ],
)
def test_errors(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        ngpt(**fields)


def test_resolved_replaces_rules_by_numbers() -> None:
    a, b = ngpt().resolved(SIZE), ngpt(hidden=128, mlp_ratio=2.0).resolved(SIZE)
    assert a.hidden == 128
    assert a.normal() == b.normal()
    with pytest.raises(ConfigError, match="width per head divisible by 4, got 6"):
        ngpt(rope="public").resolved(AnySize(depth=1, width=24, heads=4))
    assert math.isclose(made().s_z.factor, 32**0.5)  # type: ignore[union-attr]
