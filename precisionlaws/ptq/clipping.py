"""Ranges of groups, shrunk where the output of a linear changes less for it."""

from collections.abc import Callable

import torch
from torch import Tensor

from precisionlaws.ptq.grids import Grid

SHARES = [1 - i / 20 for i in range(1, 11)]  # of the largest weight of a group


def clipped(x: Tensor, grid: Grid, H: Tensor, fit: Callable[[Tensor], Grid]) -> Grid:
    """`grid` (groups, 1) of x (out, in) with ranges shrunk where tr(E H Eᵀ) falls.

    The groups of a row are chosen one after the other, each under H and the errors of all others as they
    stand, so that no choice raises the sum. fit: the grid of values (..., group).
    """
    if len(grid.scale) < len(x):
        return of_tensor(x, grid, H, fit)
    per_row = len(grid.scale) // len(x)
    scale, low, high = (t.view(len(x), per_row).clone() for t in (grid.scale, grid.low, grid.high))
    E = x - grid.codes(x.reshape(len(grid.scale), -1)).mul_(grid.scale).view(x.shape)
    for j, part in enumerate(
        torch.arange(x.shape[1], device=x.device).split(x.shape[1] // per_row)
    ):
        w, own, e = x[:, part], H[part][:, part], E[:, part]
        others = (E @ H[:, part]).sub_(e @ own).mul_(2)  # of what the other groups already do
        widest, least = w.abs().amax(1, keepdim=True), damage(e, own, others)
        for share in SHARES:
            tried = fit(w.clamp(-share * widest, share * widest))
            e = w - tried.codes(w) * tried.scale
            sum_ = damage(e, own, others)
            better = sum_ < least
            least = torch.where(better, sum_, least)
            E[:, part] = torch.where(better, e, E[:, part])
            for old, new in ((scale, tried.scale), (low, tried.low), (high, tried.high)):
                old[:, j : j + 1] = torch.where(better, new, old[:, j : j + 1])
    return Grid(scale, low, high).map(lambda t: t.view(-1, 1))


def damage(e: Tensor, own: Tensor, others: Tensor) -> Tensor:
    """What tr(E H Eᵀ) owes to the errors e (out, group) of one group: (out, 1)."""
    return ((e @ own).add_(others).mul_(e)).sum(1, keepdim=True)


def of_tensor(x: Tensor, grid: Grid, H: Tensor, fit: Callable[[Tensor], Grid]) -> Grid:
    """The same for one grid of all rows."""
    zero, tried = torch.zeros_like(x), [grid]
    widest, values = x.abs().max(), x.reshape(1, -1)
    tried += [fit(values.clamp(-share * widest, share * widest)) for share in SHARES]
    return min(tried, key=lambda g: damage(x - g.codes(x) * g.scale, H, zero).sum().item())
