"""Laws that every format of conf/format obeys, found by globbing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from precisionlaws.config import ConfigError, build, normal_json
from precisionlaws.kernels import numbers
from precisionlaws.overrides import option
from precisionlaws.quant import fake_quantize
from precisionlaws.quant.formats.base import Format
from precisionlaws.quant.formats.nvfp4 import Nvfp4
from precisionlaws.quant.formats.scaled import Scaled
from precisionlaws.run import compose

CONF = Path(__file__).resolve().parents[2] / "conf" / "format"
NAMES = sorted(p.stem for p in CONF.glob("*.yaml"))
LEVELS = {"ternary": 3, "mxfp4": 15, "nvfp4": 15, "fp4": 15, "fp6": 63, "fp6_e2m3": 63, "fp8": 253,
          "fp8_e5m2": 247, "mxfp6": 63, "mxfp6_e2m3": 63, "mxfp8": 253, "mxfp8_e5m2": 247, "mxint8": 255,
          "int4": 15, "int8": 255}  # fmt: skip


def made(name: str, **fields: Any) -> Format:
    """The format; one whose width is a dial and off, at 4 bits."""
    node = option("format", name)
    if node.get("bits") == 16:
        fields = {"bits": 4} | fields
    spec = build(node | fields, Format)
    assert isinstance(spec, Format)
    return spec


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


every = pytest.mark.parametrize("name", NAMES)


@every
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), power=st.integers(-20, 20), heavy=st.booleans())
def test_laws_of_rounding(name: str, seed: int, power: int, heavy: bool) -> None:
    f, x = made(name), normal(6, 64, seed=seed)
    x = (x**3 if heavy else x) * 2.0**power
    y, s = fake_quantize(x, f), f.scales(x)
    assert torch.equal(
        f.round(x, s), y
    )  # also for stochastic rounding, where no gradient is asked for
    assert torch.equal(f.round(y, s), y)  # idempotent
    if f.ODD:
        assert torch.equal(fake_quantize(-x, f), -y)
    assert torch.equal(fake_quantize(x * 8, f), y * 8)  # scales with powers of two
    order = x[0, :16].argsort()
    assert (y[0, :16][order].diff() >= 0).all()  # monotone within a group


@every
def test_no_other_number_of_the_group_is_nearer(name: str) -> None:
    f, x = made(name), normal(4, 64)
    s = f.scales(x)
    error = (f.round(x, s) - x).abs()
    for seed in range(1, 60):
        other = f.round(normal(4, 64, seed=seed) * (1 if seed % 2 else 0.2), s)
        assert (error <= (other - x).abs() * (1 + 1e-5) + 1e-7).all()


def grid(f: Format, x: Tensor) -> Tensor:
    """(..., groups, 1, levels): all numbers that `f` has for each group of `x`, from its definition."""
    s = f.scales(x)
    if not f.ODD:
        s, zero = s.unbind(-1)
        steps = torch.arange(2 ** int(f.bits)) - zero.unsqueeze(-1)
    else:
        if isinstance(f, Nvfp4):
            s = s.prod(-1)
            magnitudes = numbers.numbers(*numbers.float_type(2, 1, "none"))
        else:
            magnitudes = torch.tensor(f.magnitudes()) if isinstance(f, Scaled) else numbers.numbers(*f.type())  # type: ignore[attr-defined]  # fmt: skip
        steps = torch.cat([-magnitudes.flip(0), magnitudes])
    return (steps.double() * s.double().unsqueeze(-1)).unsqueeze(-2)


@every
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), power=st.integers(-30, 30), heavy=st.booleans())
def test_every_value_becomes_the_nearest_number_of_its_group(
    name: str, seed: int, power: int, heavy: bool
) -> None:
    """Within the range an error is thus at most half a step; there are no more levels than bits allow."""
    f, x = made(name), normal(3, 64, seed=seed)
    x = (x**3 if heavy else x) * 2.0**power
    x[0, ::7], x[1, ::5] = 0.0, -0.0
    y, levels = fake_quantize(x, f), grid(f, x)
    v, q = (t.view(*levels.shape[:-2], -1, 1).double() for t in (x, y))
    least = (v - levels).abs().amin(-1)
    slack = (
        1e-6 * v.abs().amax((-2, -1), keepdim=True)[..., 0]
    )  # fp32's, in the scale and the product
    assert ((v - q).abs()[..., 0] <= least + slack).all()
    assert ((q - levels).abs().amin(-1) <= slack).all()
    assert levels.shape[-1] <= 2 * 2**f.bits
    if f.ODD:
        still = (x == 0) & (y == 0)
        assert torch.equal(y.signbit()[still], x.signbit()[still])


@every
def test_levels(name: str) -> None:
    """As many numbers as the bits say, and no more: a group that holds its largest reaches them all."""
    f = made(name, group=4096) if "group" in option("format", name) else made(name)
    x = torch.linspace(-1, 1, 4096)
    x = 1.999 * torch.cat([x[:2048], x[2048:] ** 9]).view(1, -1)  # just below 2, for MX
    found = len(fake_quantize(x, f).unique())
    assert found <= round(2**f.bits, 1)
    if name in LEVELS and LEVELS[name] < 100:
        assert found == LEVELS[name]


@every
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), token=st.integers(1, 7), power=st.integers(3, 20))
def test_nothing_looks_ahead(name: str, seed: int, token: int, power: int) -> None:
    """A scale of activations is of one token, unless the format says that it spans the tensor."""
    f, x = made(name), normal(2, 8, 64, seed=seed)
    later = x.clone()
    later[:, token:] = normal(2, 8 - token, 64, seed=seed + 1) * 2.0**power
    same = torch.equal(fake_quantize(x, f)[:, :token], fake_quantize(later, f)[:, :token])
    assert same == (not f.whole_tensor)


@every
def test_bad_tensors(name: str) -> None:
    f = made(name)
    x = normal(64, 5, 3).permute(1, 2, 0)
    assert torch.equal(fake_quantize(x, f), fake_quantize(x.contiguous(), f))
    assert fake_quantize(torch.empty(0, 64), f).shape == (0, 64)
    assert fake_quantize(torch.empty(2, 64, device="meta"), f).device.type == "meta"
    assert fake_quantize(x.double(), f).dtype == torch.float64
    assert (fake_quantize(torch.zeros(2, 64), f) == 0).all()
    bad = normal(2, 64)
    bad[1, 2] = torch.nan
    assert fake_quantize(bad, f)[1, :16].isnan().all()
    bad[1, 2] = -torch.inf
    assert fake_quantize(bad, f)[1, :16].isnan().all()
    with pytest.raises(ConfigError, match=r"^a tensor is needed, got list"):
        fake_quantize([1.0, 2.0], f)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"is needed, got torch.float8_e5m2, which is rounded already"):  # fmt: skip
        fake_quantize(torch.ones(2, 64).to(torch.float8_e5m2), f)
    with pytest.raises(ConfigError, match=r"a tensor of floating point is needed, got torch.int64"):
        fake_quantize(torch.ones(2, 64, dtype=torch.int64), f)
    with pytest.raises(ConfigError, match=r"a tensor with axes is needed, got a single number"):
        fake_quantize(torch.ones(()), f)


@every
def test_gradient_is_that_of_the_identity_within_the_bound(name: str) -> None:
    f, x, g = made(name), normal(4, 64).requires_grad_(), normal(4, 64, seed=2)
    (got,) = torch.autograd.grad(fake_quantize(x, f), x, g)
    if getattr(f, "estimator", "ste") == "ste":
        assert torch.equal(got, g)
    else:
        kept = x.detach().abs() <= f.bound * f.scales(x.detach()).unsqueeze(-1)  # type: ignore[attr-defined]
        assert torch.equal(got, g * kept)
        assert 0 < kept.sum() < kept.numel()


@every
def test_groups_must_divide(name: str) -> None:
    node = option("format", name)
    if "group" in node:
        fields = {"granularity": "group"}
        with pytest.raises(ConfigError, match=r"group must divide the 40 values of the last axis"):
            fake_quantize(normal(2, 40), made(name, group=32, **fields))


@pytest.mark.parametrize("name", [n for n in NAMES if "bits" not in option("format", n)])
def test_bits_of_a_fixed_width_are_refused_with_the_override_that_is_meant(name: str) -> None:
    with pytest.raises(ConfigError, match=r"quant.weights.bits: no such field: .* format@quant.weights=int quant.weights.bits="):  # fmt: skip
        compose([f"format@quant.weights={name}", "quant.weights.bits=4"])


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["float", "bits=2"], "quant.weights.bits must be 3 to 12, or 16 for off, got 2"),
        (["fp8", "bits=4"], "quant.weights.exponent must be 1 to 3 with bits=4, got 4"),
        (["int_asym", "bits=1"], "quant.weights.bits must be 2 to 15, or 16 for off, got 1"),
        (["nvfp4", "outer=block"], "quant.weights.outer must be one of tensor, row, none, got block"),
        (["mxfp4", "element=e2m2"], "quant.weights.element must be one of e4m3, e5m2"),
        (["mxfp4", "group=24"], "quant.weights.group must divide the 32 values of blocks.0.attn.q, got 24"),
    ],
)  # fmt: skip
def test_errors(overrides: list[str], text: str) -> None:
    name, *fields = overrides
    with pytest.raises(ConfigError, match=f"^{text}"):
        compose([f"format@quant.weights={name}", *(f"quant.weights.{f}" for f in fields)])


def test_a_scale_over_all_activations_needs_the_batches_in_the_run() -> None:
    with pytest.raises(ConfigError, match=r"quant.activations.outer=tensor makes the loss depend"):
        compose(["format@quant.activations=nvfp4"])
    compose(["format@quant.activations=nvfp4", "micro_batch=8", "eval_batch=8"])
    compose(["format@quant.activations=nvfp4", "quant.activations.outer=row"])


def test_equal_numbers_have_one_normal_form() -> None:
    assert normal_json(made("fp8", specials="nan")) == normal_json(made("fp8"))
    assert normal_json(made("float", bits=8)) == normal_json(made("fp8_e5m2"))
    assert normal_json(made("float", bits=8)) != normal_json(made("fp8"))
    assert normal_json(made("float", bits=16)) == normal_json(made("int", bits=16)) == ""
    assert normal_json(made("mxfp8", element="e2m1")) == normal_json(made("mxfp4"))


@pytest.mark.parametrize(
    ("name", "fields", "expected"),
    [
        ("mxfp4", {}, 4.25),
        ("mxfp8", {}, 8.25),
        ("nvfp4", {"outer": "none"}, 4.5),
        ("nvfp4", {}, 4.5 + 32 / 4096),
        ("nvfp4", {"outer": "row"}, 4.5 + 32 / 64),
        ("fp8", {}, 8 + 16 / 64),
        ("int_asym", {"granularity": "group"}, 4 + (16 + 4) / 16),
        ("ternary", {"granularity": "tensor"}, (8 * 820 + 16) / 4096),
    ],
)
def test_effective_bits_count_what_is_stored(
    name: str, fields: dict[str, Any], expected: float
) -> None:
    assert made(name, **fields).bits_effective([("w", 64, 64)]) == expected


def test_widths_of_the_paper() -> None:
    """Kumar et al. 2024, appendix N."""
    layouts = {b: made("float", bits=b).layout[:2] for b in (3, 4, 5, 6, 7, 8, 12)}  # type: ignore[attr-defined]
    assert layouts == {3: (2, 0), 4: (3, 0), 5: (3, 1), 6: (3, 2), 7: (4, 2), 8: (5, 2), 12: (5, 6)}
