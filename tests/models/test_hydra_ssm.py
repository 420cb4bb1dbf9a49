"""Hydra: reference blocks, mixers against their dense definitions, and filling in hidden tokens."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from precisionlaws.cli.runs import difference_words
from precisionlaws.config import ConfigError, build
from precisionlaws.data.batches import hide
from precisionlaws.fitting.rows import select
from precisionlaws.laws import law
from precisionlaws.models import mixers
from precisionlaws.models.base import Size
from precisionlaws.models.hydra_ssm import CHUNK, HydraSsm
from precisionlaws.models.mixers import Mixer, Mixing, Quasiseparable, mixer_of
from precisionlaws.models.parts import Decoder, initialize, stack
from precisionlaws.overrides import option
from precisionlaws.quant import attach
from precisionlaws.quant.formats.int import Int
from precisionlaws.run import compose
from precisionlaws.runs import difference
from precisionlaws.store import Store, load
from precisionlaws.training import loop, pack
from precisionlaws.training.evaluate import held_out
from precisionlaws.training.objectives import IGNORED, asked, pairs
from precisionlaws.training.state import fresh
from precisionlaws.training.train import train

SIZE = Size(depth=1, width=32, heads=2)
MIXERS = ("quasiseparable", "semiseparable", "attention", "toeplitz", "vandermonde")
LEAVES = {  # ours -> the reference's
    "in_proj.weight": "in_proj.weight",
    "conv.weight": "conv1d.weight",
    "conv.bias": "conv1d.bias",
    "mixer.scan.dt_bias": "dt_bias",
    "mixer.scan.A_log": "A_log",
    "skip.weight": "fc_D.weight",
    "D.weight": "D",
    "norm.weight": "norm.weight",
    "out_proj.weight": "out_proj.weight",
}
HYDRA = ["model=hydra_ssm", "optim.lr=0.01"]


def spec_of(**fields: Any) -> HydraSsm:
    spec = build(option("model", "hydra_ssm") | fields, HydraSsm)
    assert isinstance(spec, HydraSsm)
    return spec


def made(seed: int = 0, dtype: torch.dtype = torch.float32, **fields: Any) -> Decoder:
    model = spec_of(**fields).build(SIZE, 64, 96)
    initialize(model, seed)
    return model.to(dtype)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def masked(*shape: int) -> Tensor:
    """Token sequences with hidden tokens."""
    ids = torch.randint(64, shape, generator=torch.Generator().manual_seed(3))
    return torch.from_numpy(hide(ids.flatten(0, -2).numpy(), 0.3, "test")).view(shape).long()


def int4() -> Int:
    spec = build(option("format", "int") | {"bits": 4}, Int)
    assert isinstance(spec, Int)
    return spec


def opened(goldens: Path, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    path = goldens / "arch" / f"{name}.json"
    if not path.exists():
        pytest.skip(f"no {path}")
    return json.loads(path.read_text())["config"], load_file(path.with_suffix(".safetensors"))


@pytest.mark.golden
@pytest.mark.parametrize("name", ["hydra_block", "hydra_block_g2"])
def test_golden_blocks(goldens: Path, name: str) -> None:
    c, arrays = opened(goldens, name)
    spec = spec_of(
        head_dim=c["headdim"], state=c["d_state"], groups=c["ngroups"], conv=c["d_conv"], layers=1,
        expand=c["expand"],
    )  # fmt: skip
    model = spec.build(Size(depth=1, width=c["d_model"], heads=1), 8, 8)
    block = model.get_submodule("blocks.0.mixing")
    assert isinstance(block, Mixing)
    state = {n: arrays[f"w.{LEAVES[n]}"].squeeze(1) for n in LEAVES if "conv.w" in n}
    state |= {n: arrays[f"w.{LEAVES[n]}"] for n in LEAVES if n not in state}
    block.load_state_dict(state)
    u = arrays["in.u"].clone().requires_grad_()
    y = block(u)
    torch.testing.assert_close(y, arrays["out.y"], rtol=1e-5, atol=1e-6)
    (y * arrays["in.cotangent"]).sum().backward()
    assert u.grad is not None
    torch.testing.assert_close(u.grad, arrays["g_in.u"], rtol=1e-5, atol=2e-6)
    for ours, p in block.named_parameters():
        assert p.grad is not None
        expected = arrays[f"g.{LEAVES[ours]}"].view_as(p)
        assert (p.grad - expected).norm() / expected.norm() < 1e-5, ours
    torch.testing.assert_close(whole(block, u), arrays["out.M"], rtol=1e-5, atol=1e-6)


def whole(block: Mixing, u: Tensor) -> Tensor:
    """The mixer of a block and its diagonal as one matrix per head."""
    _, both, raw = block.in_proj(u).split(block.parts, -1)
    x, features = block.convolved(both)
    diagonal = block.D(block.skip(x)).mT  # (B, H, T)
    return block.mixer.matrix(features, raw) + torch.diag_embed(diagonal)


@pytest.mark.golden
def test_golden_mixer(goldens: Path) -> None:
    """The reference shares B and C between directions and adds the bias of dt outside."""
    c, arrays = opened(goldens, "quasiseparable_mixer")
    P, heads = c["headdim"], arrays["w.A_log"].numel()
    state = arrays["in.BC"].shape[-1] // 2
    mixer = Quasiseparable(heads, state, 1)
    mixer.scan.load_state_dict({"dt_bias": torch.zeros(heads), "A_log": arrays["w.A_log"]})
    x, features = arrays["in.x"], torch.cat((arrays["in.BC"],) * 2, -1)
    split = x.unflatten(-1, (heads, P))
    diagonal = F.linear(x, arrays["w.fc_D.weight"], arrays["w.D"]).unsqueeze(-1)
    y = mixer(split, features, arrays["in.dt"]) + split * diagonal
    torch.testing.assert_close(y.flatten(-2), arrays["out.y"], rtol=1e-5, atol=1e-6)


def filled(name: str, heads: int = 4, state: int = 3, groups: int = 2) -> Mixer:
    """A mixer with constants that differ between heads."""
    mixer = mixer_of(name, heads, state, groups).double()
    with torch.no_grad():
        for i, p in enumerate(mixer.parameters()):
            p.copy_(normal(heads, seed=i))
    return mixer


def inputs(name: str, *lead: int, T: int, heads: int = 4, P: int = 2) -> tuple[Tensor, ...]:
    """x, features and raw of a mixer of `filled`'s shape."""
    spec = spec_of(mixer=name, head_dim=8, state=3, groups=2, layers=1)
    d = spec.dims(Size(depth=1, width=16, heads=1))
    assert d.heads == heads
    shapes = (heads * P, d.features, d.raw)
    x, features, raw = (normal(*lead, T, n, seed=i) for i, n in enumerate(shapes))
    return x.unflatten(-1, (heads, P)), features, raw


@pytest.mark.parametrize("T", [1, 2, 7, CHUNK, CHUNK + 1, 2 * CHUNK + 3, 5 * CHUNK - 1])
@pytest.mark.parametrize("name", ["quasiseparable", "semiseparable"])
def test_linear_time_equals_dense(name: str, T: int) -> None:
    mixer, (x, features, raw) = filled(name), inputs(name, 2, T=T)
    dense = (mixer.matrix(features, raw) @ x.transpose(-3, -2)).transpose(-3, -2)
    torch.testing.assert_close(mixer(x, features, raw), dense, rtol=1e-9, atol=1e-11)
    low = mixer.float()
    single = low(x.float(), features.float(), raw.float())
    assert (single - dense).abs().max() <= 1e-5 * dense.abs().max()


def test_gradients_of_the_linear_path_are_those_of_the_dense_one() -> None:
    mixer, leaves = filled("quasiseparable"), inputs("quasiseparable", 1, T=2 * CHUNK + 5)
    x, features, raw = (t.requires_grad_() for t in leaves)
    dense = (mixer.matrix(features, raw) @ x.transpose(-3, -2)).transpose(-3, -2)
    every, g = [x, features, raw, *mixer.parameters()], normal(*x.shape, seed=9)
    for got, want in zip(
        torch.autograd.grad(mixer(x, features, raw), every, g),
        torch.autograd.grad(dense, every, g),
        strict=True,
    ):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-10)


def test_quasiseparable_is_what_the_paper_says() -> None:
    """Entry by entry."""
    mixer, (_, features, raw) = filled("quasiseparable"), inputs("quasiseparable", T=6)
    assert isinstance(mixer, Quasiseparable)
    (Bf, Cf), (Bb, Cb) = features.unflatten(-1, (2, 2, 2, 3)).permute(1, 2, 0, 3, 4)
    M = mixer.matrix(features, raw)
    for h in range(4):
        A, bias, g = -mixer.scan.A_log[h].exp(), mixer.scan.dt_bias[h], h // 2
        f, b = (F.softplus(raw[:, k] + bias) for k in (h, h + 4))
        for i in range(6):
            assert M[h, i, i] == 0
            for j in range(i):
                want = Cf[i - 1, g] @ Bf[j, g] * f[j] * (A * f[j + 1 : i].sum()).exp()
                assert M[h, i, j].item() == pytest.approx(want.item(), rel=1e-9)
            for j in range(i + 1, 6):
                want = Cb[i + 1, g] @ Bb[j, g] * b[j] * (A * b[i + 1 : j].sum()).exp()
                assert M[h, i, j].item() == pytest.approx(want.item(), rel=1e-9)


@pytest.mark.parametrize("name", ["quasiseparable", "semiseparable"])
def test_blocks_off_the_diagonal_have_no_higher_rank_than_the_state(name: str) -> None:
    mixer, (_, features, raw) = filled(name), inputs(name, T=24)
    M = mixer.matrix(features, raw)
    for cut in (6, 12, 19):
        for block in (M[:, cut:, :cut], M[:, :cut, cut:]):
            assert torch.linalg.matrix_rank(block, rtol=1e-9).max() <= 3
    full = normal(24, 24)  # such blocks of a matrix without structure
    assert torch.linalg.matrix_rank(full[12:, :12]) == 12


def test_reversal() -> None:
    """Read from the other end, with its directions swapped, a sequence gives the reverse."""
    mixer, (x, features, raw) = filled("quasiseparable"), inputs("quasiseparable", 2, T=77)
    swapped, steps = features.unflatten(-1, (2, -1)).flip(-2), raw.unflatten(-1, (2, -1)).flip(-2)
    other = mixer(x.flip(-3), swapped.flatten(-2).flip(-2), steps.flatten(-2).flip(-2))
    torch.testing.assert_close(other.flip(-3), mixer(x, features, raw), rtol=1e-10, atol=1e-12)


def test_structures() -> None:
    T = 9
    q, k = (t.double() for t in mixers.halves(inputs("attention", T=T)[1], (2, 4, 3)))
    attention = filled("attention").matrix(*inputs("attention", T=T)[1:])
    scores = (q.unsqueeze(-2) * k.unsqueeze(-3)).sum(-1) / math.sqrt(3)
    torch.testing.assert_close(attention, scores.exp() / scores.exp().sum(-1, keepdim=True))

    vandermonde = filled("vandermonde").matrix(*inputs("vandermonde", T=T)[1:])
    t, s = torch.arange(T).view(T, 1, 1), torch.arange(T).view(1, T, 1)
    turn = 2 * math.pi * 1e-3
    waves = (turn * q.unsqueeze(-2) * s).cos() - (turn * k.unsqueeze(-3) * t).cos()
    torch.testing.assert_close(vandermonde, waves.sum(-1) / math.sqrt(2 * T * 3))

    features = inputs("toeplitz", T=T)[1]
    toeplitz = filled("toeplitz").matrix(features, features[..., :0])
    for lag in range(-T + 1, T):
        f = features.unflatten(-1, (2, 4))[abs(lag), 0 if lag >= 0 else 1] / 2 / math.sqrt(T)
        diagonal = toeplitz.diagonal(-lag, -2, -1)
        torch.testing.assert_close(diagonal, f.view(4, 1).expand_as(diagonal))

    semi = filled("semiseparable").matrix(*inputs("semiseparable", T=T)[1:])
    assert not semi.triu(1).any()
    assert semi.diagonal(0, -2, -1).all()


@pytest.mark.parametrize("mixer", MIXERS)
def test_both_sides_are_seen_where_the_structure_has_both(mixer: str) -> None:
    model, ids = made(mixer=mixer, conv=1), masked(1, 70)
    ids[0, 20] = 5
    changed = ids.clone()
    changed[0, 20] = 6
    moved = (model(ids) - model(changed))[0].abs().amax(-1) > 0
    assert moved[20:].sum() > 40
    assert moved[:20].any() == (mixer != "semiseparable")


@pytest.mark.parametrize("bits", [16, 4])
@pytest.mark.parametrize("mixer", MIXERS)
def test_pack_equals_members(mixer: str, bits: int) -> None:
    members = [made(s, torch.float64, mixer=mixer) for s in (0, 1)]
    together, ids = stack(members), masked(2, 3, 70)  # (E, B, T)
    if bits == 4:
        for model in (together, *members):
            attach(model, weights=int4(), activations=int4())
    logits = together(ids)
    weights = normal(*logits.shape)
    grads = torch.autograd.grad(logits, list(together.parameters()), weights)
    for e, member in enumerate(members):
        alone = member(ids[e])
        torch.testing.assert_close(logits[e], alone, rtol=0, atol=1e-10)
        expected = torch.autograd.grad(alone, list(member.parameters()), weights[e])
        for got, want in zip(grads, expected, strict=True):
            torch.testing.assert_close(got[e], want, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("optim", ["adamw", "adopt"])
def test_a_pack_agrees_with_runs_alone(tiny: list[str], optim: str) -> None:
    each = [["seed=1"], ["quant.weights.bits=4"], ["quant.activations.bits=4"], ["optim.lr=0.003"]]
    base = [*tiny, *HYDRA, f"optim={optim}", "dtype=float64", "micro_batch=2"]
    runs = [compose([*base, *more]) for more in each]
    together = pack.Pack(runs, "cpu")
    pack.advance(together, set(range(4)), 5, lambda _: 1.0)
    for run, member in zip(runs, together.members, strict=True):
        state = fresh(run, "cpu")
        loop.advance(state, run, loop.batches_of(run), 5, lambda _: 1.0)
        for name, value in state.tensors().items():
            torch.testing.assert_close(member.tensors()[name], value, rtol=1e-5, atol=1e-8)


def test_hidden_tokens() -> None:
    ids = np.arange(40, dtype=np.uint8).reshape(2, 20) + 200
    hidden = hide(ids, 0.3, "a")
    assert ((hidden < 0).sum(1) == 6).all()  # equally many in every sequence
    assert np.array_equal(np.where(hidden < 0, ~hidden, hidden), ids)
    assert np.array_equal(hidden, hide(ids, 0.3, "a"))
    assert not np.array_equal(hidden, hide(ids, 0.3, "b"))
    assert not np.array_equal(hidden[0] < 0, hidden[1] < 0)
    assert ((hide(ids, 0.001, "a") < 0).sum(1) == 1).all()


def test_batches_are_hidden_by_seed_and_step_and_evaluation_is_the_same_for_all(
    tiny: list[str],
) -> None:
    one, other = compose([*tiny, *HYDRA]), compose([*tiny, *HYDRA, "quant.weights.bits=4"])
    batch = loop.batches_of(one).at(3)
    assert batch.shape == (4, 32)
    assert np.array_equal(batch, loop.batches_of(other).at(3))
    assert not np.array_equal(batch < 0, loop.batches_of(one).at(4) < 0)
    assert ((batch < 0).sum(1) == round(0.3 * 32)).all()
    again = compose([*tiny, *HYDRA, "seed=5", "size=20k"])
    assert torch.equal(held_out(one, "cpu"), held_out(again, "cpu"))
    assert ((held_out(one, "cpu") < 0).sum(1) == round(0.15 * 32)).all()


def test_the_loss_is_of_hidden_tokens_alone_and_they_are_not_seen() -> None:
    model, ids = made(), masked(2, 40)
    reads, targets = pairs(model, ids)
    assert ((targets == IGNORED) == (ids >= 0)).all()
    assert asked(targets).item() == pytest.approx(0.3)
    other = torch.where(ids < 0, ~((~ids + 7) % 64), ids)  # the same places, other tokens
    assert torch.equal(model(reads), model(pairs(model, other)[0]))
    causal, next_ones = pairs(nn.Identity(), ids.abs())
    assert torch.equal(causal, ids.abs()[:, :-1].long())
    assert torch.equal(next_ones, ids.abs()[:, 1:].long())


def test_rows_say_masked_and_no_fit_mixes_them(tiny: list[str], tmp_path: Path) -> None:
    for more in ([], HYDRA):
        row = train(compose([*tiny, *more]), tmp_path).row
        assert row["status"] == "finished"
    frame = load(tmp_path)
    assert set(frame["objective"]) == {"causal", "masked"}
    with pytest.raises(ValueError, match=r"different objectives \(causal, masked\)"):
        select(frame, law("chinchilla"))
    found = difference(frame, Store(tmp_path), *frame["run_id"])
    assert found["loss"]["difference"] is found["curve"] is None
    assert "of different objectives, not comparable" in difference_words(found)


def test_no_cache_no_kv_bits() -> None:
    with pytest.raises(ConfigError, match="kv.bits must be 16 with model=hydra_ssm, which has no"):
        compose(["model=hydra_ssm", "quant=low_precision"])
    run = compose(["model=hydra_ssm", "quant=low_precision", "quant.kv.bits=16"])
    assert run.quant.mode == "low_precision"


def test_start() -> None:
    model = made()
    dt = F.softplus(model.get_parameter("blocks.0.mixing.mixer.scan.dt_bias").detach())
    assert ((dt > 0.99e-3) & (dt < 0.101)).all()
    assert len(dt.unique()) == len(dt)
    assert not model.get_parameter("blocks.0.mixing.mixer.scan.A_log").any()
    assert (model.get_parameter("blocks.0.mixing.D.weight") == 1).all()


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"conv": 4}, "conv must be odd, as it looks to both sides, got 4"),
        ({"groups": 3}, "groups must divide the 4 heads, got 3"),
        ({"head_dim": 24}, r"head_dim must divide expand \* width=64, got 24"),
        ({"mixer": "cauchy"}, "mixer must be one of quasiseparable, semiseparable, attention"),
        ({"mask": 1.0}, "mask must be 0.01 to 0.99, got 1.0"),
    ],
)
def test_errors(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        spec_of(**fields).matrices(SIZE)


def test_resolved_replaces_rules_by_numbers() -> None:
    a = spec_of().resolved(SIZE)
    b = spec_of(layers=2, head_dim=16, state=16).resolved(SIZE)
    assert a.normal() == b.normal()
    one, two = (spec_of(mixer="toeplitz", groups=g).normal() for g in (1, 2))
    assert one == two  # groups do nothing there
