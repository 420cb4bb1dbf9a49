"""GPTQ against its own mathematics: a plain implementation with the inverse of H, LDLQ, identities.

In float64, so that rounding errors decide no ties and codes can be compared one by one.
"""

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from precisionlaws import ptq
from precisionlaws.config import ConfigError
from precisionlaws.ptq import ldlq
from precisionlaws.ptq.application import method_of
from precisionlaws.ptq.base import Quantized
from precisionlaws.ptq.gptq import Gptq, by_input, report
from precisionlaws.ptq.grids import Grid

GRIDS = ["narrow", "full", "asymmetric"]
DAMP = 0.01


def problem(out: int = 24, width: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """W, and H of inputs of unequal power in random directions."""
    g = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(width, width, generator=g, dtype=torch.float64)).Q
    power = 1 / torch.arange(1, width + 1, dtype=torch.float64)
    x = torch.randn(3 * width, width, generator=g, dtype=torch.float64) * power.sqrt() @ basis.T
    x *= torch.randn(width, generator=g, dtype=torch.float64).mul(0.5).exp()
    return torch.randn(out, width, generator=g, dtype=torch.float64) / 8, x.T @ x / len(x)


def gptq(W: Tensor, H: Tensor, **options: Any) -> Quantized:
    return ptq.apply("gptq", W, H, **({"bits": 3} | options))


def spec(**options: Any) -> Gptq:
    return cast(Gptq, method_of("gptq", **({"bits": 3} | options)))


def damped(H: Tensor, damping: float = DAMP) -> Tensor:
    return H + damping * H.diagonal().mean() * torch.eye(len(H), dtype=torch.float64)


def proxy(E: Tensor, H: Tensor) -> float:
    return ((E.double() @ H) * E.double()).sum().item()


def plain_gptq(W: Tensor, H: Tensor, grid: Grid) -> Tensor:
    """Frantar et al. 2023, Algorithm 1: the Cholesky factor of the inverse, errors passed to the right."""
    W, Q = W.clone(), torch.zeros_like(W)
    U = torch.linalg.cholesky(torch.linalg.inv(damped(H)), upper=True)
    for k in range(W.shape[1]):
        Q[:, k : k + 1] = grid.codes(W[:, k : k + 1]) * grid.scale
        W[:, k:] -= torch.outer((W[:, k] - Q[:, k]) / U[k, k], U[k, k:])
    return Q


def plain_ldlq(W: Tensor, H: Tensor, grid: Grid) -> Tensor:
    """Chee et al. 2023, equation 2: from the last input to the first, errors collected from the right."""
    Q, C = W.clone(), torch.linalg.cholesky(damped(H))
    L = C / C.diagonal()
    for k in reversed(range(W.shape[1])):
        target = W[:, k] + (W - Q)[:, k + 1 :] @ L[k + 1 :, k]
        Q[:, k : k + 1] = grid.codes(target.unsqueeze(1)) * grid.scale
    return Q


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_equals_the_published_algorithm_and_reversed_ldlq(grid: str, bits: int) -> None:
    W, H = problem()
    q = gptq(W, H, bits=bits, grid=grid, act_order=False)
    rows = spec(bits=bits, grid=grid).fit(W)
    assert torch.equal(q.weight, plain_gptq(W, H, rows))
    assert torch.equal(q.weight, plain_ldlq(W.flip(1), H.flip(0, 1), rows).flip(1))


@pytest.mark.parametrize("granularity", ["tensor", "row", "group"])
@pytest.mark.parametrize("range_", ["absmax", "mse"])
@pytest.mark.parametrize("grid", GRIDS)
def test_without_correlations_it_is_rounding_to_nearest(
    granularity: str, range_: str, grid: str
) -> None:
    W, _ = problem()
    options = {"granularity": granularity, "range": range_, "grid": grid, "bits": 3}
    want = ptq.apply("rtn", W, **options)  # type: ignore[arg-type]
    H = torch.rand(64, dtype=torch.float64).diag()
    for more in ({}, {"act_order": False}, {"act_order": False, "static_groups": False}):
        q = gptq(W, H, **options, **more)
        assert torch.equal(q.weight, want.weight)
        assert all(torch.equal(q.payload[k], want.payload[k]) for k in want.payload)


@pytest.mark.parametrize("group", [None, 16])
def test_blocks_change_nothing(group: int | None) -> None:
    W, H = problem(width=160)
    s = spec(granularity="group" if group else "row", act_order=False, static_groups=False)
    factor = ldlq.factorize(H, DAMP, torch.float64)
    codes = []
    for block in (1, 7, 32, 128, 160):
        start = by_input(s.fit(s.grouped(W)), len(W))
        members = [k // (group or 160) for k in range(160)]
        refit: Callable[[Tensor], Grid] | None = s.refit if group else None
        solved = ldlq.solve(W.T.contiguous(), factor.L, start, members, refit, block)
        codes.append(solved.codes)
    assert all(torch.equal(c, codes[0]) for c in codes)


def test_errors_weighted_by_D_are_the_damped_proxy() -> None:
    W, H = problem()
    s, factor = spec(), ldlq.factorize(H, DAMP, torch.float64)
    assert torch.allclose(factor.L.T @ (factor.D.unsqueeze(1) * factor.L), damped(H))
    grid = s.fit(W)
    solved = ldlq.solve(W.T.contiguous(), factor.L, by_input(grid, len(W)), [0] * 64)
    E = W - solved.codes.T * grid.scale
    assert (factor.D @ solved.errors).item() == pytest.approx(proxy(E, damped(H)), rel=1e-10)
    assert solved.moved == pytest.approx(E.square().sum().item(), rel=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("width", [64, 640])
def test_info_has_the_proxies_without_damping(dtype: torch.dtype, width: int) -> None:
    W, H = (problem(width=width)[0].to(dtype), problem(width=width)[1])
    q, rtn = gptq(W, H, percdamp=0.1), ptq.apply("rtn", W, bits=3)
    whole = proxy(W, H)
    assert q.info["relative_proxy"] == pytest.approx(proxy(q.weight - W, H) / whole, rel=1e-4)
    of_rtn = proxy(rtn.weight - W, H) / whole
    assert q.info["relative_proxy_rtn"] == pytest.approx(of_rtn, rel=1e-4)
    assert q.info["damping"] == 0.1
    assert q.info["relative_proxy"] < 0.7 * q.info["relative_proxy_rtn"]
    assert "warning" not in q.info


@pytest.mark.parametrize("grid", GRIDS)
def test_act_order_is_permute_solve_unpermute(grid: str) -> None:
    W, H = problem()
    order = H.diagonal().argsort(descending=True)
    permuted = gptq(W[:, order], H[order][:, order], grid=grid, act_order=False).weight
    assert torch.equal(gptq(W, H, grid=grid).weight, permuted[:, order.argsort()])


def test_act_order_and_feedback_pay() -> None:
    of = {False: 0.0, True: 0.0}
    for seed in range(3):
        W, H = problem(width=128, seed=seed)
        for act in of:
            of[act] += gptq(W, H, act_order=act).info["relative_proxy"]
    assert of[True] < 0.9 * of[False]


def test_static_groups_keep_the_scales_of_rtn_and_dynamic_ones_do_not() -> None:
    W, H = problem(width=256)
    options = {"granularity": "group", "group": 64, "act_order": False}
    rtn = ptq.apply("rtn", W, bits=3, granularity="group", group=64)
    static, dynamic = (gptq(W, H, **options, static_groups=s) for s in (True, False))
    assert torch.equal(static.payload["scales"], rtn.payload["scales"])
    differ = (dynamic.payload["scales"] != rtn.payload["scales"]).view(-1, 4)
    assert not differ[:, :2].any()  # the errors of a block of 128 are seen after it
    assert differ[:, 2:].all()
    assert torch.equal(
        spec(**options, static_groups=False).decode(dynamic.payload, W.shape).double(),
        dynamic.weight,
    )


@pytest.mark.parametrize("act_order", [True, False])
def test_inputs_that_were_never_seen_are_rounded_to_nearest(act_order: bool) -> None:
    W, H = problem()
    dead = torch.zeros(64, dtype=torch.bool)
    dead[[0, 5, 63]] = True
    H[dead] = 0
    H[:, dead] = 0
    q, rtn = gptq(W, H, act_order=act_order), ptq.apply("rtn", W, bits=3)
    assert torch.equal(q.weight[:, dead], rtn.weight[:, dead])
    assert not torch.equal(q.weight, rtn.weight)
    nothing = gptq(W, torch.zeros_like(H), act_order=act_order)
    assert torch.equal(nothing.weight, rtn.weight)
    assert nothing.info["relative_proxy"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("bits", [3, 8])
def test_damping_rises_until_H_can_be_factored(bits: int) -> None:
    W, H = problem()
    assert gptq(W, H).info["damping"] == DAMP
    x = torch.randn(20, 64, dtype=torch.float64)  # fewer tokens than inputs
    q = gptq(W, x.T @ x / 20, percdamp=0, bits=bits)
    assert 0 < q.info["damping"] <= 1e-4
    assert q.info["relative_proxy"] < q.info["relative_proxy_rtn"]
    values, vectors = torch.linalg.eigh(H)
    negative = H - 2 * values[0] * torch.outer(vectors[:, 0], vectors[:, 0])
    least = values[0] / H.diagonal().mean()
    used = gptq(W, negative, percdamp=1e-9).info["damping"]
    assert least < used < 20 * least


def test_worse_than_rounding_to_nearest_is_said() -> None:
    W, H = problem()
    factor = ldlq.factorize(H, DAMP, torch.float64)
    bad = ldlq.Solved(W, torch.ones(64, dtype=torch.float64), 0.0)
    assert "worse than rounding to nearest" in report(bad, factor, W, W, H)["warning"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_other_dtypes(dtype: torch.dtype) -> None:
    W, H = problem()
    q = gptq(W.to(dtype), H.float(), bits=4)
    assert q.weight.dtype == dtype
    assert torch.equal(spec(bits=4).decode(q.payload, W.shape).to(dtype), q.weight)
    again = gptq(W.to(dtype), H.float(), bits=4)
    assert torch.equal(q.weight, again.weight)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"H": None}, r"gptq looks at inputs: give H \(in, in\), the mean of x xᵀ"),
        ({"H": torch.eye(3)}, "H must be 64 x 64 for the matrix"),
        ({"H": torch.full((64, 64), torch.nan)}, "H of the matrix must be finite"),
        ({"H": torch.eye(64).fill_diagonal_(torch.inf)}, "H of the matrix must be finite"),
        ({"H": torch.rand(64, 64)}, "H of the matrix must be symmetric"),
        ({"H": -torch.eye(64)}, "H of the matrix must have a diagonal of squares"),
        ({"H": torch.ones(64, 64) * 9 - 8 * torch.eye(64)}, "H must have no negative eigenvalues"),
        ({"granularity": "group", "static_groups": False}, "static_groups must be true with act"),
        ({"percdamp": 2}, "percdamp must be 0 to 1, got 2"),
        ({"grid": "asymetric"}, "did you mean 'asymmetric'"),
        ({"bits": 11, "grid": "asymmetric"}, "float32 for 11 to 15 bits of an asymmetric grid"),
        ({"calibration_tokens": 0}, "calibration_tokens must be at least 1, got 0"),
    ],
)
def test_errors(change: dict[str, Any], text: str) -> None:
    W, H = problem()
    with pytest.raises(ConfigError, match=text):
        ptq.apply(**({"method": "gptq", "W": W, "H": H} | change))
