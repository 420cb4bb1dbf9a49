"""ADOPT: reference vectors, the formula, and the problem on which Adam goes to the wrong end."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from precisionlaws.config import ConfigError, build
from precisionlaws.optim.adopt import Adopt
from precisionlaws.optim.adopt_update import AdoptUpdate
from precisionlaws.overrides import option
from precisionlaws.run import compose
from precisionlaws.training import loop, pack
from precisionlaws.training.state import State, fresh, read, resume, save

ADOPT = ["optim=adopt", "optim.lr=0.01"]


def adopt(**fields: Any) -> Adopt:
    spec = build(option("optim", "adopt") | fields, Adopt)
    assert isinstance(spec, Adopt)
    return spec


def spec_of(kwargs: dict[str, Any]) -> Adopt:
    """Our config for the reference's arguments; its defaults are in the conf."""
    fields: dict[str, Any] = {"lr": kwargs["lr"], "weight_decay": kwargs.get("weight_decay", 0.0)}
    fields |= dict(zip(("beta1", "beta2"), kwargs.get("betas", ()), strict=False))
    fields |= {"decoupled": kwargs.get("decouple", False)}
    if "clip_lambda" in kwargs:
        assert kwargs["clip_lambda"] is None
        fields["clip_power"] = None
    if "eps" in kwargs:
        fields["eps"] = kwargs["eps"]
    return adopt(**fields)


@pytest.mark.golden
def test_golden_variants(goldens: Path) -> None:
    path = goldens / "arch" / "adopt.json"
    if not path.exists():
        pytest.skip(f"no {path}")
    facts, arrays = json.loads(path.read_text()), load_file(path.with_suffix(".safetensors"))
    cases = {n: c for n, c in facts["cases"].items() if "kwargs" in c}
    assert cases
    for name, case in cases.items():
        spec = spec_of(case["kwargs"])
        W, b = nn.Parameter(arrays["in.W0"].clone()), nn.Parameter(arrays["in.b0"].clone())
        optimizer = spec.update([{"params": [W, b], "weight_decay": spec.weight_decay}])
        for i, (x, y) in enumerate(zip(arrays["in.X"], arrays["in.Y"], strict=True)):
            loss = ((x @ W.T + b - y) ** 2).mean()
            assert loss.item() == pytest.approx(case["losses"][i], rel=1e-5), (name, i)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            for ours, key in ((W, "W_after"), (b, "b_after")):
                expected = arrays[f"{name}.{key}"][i]
                torch.testing.assert_close(ours.detach(), expected, rtol=1e-5, atol=1e-6)
        for key in ("exp_avg", "exp_avg_sq"):
            expected = arrays[f"{name}.{key}_W"]
            torch.testing.assert_close(optimizer.state[W][key], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("power", [0.25, None])
@pytest.mark.parametrize("decoupled", [True, False])
def test_equals_the_formula(power: float | None, decoupled: bool) -> None:
    """Number by number, in fp64, over parameters of which one gets its first gradient late."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(n, generator=generator, dtype=torch.float64) for n in (3, 2)]
    params = [nn.Parameter(t.clone()) for t in start]
    options = {"betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1, "lr": 0.05}
    optimizer = AdoptUpdate(params, clip_power=power, decoupled=decoupled, **options)
    expected, m, v = [t.clone() for t in start], [0.0, 0.0], [0.0, 0.0]
    t = [0, 0]
    for step in range(8):
        for i, p in enumerate(params):
            if step < 3 * i:
                p.grad = None
                continue
            g = torch.randn(p.shape, generator=generator, dtype=torch.float64) * 10 ** (step % 3)
            p.grad = g.clone()
            if not decoupled:
                g = g + 0.1 * expected[i]
            if t[i] == 0:
                v[i] = g**2
            else:
                if decoupled:
                    expected[i] = expected[i] * (1 - 0.05 * 0.1)
                n = g / torch.as_tensor(v[i]).sqrt().clamp(min=1e-3)
                if power is not None:
                    n = n.clamp(-(t[i] ** power), t[i] ** power)
                m[i] = 0.8 * m[i] + 0.2 * n
                expected[i] = expected[i] - 0.05 * m[i]
                v[i] = 0.9 * v[i] + 0.1 * g**2
            t[i] += 1
        optimizer.step()
        for p, q in zip(params, expected, strict=True):
            torch.testing.assert_close(p.detach(), q, rtol=1e-12, atol=1e-12)


def end(make: Any, steps: int, seeds: int = 16, k: int = 10) -> float:
    """Where an optimizer ends in [-1, 1] on a linear loss whose gradient is k² with probability 1/k and
    else -k: its mean is +1, so the best point is -1. The median over seeds."""
    theta = nn.Parameter(torch.zeros(seeds, dtype=torch.float64))
    optimizer = make([theta])
    rare = torch.rand(steps, seeds, generator=torch.Generator().manual_seed(0)) < 1 / k
    gradients = torch.where(rare, float(k**2), float(-k)).double()
    for t, g in enumerate(gradients, 1):
        theta.grad = g
        optimizer.param_groups[0]["lr"] = 0.1 / t**0.5
        optimizer.step()
        theta.data.clamp_(-1, 1)
    return theta.detach().median().item()


def test_it_finds_the_end_that_adam_misses() -> None:
    """With beta2 = .5 Adam shrinks every rare large gradient by itself, and the common small ones win."""
    betas, steps = (0.9, 0.5), 20_000
    assert end(lambda p: torch.optim.Adam(p, betas=betas, fused=True), steps) > 0.9
    assert end(lambda p: AdoptUpdate(p, betas=betas, clip_power=None), steps) < -0.9


@pytest.mark.slow
@pytest.mark.parametrize("beta2", [0.1, 0.5, 0.9, 0.99, 0.999])
def test_it_converges_with_every_beta2(beta2: float) -> None:
    betas, steps = (0.9, beta2), 50_000
    adam = end(lambda p: torch.optim.Adam(p, betas=betas, fused=True), steps)
    assert adam > 0.9 if beta2 <= 0.9 else adam < 0.0
    assert end(lambda p: AdoptUpdate(p, betas=betas, clip_power=None), steps) < -0.9
    assert end(lambda p: AdoptUpdate(p, betas=betas), steps) < -0.3  # the clamp slows it


def trained(run: Any, steps: int, state: State | None = None) -> State:
    state = state or fresh(run, "cpu")
    loop.advance(state, run, loop.batches_of(run), steps, lambda step: 1 - step / 20)
    return state


@pytest.mark.parametrize("more", [[], ["optim.clip_power=null", "optim.decoupled=false"]])
def test_a_resumed_run_has_the_same_bits(tiny: list[str], more: list[str], tmp_path: Path) -> None:
    run = compose([*tiny, *ADOPT, *more])
    whole, first = trained(run, 12), trained(run, 5)
    save(first, tmp_path / "half", "facts")
    second = fresh(run, "cpu")
    assert resume(second, tmp_path / "half", "facts")
    trained(run, 12, second)
    assert read(tmp_path / "half")[1]["step"] == "5"
    for name, value in whole.tensors().items():
        assert torch.equal(value, second.tensors()[name]), name


def test_step_zero_moves_nothing(tiny: list[str]) -> None:
    run = compose([*tiny, *ADOPT])
    start, state = fresh(run, "cpu"), trained(run, 1)
    for name, value in start.model.state_dict().items():
        assert torch.equal(value, state.model.state_dict()[name]), name
    assert len(state.optimizer.state_dict()["state"]) == len(list(state.model.parameters()))


def test_a_pack_agrees_with_runs_alone(tiny: list[str]) -> None:
    each = [["seed=1"], ["optim.weight_decay=0.3"], ["quant.weights.bits=4"], ["optim.clip=0.1"]]
    runs = [compose([*tiny, *ADOPT, "dtype=float64", *more]) for more in each]
    together = pack.Pack(runs, "cpu")
    pack.advance(together, set(range(4)), 6, lambda step: 1 - step / 20)
    for run, member in zip(runs, together.members, strict=True):
        for name, value in trained(run, 6).tensors().items():
            torch.testing.assert_close(member.tensors()[name], value, rtol=1e-5, atol=1e-8, msg=name)  # fmt: skip


def test_decay_in_the_gradient_is_not_for_packs() -> None:
    assert compose(ADOPT).optimizer.elementwise
    assert not compose([*ADOPT, "optim.decoupled=false"]).optimizer.elementwise
    without = compose([*ADOPT, "optim.decoupled=false", "optim.weight_decay=0"]).optimizer
    assert without.elementwise
    assert without.normal() == compose([*ADOPT, "optim.weight_decay=0"]).optimizer.normal()


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"clip_power": 2}, "clip_power must be 0 to 1, got 2"),
        ({"beta2": 1.0}, "beta2 must be 0 to"),
        ({"decoupled": "maybe"}, "decoupled must be true or false, got 'maybe'"),
    ],
)
def test_errors(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        adopt(**fields)
