"""Scalar grids: what a payload can say, ranges that hold 0, searched ranges that pay."""

from typing import Any, cast

import pytest
import torch
from torch import Tensor

from precisionlaws import ptq
from precisionlaws.ptq.application import method_of
from precisionlaws.ptq.base import eval_id
from precisionlaws.ptq.grids import POWER, SHARES, Grid, Kind, holding
from precisionlaws.ptq.rtn import Rtn

GRIDS = ["narrow", "full", "asymmetric"]
LENGTH = {"tensor": 24 * 64, "row": 64, "group": 16}


def matrix(seed: int = 0, tail: bool = False) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    W = torch.randn(24, 64, generator=g) / 8
    return W * torch.randn(24, 64, generator=g).exp() if tail else W


def spec(**options: Any) -> Rtn:
    return cast(Rtn, method_of("rtn", **options))


def hessian() -> Tensor:
    x = torch.randn(99, 64, generator=torch.Generator().manual_seed(1))
    return (x.T @ x / 99).double()


def test_names_of_points_do_not_change() -> None:
    """Fields that came later leave no trace at their neutral value."""
    names = {3: "rtn3-c79db7a4d512", 4: "rtn4-", 8: "rtn8-"}
    assert all(eval_id(spec(bits=b)).startswith(name) for b, name in names.items())
    assert eval_id(spec(bits=3, grid="narrow", range="absmax")) == names[3]
    assert len({eval_id(spec(grid=g, range=r)) for g in GRIDS for r in ("absmax", "mse")}) == 6


@pytest.mark.parametrize("method", ["rtn", "gptq"])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("granularity", list(LENGTH))
@pytest.mark.parametrize("range_", ["absmax", "mse"])
@pytest.mark.parametrize("bits", [2, 3, 5, 8])
def test_the_payload_is_all_there_is(
    method: str, grid: str, granularity: str, range_: str, bits: int
) -> None:
    """It decodes bit for bit, has b-bit codes and zeros, fp16 scales, and nothing else."""
    W = matrix(tail=True)
    options = {"grid": grid, "granularity": granularity, "range": range_, "bits": bits}
    q = ptq.apply(method, W, hessian(), **options)  # type: ignore[arg-type]
    assert torch.equal(method_of(method, **options).decode(q.payload, W.shape), q.weight)
    groups = W.numel() // LENGTH[granularity]
    sizes = {"codes": W.numel() * bits / 8, "scales": 2 * groups}
    if grid == "asymmetric":
        sizes["zeros"] = -(-groups * bits // 8)
    assert {k: t.numel() * t.element_size() for k, t in q.payload.items()} == sizes
    assert q.bits.effective == pytest.approx(8 * sum(sizes.values()) / W.numel())
    levels = [len(w.unique()) for w in q.weight.view(groups, -1)]
    assert max(levels) <= (2**bits - 1 if grid == "narrow" else 2**bits)


@pytest.mark.parametrize("bits", [2, 3, 4, 8, 10])
def test_asymmetric_ranges_hold_zero_and_every_weight(bits: int) -> None:
    for W in (matrix(), matrix().abs() + 1, -matrix().abs() - 1, torch.zeros(24, 64)):
        q = ptq.apply("rtn", W, bits=bits, grid="asymmetric")
        step = q.payload["scales"].float().abs().unsqueeze(1)
        # the zero point and the stored scale are rounded: up to a step at the ends of the range
        assert ((q.weight - W).abs() <= step * (1 + 2**bits * 2**-11)).all()
        zero = ptq.apply("rtn", torch.cat((W, W[:, :1] * 0), 1), bits=bits, grid="asymmetric")
        assert (zero.weight[:, -1] == 0).all()


def test_asymmetric_pays_where_weights_are() -> None:
    W = matrix().abs()
    error = {g: (ptq.apply("rtn", W, bits=3, grid=g).weight - W).square().mean() for g in GRIDS}
    assert error["asymmetric"] < 0.4 * error["narrow"]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("tail", [False, True])
def test_the_searched_range_is_the_best_of_all_candidates(grid: str, tail: bool) -> None:
    """By brute force over shrunken copies of the widest range, per row."""
    W, bits = matrix(tail=tail), 3
    q = ptq.apply("rtn", W, bits=bits, grid=grid, range="mse", scale_dtype="float32")
    widest = holding(W, cast(Kind, grid), bits)
    best = torch.full((24,), torch.inf)
    for share in SHARES:
        for sign in (1, -1) if grid == "full" else (1,):
            s = widest.scale * share * sign
            y = torch.clamp((W / s).round(), widest.low, widest.high) * s
            best = torch.minimum(best, (y - W).abs().pow(POWER).sum(1))
    assert torch.allclose((q.weight - W).abs().pow(POWER).sum(1), best, rtol=1e-5)
    plain = ptq.apply("rtn", W, bits=bits, grid=grid, scale_dtype="float32")
    assert (best <= (plain.weight - W).abs().pow(POWER).sum(1) * (1 + 1e-5)).all()


def test_a_full_grid_puts_its_extra_code_where_it_helps() -> None:
    W = matrix()
    W[:, 0] = torch.tensor([1.0, -1.0]).repeat(12) * 2
    q = ptq.apply("rtn", W, bits=3, grid="full", range="mse")
    mirrored = ptq.apply("rtn", -W, bits=3, grid="full", range="mse")
    assert set(q.payload["scales"].sign().tolist()) == {1.0, -1.0}
    assert torch.equal(mirrored.weight, -q.weight)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_extra_code_is_used_where_it_pays(bits: int) -> None:
    """Never worse than the scale of GPTQ's code, in every row; much better at 2 bits."""
    W = torch.cat((matrix(), torch.zeros(1, 64)))
    q = ptq.apply("rtn", W, bits=bits, grid="full", scale_dtype="float32")
    s = 2 * W.abs().amax(1, keepdim=True) / (2**bits - 1)
    theirs = torch.clamp((W / s).round(), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * s
    ours, other = (q.weight - W).square().sum(1)[:-1], (theirs - W).square().sum(1)[:-1]
    assert (ours <= other).all()
    assert ours.mean() < {2: 0.8, 3: 0.9, 4: 0.95, 8: 1.0}[bits] * other.mean()
    assert (q.weight[-1] == 0).all()


def test_double_weights_are_what_the_payload_says() -> None:
    W = matrix().double() * 1.1
    for options in ({"bits": 4}, {"bits": 13, "scale_dtype": "float32"}):
        q = ptq.apply("rtn", W, **options)  # type: ignore[arg-type]
        assert q.weight.dtype == torch.float64
        assert torch.equal(spec(**options).decode(q.payload, W.shape).double(), q.weight)


@pytest.mark.parametrize(
    ("bits", "step", "error"), [(1, 1.2258, 0.595087), (2, 1.0466, 0.149429), (3, 0.6023, 0.040638)]
)
def test_a_normal_source_on_whole_numbers(bits: int, step: float, error: float) -> None:
    """Codes -2^(b-1) to 2^(b-1) - 1 of N(0, 1) at the best step, by quadrature, beside the known minimum."""
    x = torch.linspace(-9, 9, 360_001, dtype=torch.float64)
    weight = torch.exp(-x.square() / 2) / (2 * torch.pi) ** 0.5 * (x[1] - x[0])
    high = torch.tensor(2.0 ** (bits - 1) - 1, dtype=torch.float64)

    def mean_square(s: float) -> float:
        grid = Grid(torch.tensor(s, dtype=torch.float64), -high - 1, high)
        return ((grid.codes(x) * grid.scale - x).square() * weight).sum().item()

    assert mean_square(step) == pytest.approx(error, abs=5e-6)
    assert min(mean_square(0.99 * step), mean_square(1.01 * step)) > mean_square(step)
