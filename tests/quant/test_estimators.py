"""Gradients through rounding: equal to reference vectors, and to their definitions."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from precisionlaws.config import build, normal_json
from precisionlaws.kernels import hadamard, scaled
from precisionlaws.overrides import option
from precisionlaws.quant import fake_quantize
from precisionlaws.quant.estimators import learned_scale, straight_through, within
from precisionlaws.quant.formats.scaled import Scaled

# Published for QuEST, with clips that drift from the optimum at 4 bits and more.
CLIPS = {1: 0.7978845587140913, 2: 1.4935346200015913, 3: 2.051068354131873, 4: 2.513930578568423,
         8: 3.884938678807525}  # fmt: skip


def made(name: str, **fields: Any) -> Scaled:
    spec = build(option("format", name) | fields, Scaled)
    assert isinstance(spec, Scaled)
    return spec


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def vectors(goldens: Path) -> Mapping[str, Tensor]:
    with np.load(goldens / "quant_goldens.npz") as file:
        keys = [k for k in file.files if k.split("/")[0] in ("grad", "had", "quest")]
        return {k: torch.from_numpy(file[k]) for k in keys}


@pytest.mark.golden
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_lsq(bits: int, vectors: Mapping[str, Tensor]) -> None:
    x, where = vectors["grad/x"].clone().requires_grad_(), f"grad/lsq/{bits}"
    s = vectors[f"{where}/s"].view(1).requires_grad_()
    y = learned_scale(x, s, torch.round, -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1, None)
    dx, ds = torch.autograd.grad(y, (x, s), vectors["grad/gy"])
    assert torch.equal(y, vectors[f"{where}/y"])
    assert torch.equal(dx, vectors[f"{where}/dx"])
    torch.testing.assert_close(ds.squeeze(), vectors[f"{where}/ds"], rtol=1e-5, atol=1e-7)


@pytest.mark.golden
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_clipped_straight_through(bits: int, vectors: Mapping[str, Tensor]) -> None:
    x, where = vectors["grad/x"].clone().requires_grad_(), f"grad/clipste/{bits}"
    one = vectors[f"{where}/clip"].view(1)
    quantize = within(lambda x: (x.round(), x.abs() <= one), torch.round)
    (dx,) = torch.autograd.grad(quantize(x), x, vectors["grad/gy"])
    assert torch.equal(dx, vectors[f"{where}/dx"])


@pytest.mark.golden
@pytest.mark.parametrize("bits", CLIPS)
def test_quest(bits: int, vectors: Mapping[str, Tensor]) -> None:
    """Rotated by blocks of 128, midrise, and the mask of its gradient."""
    h, steps = hadamard.rotate(vectors["had/x"], 128), 2**bits - 1
    s = 2 * (CLIPS[bits] * h.square().mean(-1).sqrt() + 1e-8) / steps
    f = replace(made("quest"), bits=bits)  # type: ignore[call-arg]
    y, mask = scaled.rounded_within(h, s, 0, 0, steps / 2, 128, f.bound, midrise=True)
    assert (y - vectors[f"quest/{bits}/y_rot"]).abs().max() <= 2e-6
    assert (hadamard.rotate(y, 128) - vectors[f"quest/{bits}/y"]).abs().max() <= 2e-6
    assert torch.equal(mask.byte(), vectors[f"quest/{bits}/mask"])


@pytest.mark.parametrize("name", ["int", "float", "midrise", "ternary"])
@pytest.mark.parametrize("scale", ["gaussian", "mse", "absmax", "power_of_two"])
@pytest.mark.parametrize("estimator", ["ste", "clip", "trust"])
def test_gradients_are_cut_where_the_estimator_says(name: str, scale: Any, estimator: Any) -> None:
    width = {"int": {"bits": 3}, "midrise": {"bits": 2}, "float": {"bits": 4, "exponent": 2}}.get(
        name, {}
    )
    f = made(name, **width, scale=scale, estimator=estimator)
    x = (normal(6, 64) ** 3).requires_grad_()
    y = fake_quantize(x, f)
    (dx,) = torch.autograd.grad(y, x, torch.ones_like(x))
    v = x.detach() / f.scales(x.detach()).unsqueeze(-1)
    if estimator == "ste" or scale in ("absmax", "power_of_two"):
        assert (dx == 1).all()
        assert scale not in ("absmax", "power_of_two") or (v.abs() <= f.largest * (1 + 1e-6)).all()
        return
    top = torch.tensor(f.magnitudes(), dtype=torch.float64)
    half = float(top[-1] - top[-2]) / 2 if name != "ternary" else 0.5
    limit = f.largest + half * (estimator == "trust")
    assert torch.equal(dx.bool(), v.abs() <= limit)
    assert 0 < dx.sum() < dx.numel() or (name, scale) == ("float", "mse")


def test_estimators_under_a_scale_that_clips_nothing_are_one_run() -> None:
    assert normal_json(made("int", bits=4, estimator="clip")) == normal_json(made("int", bits=4))
    clipped = {"bits": 4, "scale": "gaussian"}
    forms = {normal_json(made("int", **clipped, estimator=e)) for e in ("ste", "clip", "trust")}
    assert len(forms) == 3


@pytest.mark.parametrize("name", ["int", "float"])
@pytest.mark.parametrize("granularity", ["tensor", "row", "group"])
def test_the_gradient_of_a_learned_scale_is_the_slope_of_the_loss(
    name: str, granularity: Any
) -> None:
    """Where no value crosses to another code: the derivative by differences, over the paper's divisor."""
    f = made(name, bits=4, granularity=granularity, scale="learned", estimator="lsq")
    x, g = normal(6, 64).double(), normal(6, 64, seed=1).double()
    s = f.scales(x).requires_grad_()
    y = f.learned(x, s)
    (ds,) = torch.autograd.grad(y, s, g)
    group = f.length(x) or x.numel()
    v = x.reshape(*s.shape, -1) / s.detach().unsqueeze(-1)
    held = v.abs() < f.largest
    # d(q s)/ds = q for fixed codes; straight through, inside, -v more.
    slope = (g.reshape(v.shape) * ((y.detach().reshape(v.shape) / s.detach().unsqueeze(-1)) - v * held)).sum(-1)  # fmt: skip
    torch.testing.assert_close(ds, slope / (group * f.largest) ** 0.5)


def test_where_no_gradient_is_asked_for_none_is_made() -> None:
    calls: list[str] = []
    quantize = straight_through(
        lambda x: calls.append("a") or x + 1, lambda x: calls.append("b") or x
    )
    assert quantize(torch.ones(2)).grad_fn is None
    with torch.no_grad():
        quantize(torch.ones(2, requires_grad=True))
    assert quantize(torch.ones(2, requires_grad=True)).requires_grad
    assert calls == ["b", "b", "a"]
