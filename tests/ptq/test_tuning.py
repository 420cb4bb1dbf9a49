"""Fine-tuning after QuIP#: closer to the model as it was on tokens it never saw, and stored exactly."""

import functools

import pytest
import torch
from torch import nn

from precisionlaws import ptq
from precisionlaws.config import ConfigError, build
from precisionlaws.models.base import Model, Size
from precisionlaws.models.parts import initialize, linears
from precisionlaws.overrides import option
from precisionlaws.ptq import tuning
from precisionlaws.ptq.application import method_of
from precisionlaws.ptq.base import Quantized, eval_id
from precisionlaws.ptq.calibration import calibrate
from precisionlaws.ptq.descent import HELD_OUT, descend
from precisionlaws.ptq.ldlq import proxy
from precisionlaws.quant import attach
from precisionlaws.quant.formats.base import Format

SPEC = functools.partial(method_of, "quip_sharp", bits=2)
MODES = ("blocks", "end_to_end", "both")


def model(name: str = "llama") -> nn.Module:
    spec = build(option("model", name), Model)
    assert isinstance(spec, Model)
    made = spec.build(Size(depth=1, width=32, heads=2), 64, 16)
    initialize(made, 0)
    return made


def tokens(n: int = 24, seed: int = 0) -> torch.Tensor:
    return torch.randint(64, (n, 16), generator=torch.Generator().manual_seed(seed))


@functools.cache
def quantized(finetune: str) -> tuple[nn.Module, dict[str, Quantized]]:
    made = model()
    calibration = calibrate(made, tokens().numpy())
    return made, ptq.quantize_model(made, SPEC(finetune=finetune), 0, calibration)


@torch.no_grad()
def divergence(made: nn.Module) -> float:
    """From the model before, on tokens that nothing saw"""
    new = tokens(64, 1)
    wanted = model()(new).log_softmax(-1)
    return (wanted.exp() * (wanted - made(new).log_softmax(-1))).sum(-1).mean().item()


@pytest.mark.parametrize("finetune", MODES)
def test_predictions_come_closer(finetune: str) -> None:
    made, out = quantized(finetune)
    assert divergence(made) < 0.95 * divergence(quantized("none")[0])
    for q in out.values():
        assert q.info["divergence"] < q.info["divergence_untuned"]


@pytest.mark.parametrize("finetune", MODES)
def test_payloads_say_it_all(finetune: str) -> None:
    made, out = quantized(finetune)
    before = dict(linears(model()))
    H = calibrate(model(), tokens().numpy()).hessians
    for name, linear in linears(made):
        q, W = out[name], before[name].weight.detach().double()
        assert torch.equal(SPEC().decode(q.payload, q.weight.shape), q.weight)
        assert torch.equal(linear.weight, q.weight)
        assert not q.weight.requires_grad
        rows, columns = W.shape
        assert q.bits.effective == pytest.approx(2 + 16 * (1 + rows + columns) / (rows * columns))
        reached = proxy(q.weight.double() - W, H[name]) / proxy(W, H[name])
        assert q.info["relative_proxy"] == pytest.approx(reached, rel=1e-6)
    for name in ("embed.weight", "head.weight"):
        assert torch.equal(made.get_parameter(name), model().get_parameter(name))
    assert all(p.grad is None and p.requires_grad for p in made.parameters())


def test_the_same_again() -> None:
    made = model()
    spec = SPEC(finetune="both")
    ptq.quantize_model(made, spec, 0, calibrate(made, tokens().numpy()))
    again = quantized("both")[0].state_dict()
    assert all(torch.equal(value, again[name]) for name, value in made.state_dict().items())


def test_off_it_leaves_no_trace() -> None:
    assert eval_id(SPEC(finetune="none")) == eval_id(SPEC())
    assert len({eval_id(SPEC(finetune=mode)) for mode in ("none", *MODES)}) == 4
    assert all("signs" in q.payload for q in quantized("none")[1].values())


def test_what_does_not_help_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "EPOCHS", {"block": 0, "end_to_end": 0})
    made = model()
    spec = SPEC(finetune="end_to_end")
    out = ptq.quantize_model(made, spec, 0, calibrate(made, tokens().numpy()))
    plain, wanted = quantized("none")
    assert all(q.bits == wanted[name].bits for name, q in out.items())
    assert all(torch.equal(v, made.state_dict()[k]) for k, v in plain.state_dict().items())


def test_descent_keeps_what_is_best_where_it_does_not_train() -> None:
    x, start = torch.ones(3), torch.ones(3)

    def loss(rows: torch.Tensor) -> torch.Tensor:
        sign = 1 if (rows % HELD_OUT > 0).all() else -1  # what lowers one raises the other
        return sign * x.sum()

    descend(loss, [x], 16, 3)
    assert torch.equal(x, start)
    descend(lambda rows: x.square().sum(), [x], 16, 3)
    assert (x < start).all()


def test_models_that_cannot_be_tuned_are_refused_untouched() -> None:
    few = model()
    with pytest.raises(ConfigError, match="at least 4 sequences"):
        ptq.quantize_model(few, SPEC(finetune="both"), 0, calibrate(few, tokens(2).numpy()))
    int8 = build(option("format", "int8"), Format)
    assert isinstance(int8, Format)
    rounded = attach(model(), weights=int8)
    with pytest.raises(ConfigError, match="finetune must be none"):
        ptq.quantize_model(rounded, SPEC(finetune="both"), 0, calibrate(rounded, tokens().numpy()))
    foreign = nn.Sequential(nn.Embedding(64, 8), nn.Linear(8, 64))
    calibration = calibrate(foreign, tokens().numpy())
    with pytest.raises(ConfigError, match="blocks"):
        ptq.quantize_model(foreign, SPEC(finetune="blocks"), 0, calibration)
    assert torch.equal(next(linears(rounded))[1].weight, next(linears(model()))[1].weight)
