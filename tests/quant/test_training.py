"""What quantizers do in a training: rotations, learned scales, noise, gradients, and when it begins."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precisionlaws.config import ConfigError, build
from precisionlaws.kernels import hadamard
from precisionlaws.kernels.philox import uniform_like
from precisionlaws.models.parts import Decoder
from precisionlaws.overrides import option
from precisionlaws.ptq.base import Ptq
from precisionlaws.quant import attach, fake_quantize
from precisionlaws.quant.attachment import Quantizer, QuantLinear, Rounder, weights_quantized_once
from precisionlaws.quant.formats.base import Format
from precisionlaws.quant.noise import Clock, Noise
from precisionlaws.run import RunConfig, compose, run_id, trunk_id
from precisionlaws.store import Store
from precisionlaws.sweep.points import allowed
from precisionlaws.training.loop import advance, batches_of
from precisionlaws.training.state import State, fresh
from precisionlaws.training.train import execute
from precisionlaws.training.unit import train_runs

PRINT = "0" * 64  # fingerprint
OWN = [*["quant.weights.scale=learned", "quant.weights.estimator=lsq"], "quant.weights.bits=3"]


def fmt(name: str, **fields: Any) -> Format:
    spec = build(option("format", name) | fields, Format)
    assert isinstance(spec, Format)
    return spec


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def trained(run: RunConfig, to: int, state: State | None = None) -> State:
    state = state or fresh(run, "cpu")
    advance(state, run, batches_of(run), to, lambda s: run.lr_schedule.factor(s, run.steps))
    return state


def losses(state: State) -> list[float]:
    return state.log_table()[:, 1].tolist()


def test_a_rotation_alone_changes_nothing_and_quantizes_the_rotated(tiny: list[str]) -> None:
    net = nn.Sequential(nn.Linear(96, 8), nn.ReLU(), nn.Linear(8, 4))
    x, w, b = (
        normal(5, 96),
        net.get_parameter("0.weight").detach().clone(),
        net.get_parameter("0.bias"),
    )
    before = net(x)
    f = fmt("int", bits=4)
    attach(net, weights=f, activations=fmt("int", bits=8), rotation="hadamard")
    wq = fake_quantize(hadamard.rotate(w, 32), f)
    xq = fake_quantize(hadamard.rotate(x, 32), fmt("int", bits=8))
    first = net.get_submodule("0")
    assert torch.equal(first(x), F.linear(xq, wq, b))
    fine = attach(net, weights=fmt("int", bits=15), rotation="hadamard")
    assert (fine(x) - before).abs().max() < 1e-3


@pytest.mark.parametrize("role", ["weights", "activations"])
def test_both_operands_are_rotated_though_one_is_quantized(tiny: list[str], role: str) -> None:
    run = compose([*tiny, f"quant.{role}.bits=15", "quant.rotation=hadamard"])
    plain, turned = fresh(compose(tiny), "cpu").model, fresh(run, "cpu").model
    ids = torch.randint(256, (2, 20), generator=torch.Generator().manual_seed(0))
    assert (plain(ids) - turned(ids)).abs().max() < 5e-3
    layers = [m for m in turned.modules() if isinstance(m, (QuantLinear, Quantizer))]
    assert len([m for m in layers if isinstance(m, Quantizer)]) == 8
    assert all(m.rounder.block == 16 for m in layers)


def test_a_rotation_names_a_run_only_where_something_rotates() -> None:
    def name(*overrides: str) -> str:
        return run_id(compose(overrides), PRINT)

    assert name("quant.rotation=hadamard") == name()
    assert name("quant.kv.bits=4", "quant.rotation=hadamard") == name("quant.kv.bits=4")
    assert name("quant=qat", "quant.rotation=hadamard") != name("quant=qat")
    assert name("quant=qat", "quant.gradients.bits=8") != name("quant=qat")
    assert name("quant=qat", "quant.start=0") == name("quant=qat")
    assert name("quant.start=0.5") == name()


def test_quantization_begins_at_its_share_of_the_tokens(tiny: list[str]) -> None:
    late = compose([*tiny, "quant=qat", "quant.weights.bits=3", "quant.start=0.5"])
    assert (late.steps, late.quantized_from) == (20, 10)
    plain = losses(trained(compose(tiny), 20))
    at_once = losses(trained(compose([*tiny, "quant=qat", "quant.weights.bits=3"]), 20))
    half = losses(trained(late, 20))
    assert half[:10] == plain[:10]
    assert half[10] != plain[10]
    assert half[10:] != at_once[10:]


def test_trunks_are_shared_where_quantization_begins_at_one_step() -> None:
    def trunk(*overrides: str) -> str:
        return trunk_id(compose(["quant=qat", *overrides]), PRINT)

    assert trunk("tokens=1M", "quant.start=0.5") != trunk("tokens=2M", "quant.start=0.5")
    assert trunk("tokens=1M", "quant.start=0.5") == trunk("tokens=2M", "quant.start=0.25")
    assert trunk("tokens=1M") == trunk("tokens=2M")


def test_a_learned_scale_learns_and_starts_where_the_paper_says(tiny: list[str]) -> None:
    run = compose([*tiny, *OWN])
    state = fresh(run, "cpu")
    name, rounder = next((n, m) for n, m in state.model.named_modules() if isinstance(m, Rounder))
    weight = state.model.get_parameter(name.removesuffix("rounder") + "weight").detach().clone()
    assert rounder.log_scale is not None
    assert rounder.log_scale.shape == (16,)
    assert rounder.log_scale.isnan().all()
    trained(run, 1, state)
    start = (2 / 3**0.5 * weight.abs().mean(-1)).log()
    moved = (rounder.log_scale - start).abs()  # by at most the learning rate of the first step
    assert 0 < moved.max() <= run.optimizer.lr * 1.01  # type: ignore[operator]
    decayed = state.optimizer.param_groups[0]["params"]
    assert not any(p is rounder.log_scale for p in decayed)
    trained(run, 20, state)
    assert all(torch.tensor(losses(state)).isfinite())
    assert losses(state)[-1] < losses(state)[0]


@pytest.mark.parametrize(
    "overrides",
    [
        OWN,
        [*OWN, "quant.start"],
        ["format@quant.weights=int8", "quant.weights.rounding=stochastic", "micro_batch=2"],
        ["quant=quartet", "quant.weights.group=16", "quant.activations.group=16", "quant.gradients.group=16"],
        ["quant=quest", "quant.start"],
    ],
)  # fmt: skip
def test_a_branch_equals_the_run_trained_alone(
    tiny: list[str], overrides: list[str], tmp_path: Path
) -> None:
    """Noise, learned scales and the beginning are functions of the state and the step."""
    exec: Any = build(option("exec", "default"))
    starts = (
        {2560: 0.5, 5120: 0.25} if "quant.start" in overrides else dict.fromkeys((2560, 5120), 0)
    )
    own = [o for o in overrides if o != "quant.start"]
    runs = [compose([*tiny, *own, f"tokens={t}", f"quant.start={s}"]) for t, s in starts.items()]
    together = Store(tmp_path / "together")
    train_runs(runs, together, exec)
    for run in runs:
        alone = Store(tmp_path / f"alone{run.D}")
        execute(run, alone, exec)
        for store in (together, alone):
            assert store.has(run_id(run))
        path = "checkpoint.safetensors"
        pair = [(s.run(run_id(run)) / path).read_bytes() for s in (together, alone)]
        assert pair[0] == pair[1]


def test_noise_is_a_function_of_seed_step_tensor_and_call() -> None:
    x = normal(4, 32)

    def draws(seed: int = 0, step: int = 0, name: str = "a") -> list[Tensor]:
        noise = Noise(Clock(seed, step), name)
        return [uniform_like(x, noise.draw()) for _ in range(2)]

    first = draws()
    assert all(torch.equal(a, b) for a, b in zip(first, draws(), strict=True))
    different = [*first, *draws(seed=1), *draws(step=1), *draws(name="b")]
    assert len({float(u.sum()) for u in different}) == 8


@pytest.mark.parametrize("name", ["int", "fp4", "mxfp4", "nvfp4"])
def test_stochastic_rounding_is_unbiased_in_training_and_nearest_in_evaluation(name: str) -> None:
    f = fmt(name, rounding="stochastic", **({"bits": 4} if name == "int" else {}))
    nearest = fmt(name, **({"bits": 4} if name == "int" else {}))
    x = normal(2, 32).requires_grad_()
    quantize = f.quantizer(Noise(Clock(), name))
    draws = torch.stack([quantize(x).detach() for _ in range(400)])
    bias = draws.double().mean(0) - x.detach()
    spread = draws.double().std(0)
    inside = spread > 0  # the largest values of a group may be clipped
    assert (bias.abs() <= 4.5 * spread / 20 + 1e-6)[inside].all()
    assert inside.float().mean() > 0.8
    with torch.no_grad():
        assert torch.equal(quantize(x), fake_quantize(x, nearest))


def test_gradients_are_rounded_in_the_backward_pass_and_only_there() -> None:
    net, x, f = nn.Linear(64, 32, bias=False), normal(5, 64), fmt("int", bits=3)
    g = normal(5, 32, seed=1)
    expected = fake_quantize(g, f)
    y = net(x)
    quantized = attach(net, gradients=f)
    assert torch.equal(quantized(x), y)
    leaf = x.clone().requires_grad_()
    quantized(leaf).backward(g)
    assert torch.equal(leaf.grad, expected @ net.weight)  # type: ignore[arg-type]
    assert torch.equal(net.weight.grad, expected.T @ x)  # type: ignore[arg-type]


def test_gradients_in_a_model_of_ours(tiny: list[str]) -> None:
    run = compose([*tiny, "quant.gradients.bits=8"])
    plain, rough = trained(compose(tiny), 20), trained(run, 20)
    assert losses(rough)[0] == losses(plain)[0]
    assert losses(rough)[1:] != losses(plain)[1:]
    assert abs(losses(rough)[-1] - losses(plain)[-1]) < 0.1
    assert (run.quant.label(), run.quant.mode) == ("g8", "low_precision")


def test_micro_batches_have_noise_of_their_own(tiny: list[str]) -> None:
    """Weights are rounded once per step, activations once per micro-batch."""
    model = fresh(compose([*tiny, "format@quant.activations=int8",
                           "quant.activations.rounding=stochastic", "quant=qat"]), "cpu").model  # fmt: skip
    assert isinstance(model, Decoder)
    ids = torch.randint(256, (2, 20), generator=torch.Generator().manual_seed(0))
    with weights_quantized_once(model):
        assert not torch.equal(model(ids), model(ids))


def test_ptq_of_a_rotated_run_is_refused() -> None:
    ptq = build(option("ptq", "rtn"), Ptq)
    assert isinstance(ptq, Ptq)
    rotated = ["quant.activations.bits=8", "quant.rotation=hadamard"]
    with pytest.raises(ConfigError, match=r"ptq=rtn of a run with quant.rotation=hadamard"):
        allowed(compose(rotated), ptq)
    allowed(compose(["quant.rotation=hadamard"]), ptq)  # nothing is rotated


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (
            ["quant.kv.bits=4", "quant.kv.scale=learned", "quant.kv.estimator=lsq"],
            r"quant.kv.scale must not be learned but with granularity=tensor",
        ),
        (
            [*[f"quant.gradients.{f}" for f in ("bits=4", "scale=learned", "estimator=lsq", "granularity=tensor")]],
            r"quant.gradients.scale must not be learned \(a parameter",
        ),
        (["quant.start=1"], "quant.start must be 0 to 0.99, got 1"),
        (["quant=quartet"], "group must divide"),
    ],
)  # fmt: skip
def test_errors(overrides: list[str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        compose(["size=7k", *overrides])


def test_a_learned_scale_of_activations_is_one_number_of_the_place(tiny: list[str]) -> None:
    fields = ("bits=4", "scale=learned", "estimator=lsq", "granularity=tensor")
    run = compose([*tiny, *(f"quant.activations.{f}" for f in fields)])  # needs no micro_batch
    state = trained(run, 20)
    learned = [p for n, p in state.model.named_parameters() if n.endswith("log_scale")]
    assert len(learned) == 8
    assert all(p.shape == (1,) and p.isfinite().all() for p in learned)
    assert losses(state)[-1] < losses(state)[0]
