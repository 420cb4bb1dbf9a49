"""Scale rules: what one group of values says about the step of its grid. All (..., C / group).

    absmax        max|x| / largest: nothing is clipped
    power_of_two  the same, rounded up to a power of two
    absmean       a multiple of mean|x|
    gaussian      a multiple of the root mean square; `gaussian_step` is the best for normal values
    mse           a share of the absmax scale, searched per group for the least squared error

0 for a group of zeros.
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from precisionlaws.kernels import numbers, reference

SHARES = [1 - i / 50 for i in range(41)]  # of absmax: from all of it to a fifth


def absmax(x: Tensor, largest: float, group: int | None) -> Tensor:
    most = reference.absmax(x, group)
    return most / torch.full_like(most, largest)  # by a number, CUDA multiplies by its reciprocal


def power_of_two(x: Tensor, largest: float, group: int | None) -> Tensor:
    s = absmax(x, largest, group)
    mantissa, exponent = torch.frexp(s)  # in [1/2, 1)
    up = numbers.power_of_two(exponent - (mantissa == 0.5).int(), s.dtype)
    return torch.where((s == 0) | ~s.isfinite(), s, up)


def absmean(x: Tensor, factor: float, group: int | None) -> Tensor:
    return reference.split(reference.computing(x), group).abs().mean(-1) * factor


def gaussian(x: Tensor, factor: float, group: int | None) -> Tensor:
    return reference.split(reference.computing(x), group).square().mean(-1).sqrt_() * factor


def searched(
    x: Tensor, largest: float, group: int | None, rounded: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """rounded: (x, scales) -> values. Of equals, the widest."""
    x = reference.computing(x)
    widest = absmax(x, largest, group)
    best, least = widest, torch.full_like(widest, torch.inf)
    for share in SHARES:
        s = widest * share
        error = reference.split((rounded(x, s) - x).square_(), group).sum(-1)
        better = error < least
        best, least = torch.where(better, s, best), torch.where(better, error, least)
    return best


@functools.lru_cache(maxsize=256)
def gaussian_step(levels: tuple[float, ...]) -> float:
    """The scale of least squared error for N(0, 1), to six digits: the same on every machine.

    levels: the numbers that are not negative, at scale 1.
    """
    magnitudes = torch.tensor(levels, dtype=torch.float64)

    def error(log_step: float) -> float:
        y = magnitudes * math.exp(log_step)
        edges = torch.cat([y.new_zeros(1), (y[1:] + y[:-1]) / 2, y.new_full((1,), torch.inf)])
        density = torch.exp(-edges.square() / 2) / math.sqrt(2 * math.pi)
        below = torch.special.ndtr(edges)
        return float(((below.diff() * y - 2 * -density.diff()) * y).sum())  # + 1/2: of one side

    # Floats have nearly a minimum per octave: scan before descending.
    scan = torch.linspace(math.log(0.01 / levels[-1]), math.log(20 / levels[-1]), 400).tolist()
    middle = min(scan, key=error)
    low, high = middle - (scan[1] - scan[0]), middle + (scan[1] - scan[0])
    for _ in range(60):  # ternary search
        a, b = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, b) if error(a) < error(b) else (a, high)
    return float(f"{math.exp((low + high) / 2):.6g}")
