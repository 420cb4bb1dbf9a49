"""LDLQ by blocks against its definition and the identities of Chee et al. and Tseng et al."""

import pytest
import torch
from torch import Tensor

from precisionlaws.ptq import blocks, ldlq
from precisionlaws.ptq.ldlq import proxy

N, OUT = 48, 5


def problem(seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(4 * N, N, generator=g, dtype=torch.float64)
    x = x @ torch.randn(N, N, generator=g, dtype=torch.float64)
    return torch.randn(N, OUT, generator=g, dtype=torch.float64), x.T @ x / len(x)


def to_whole(k: int, target: Tensor) -> Tensor:
    return target.round()


def rounded(W: Tensor, F: Tensor, size: int) -> Tensor:
    E = torch.zeros_like(W)
    blocks.feed(W, F, E, size, to_whole)
    return W - E


@pytest.mark.parametrize("size", [1, 2, 8, 48])
def test_block_factor_is_a_factor(size: int) -> None:
    _, H = problem()
    L = blocks.by_blocks(ldlq.factorize(H, 0, torch.float64).L, size)
    D = torch.linalg.inv(L).T @ H @ torch.linalg.inv(L)
    own = torch.block_diag(*blocks.blocks_of(D, size))
    assert torch.allclose(D, own, atol=1e-9 * H.diagonal().max().item())
    assert torch.allclose(torch.block_diag(*blocks.blocks_of(L, size)), torch.eye(N).double())
    assert torch.equal(L.triu(size), torch.zeros_like(L))


@pytest.mark.parametrize("size", [1, 8])
def test_damage_is_what_rounding_does_to_targets(size: int) -> None:
    """tr(Eᵀ H E) = Σ tr(R_kᵀ D_k R_k), R_k = T_k - round(T_k)"""
    W, H = problem()
    L = blocks.by_blocks(ldlq.factorize(H, 0, torch.float64).L, size)
    D = blocks.blocks_of(torch.linalg.inv(L).T @ H @ torch.linalg.inv(L), size)
    E, left = torch.zeros_like(W), []

    def keep(k: int, target: Tensor) -> Tensor:
        left.append(target - target.round())
        return target.round()

    blocks.feed(W, L - torch.eye(N), E, size, keep)
    total = sum((r * (d @ r)).sum().item() for r, d in zip(left, D, strict=True))
    assert proxy(E.T, H) == pytest.approx(total, rel=1e-9)
    assert total < 0.7 * proxy((W - W.round()).T, H)


def test_without_correlations_it_is_rounding_to_nearest() -> None:
    W, _ = problem()
    H = torch.block_diag(*[problem(k)[1][:8, :8] for k in range(N // 8)])  # none between blocks
    L = blocks.by_blocks(ldlq.factorize(H, 0.01, torch.float64).L, 8)
    assert torch.equal(rounded(W, L - torch.eye(N), 8), W.round())


def test_blocks_of_one_are_gptq() -> None:
    W, H = problem()
    factor = ldlq.factorize(H, 0.01, torch.float64)
    grid = ldlq.Grid(*(W.new_full((1, OUT), v) for v in (1.0, -1e9, 1e9)))
    codes = ldlq.solve(W, factor.L, grid, [0] * N).codes
    found = rounded(W, blocks.by_blocks(factor.L, 1) - torch.eye(N), 1)
    assert torch.equal(found.round(), codes)


@pytest.mark.parametrize("size", [1, 8])
def test_target_of_a_pass_is_the_best_place_of_a_block(size: int) -> None:
    W, H = problem()
    E = torch.randn(N, OUT, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    seen = {}
    blocks.feed(
        W, blocks.others(H, size), E.clone(), size, lambda k, T: seen.setdefault(k, T.clone())
    )
    E[:size] = W[:size] - seen[0]
    gradient = H @ E
    assert gradient[:size].abs().max() < 1e-9 * H.abs().max()


def test_passes_lower_the_damage_and_stop() -> None:
    W, H = problem()
    L = ldlq.factorize(H, 0.01, torch.float64).L
    E = torch.zeros_like(W)
    blocks.feed(W, L - torch.eye(N), E, 1, to_whole)
    start = E.clone()

    def step(k: int, target: Tensor, own: Tensor) -> Tensor:
        return target.round()

    damage = [proxy(E.T, H)]
    for passes in (1, 2, 50):
        E = start.clone()
        done = blocks.improve(W, H, 0.01, passes, 1, step, [E])
        damage.append(proxy(E.T, H))
        assert done <= passes
    assert damage[0] > damage[1] >= damage[2] >= damage[3]
    assert done < 50


def test_a_pass_for_nothing_is_taken_back() -> None:
    W, H = problem()
    E, other = W - W.round(), torch.arange(3.0)

    def worse(k: int, target: Tensor, own: Tensor) -> Tensor:
        other.add_(1)
        return target.round() + 3

    before = E.clone()
    assert blocks.improve(W, H, 0.01, 4, 8, worse, [E, other]) == 0
    assert torch.equal(E, before)
    assert torch.equal(other, torch.arange(3.0))


def test_inputs_that_were_never_seen_need_no_pass() -> None:
    W, _ = problem()
    E = torch.zeros_like(W)
    step = lambda k, T, own: T  # noqa: E731
    assert blocks.improve(W, torch.zeros(N, N).double(), 0.01, 4, 8, step, [E]) == 0
