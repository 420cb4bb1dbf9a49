"""Rounding with feedback: the arithmetic of GPTQ (see gptq.py for the formulas), columns as rows.

Everything is transposed: the weights of one input are one contiguous row of W (in, out), and L = Rᵀ, so
that what input k takes over from those before is one product L[k, :k] @ E[:k] of contiguous rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from precisionlaws.config import ConfigError
from precisionlaws.ptq.grids import Grid

BLOCK = 32  # inputs between two products of matrices; changes the speed and nothing else
LEAST_PIVOT = 1e-9  # of H's mean diagonal; smaller ones are rounding errors
MOST_DAMPING = 1.0
ROWS = (
    8  # of a block that share one view of the errors before them; those not made yet count 0 times
)
SEEN = 128  # inputs whose errors a refitted scale sees at once


@dataclass(frozen=True)
class Factor:
    """H + added * I = Lᵀ D L, L lower triangular with ones on its diagonal."""

    L: Tensor  # (in, in)
    D: Tensor  # (in,) float64
    damping: float  # share of the mean diagonal
    added: float


@dataclass(frozen=True)
class Solved:
    codes: Tensor  # (in, out) whole floats
    errors: Tensor  # (in,) Σ over outputs of (T_k - Ŵ_k)², float64
    moved: float  # Σ (W - Ŵ)²


def factorize(H: Tensor, damping: float, dtype: torch.dtype) -> Factor:
    """`dtype`: of L. Raises: ConfigError if no damping up to `MOST_DAMPING` makes H positive definite."""
    H = H.double()
    mean = H.diagonal().mean().item() or 1.0  # 0: calibration saw no input at all
    start = damping
    while damping <= max(start, MOST_DAMPING):
        # C Cᵀ of the matrix in reverse order is R Rᵀ with R upper triangular when turned back.
        turned = H.flip(0, 1)
        turned.diagonal().add_(damping * mean)
        C, failed = torch.linalg.cholesky_ex(turned)
        root = C.diagonal()
        if not failed and root.min() ** 2 >= LEAST_PIVOT * mean:
            L = (C.mT / root.unsqueeze(1)).to(dtype).flip(0, 1)
            return Factor(L, root.flip(0) ** 2, damping, damping * mean)
        damping = max(10 * damping, 1e-6)
    raise ConfigError(
        f"H must have no negative eigenvalues, got one that damping {MOST_DAMPING:g} does not cure"
    )


def solve(
    W: Tensor,
    L: Tensor,
    grid: Grid,
    members: Sequence[int],
    refit: Callable[[Tensor], Grid] | None = None,
    block: int = BLOCK,
) -> Solved:
    """Round W (in, out) input by input.

    grid: (groups, out). members: the group of every input. refit: the grid (1, out) of a group's inputs
    (group, out) as the errors before them leave them; written into `grid`.
    """
    n, group = len(W), len(W) // len(grid.scale)
    E, Q, T = torch.empty_like(W), torch.empty_like(W), torch.empty_like(W)
    work = Block(min(block, n), W)
    starts = sorted({*range(0, n, block), *(range(0, n, group) if refit else ())})
    for start, stop in zip(starts, [*starts[1:], n], strict=True):
        if refit and start % group == 0:
            put(grid, start // group, refit(ahead(W, L, E, start, start + group)))
        part = slice(start, stop)
        passed = L[part, :start] @ E[:start]
        T[part], Q[part], E[part] = work.round(W[part], passed, L[part, part], grid, members[part])
    errors = T.sub_(W).add_(E).square_().sum(1)
    return Solved(Q, errors.double(), E.double().square_().sum().item())


class Block:
    """Buffers of a block and views of all their rows, made once: on a CPU, making a view of a small row
    takes as long as all the arithmetic on it."""

    def __init__(self, size: int, W: Tensor) -> None:
        self.L = W.new_zeros(size, size)
        self.W, self.T, self.E, self.Q = (W.new_zeros(size, W.shape[1]) for _ in range(4))
        given: list[Tensor] = []
        errors: list[Tensor] = []
        for start in range(0, size, ROWS):
            rows = self.L[start : start + ROWS, : start + ROWS].unbind(0)
            given += rows
            errors += [self.E[: start + ROWS].T] * len(rows)
        rows = [t.unbind(0) for t in (self.W, self.T, self.Q, self.E)]
        self.rows = list(zip(*rows, errors, given, strict=True))

    @torch.inference_mode()  # without autograd's bookkeeping: a sixth less time
    def round(
        self, W: Tensor, passed: Tensor, L: Tensor, grid: Grid, members: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """T, Q and E of a block; `passed`: what earlier blocks pass on."""
        size = len(W)
        torch.tril(L, -1, out=self.L[:size, :size])
        self.W[:size] = W
        torch.add(W, passed, out=self.T[:size])
        scales, lows, highs = (t.unbind(0) for t in (grid.scale, grid.low, grid.high))
        for g, (w, target, q, error, errors, given) in zip(members, self.rows, strict=False):
            target.addmv_(errors, given)
            torch.div(target, scales[g], out=q)
            q.round_().clamp_(lows[g], highs[g])
            torch.addcmul(w, q, scales[g], value=-1, out=error)
        return self.T[:size], self.Q[:size], self.E[:size]


def ahead(W: Tensor, L: Tensor, E: Tensor, start: int, stop: int) -> Tensor:
    """Inputs start to stop as GPTQ has them when the last whole block of `SEEN` inputs is rounded.

    What is not rounded yet is taken to move exactly as the errors S so far ask: T = W + L⁻¹ S. Seeing
    errors inside the block too would be worse, 3 to 13% in the proxy at 2 bits: they widen the range.
    """
    first = start // SEEN * SEEN
    S = L[first:stop, :first] @ E[:first]
    shift = torch.linalg.solve_triangular(
        L[first:stop, first:stop], S, upper=False, unitriangular=True
    )
    return W[start:stop] + shift[start - first :]


def put(grid: Grid, index: int, fresh: Grid) -> None:
    grid.scale[index], grid.low[index], grid.high[index] = fresh.scale, fresh.low, fresh.high


def proxy(E: Tensor, H: Tensor) -> float:
    """tr(E H Eᵀ) for E (out, in): the mean squared change of a linear's output, summed over outputs.

    H is symmetric: what stands above its diagonal blocks is multiplied once and counted twice.
    """
    H, total, step = H.to(E.dtype), 0.0, max(256, -(-len(H) // 4))
    for start in range(0, len(H), step):
        part, stop = E[:, start : start + step], start + step
        product = part @ H[start:stop, start:stop]
        product.addmm_(E[:, :start], H[:start, start:stop], alpha=2)
        total += product.mul_(part).sum(dtype=torch.float64).item()
    return total
