"""What every method does with inputs that are awkward or broken, found by globbing conf/ptq."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from precisionlaws import ptq
from precisionlaws.config import ConfigError, build
from precisionlaws.models.base import Model, Size
from precisionlaws.models.parts import initialize, linears
from precisionlaws.overrides import option
from precisionlaws.ptq.application import method_of, model_info
from precisionlaws.ptq.calibration import Calibration, calibrate

CONF = Path(__file__).resolve().parents[2] / "conf" / "ptq"
METHODS = sorted(p.stem for p in CONF.glob("*.yaml"))
CALIBRATED = [name for name in METHODS if method_of(name).needs_hessian]


def problem(out: int, width: int, tokens: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, width, generator=g, dtype=torch.float64)
    return torch.randn(out, width, generator=g) / 8, x.T @ x / tokens


def model() -> torch.nn.Module:
    spec = build(option("model", "llama"), Model)
    assert isinstance(spec, Model)
    made = spec.build(Size(depth=1, width=32, heads=2), 64, 16)
    initialize(made, 0)
    return made


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("shape", [(13, 37), (37, 13), (1, 17), (7, 1)])
def test_prime_dimensions(name: str, shape: tuple[int, int]) -> None:
    W, H = problem(*shape, 100)
    q = ptq.apply(name, W, H)
    assert torch.equal(method_of(name).decode(q.payload, W.shape), q.weight)
    assert (q.weight - W).norm() < 0.5 * W.norm()


@pytest.mark.parametrize("name", CALIBRATED)
@pytest.mark.parametrize("tokens", [1, 5])
def test_fewer_tokens_than_inputs(name: str, tokens: int) -> None:
    """H has a null space: damping makes up for it, and is recorded where it is used."""
    W, H = problem(16, 32, tokens)
    q = ptq.apply(name, W, H)
    E = (q.weight - W).double()
    assert torch.isfinite(q.weight).all()
    assert E.norm() < W.norm()
    assert q.info.get("damping", 1e-9) > 0
    assert ((E @ H) * E).sum() < 0.05 * ((W.double() @ H) * W.double()).sum()


@pytest.mark.parametrize("name", CALIBRATED)
def test_inputs_that_are_all_zero(name: str) -> None:
    W, _ = problem(16, 32, 1)
    q = ptq.apply(name, W, torch.zeros(32, 32, dtype=torch.float64))
    assert (q.weight - W).norm() < 0.5 * W.norm()


@pytest.mark.parametrize("name", CALIBRATED)
def test_a_broken_H_is_named_and_nothing_is_touched(name: str) -> None:
    made, bad = model(), "blocks.0.mlp.down"
    before = [p.clone() for p in made.parameters()]
    good = calibrate(made, np.zeros((2, 16), dtype=np.uint8))
    broken = dict(good.hessians) | {bad: torch.full_like(good.hessians[bad], torch.nan)}
    calibration = Calibration(broken, good.tokens, good.digest, good.sequences)
    with pytest.raises(ConfigError, match=rf"H of {bad} must be finite"):
        ptq.quantize_model(made, method_of(name), 0, calibration)
    missing = {k: v for k, v in good.hessians.items() if k != bad}
    calibration = Calibration(missing, good.tokens, good.digest, good.sequences)
    with pytest.raises(ConfigError, match="looks at inputs"):
        ptq.quantize_model(made, method_of(name), 0, calibration)
    assert all(torch.equal(a, b) for a, b in zip(before, made.parameters(), strict=True))


@pytest.mark.parametrize("name", CALIBRATED)
def test_what_calibration_could_not_see_is_said_of_each_matrix(name: str) -> None:
    made = model()
    seen = calibrate(made, np.arange(16, dtype=np.uint8).reshape(1, 16))
    dead = "blocks.0.attn.o"
    H = dict(seen.hessians) | {dead: torch.zeros_like(seen.hessians[dead])}
    quantized = ptq.quantize_model(
        made, method_of(name), 0, Calibration(H, seen.tokens, seen.digest, seen.sequences)
    )
    said = {n: q.info.get("warning") for n, q in quantized.items()}
    assert said[dead] == "its inputs were 0 for all calibration tokens"
    assert all(said.values())  # 16 tokens for 32 and 80 inputs
    assert "16 calibration tokens cannot tell its 80 inputs apart" in str(said["blocks.0.mlp.down"])
    assert model_info(quantized)["warnings"] == len(list(linears(made)))
