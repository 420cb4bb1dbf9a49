"""Scalar grids: the numbers that a weight may become, one grid for every group of weights.

A grid is `code * scale` for whole codes from `low` to `high`. Three kinds, of b bits:

    narrow       -q .. q with q = 2^(b-1) - 1, scale max|w| / q: as in training (kernels/reference.py)
    full         -2^(b-1) .. 2^(b-1) - 1, scale 2 max|w| / (2^b - 1), as in the code of GPTQ, or
                 max|w| / 2^(b-1) with the widest weight on the extra code, where that is better; the
                 sign of the scale says on which side the extra code lies, at no cost
    asymmetric   -z .. 2^b - 1 - z with a stored zero point z, scale (max - min) / (2^b - 1); the range
                 always holds 0

Scales are rounded to how they are stored before anything is rounded by them, so codes are nearest under
the numbers that are used. A searched range shrinks the scale in steps of 1% and keeps, per group, the
one of least Σ|error|^2.4 (the power of GPTQ's code: above 2 it spares large weights).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from precisionlaws.config import ConfigError
from precisionlaws.kernels import reference

Kind = Literal["narrow", "full", "asymmetric"]
POWER = 2.4
GAIN = 0.95  # of the squared error; smaller gains are chance, and would be lost again under H
SHARES = [1 - i / 100 for i in range(80)]  # of the scale that holds every value


@dataclass(frozen=True)
class Grid:
    """All three in one shape that broadcasts against the weights; low <= code <= high."""

    scale: Tensor  # as stored, in computing precision; negative: mirrored
    low: Tensor
    high: Tensor

    def codes(self, x: Tensor) -> Tensor:
        """The nearest codes, as whole floats; ties to even."""
        return torch.clamp((x / self.scale).round_(), self.low, self.high)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Grid":
        return Grid(change(self.scale), change(self.low), change(self.high))


def fit(x: Tensor, kind: Kind, bits: int, search: bool, dtype: torch.dtype) -> Grid:
    """Grids of x (..., group), each (..., 1). dtype: of stored scales.

    Raises: ConfigError if a scale does not fit `dtype`.
    """
    widest = holding(x, kind, bits)
    stored = Grid(as_stored(widest, dtype), widest.low, widest.high)
    if search:
        return shrunk(x, widest, stored, kind == "full", dtype)
    return extra_code_used(x, stored, dtype) if kind == "full" else stored


def holding(x: Tensor, kind: Kind, bits: int) -> Grid:
    """The grids whose range holds every value, before their scales are rounded."""
    steps = 2**bits - 1
    if kind == "asymmetric":
        least, most = x.amin(-1, keepdim=True).clamp_(max=0), x.amax(-1, keepdim=True).clamp_(min=0)
        scale = (most - least) / steps
        scale.masked_fill_(scale == 0, 1.0)
        low = (least / scale).round_()
        return Grid(scale, low, low + steps)
    reach = steps / 2 if kind == "full" else 2 ** (bits - 1) - 1
    scale = reference.scale(x, reach, x.shape[-1]).unsqueeze(-1)
    high = torch.full_like(scale, 2 ** (bits - 1) - 1)
    return Grid(scale, -high - 1 if kind == "full" else -high, high)


def as_stored(grid: Grid, dtype: torch.dtype) -> Tensor:
    """Scales after a round trip; one that moves the largest code by over half a step is refused."""
    scale, reach = grid.scale, torch.maximum(-grid.low, grid.high)
    stored = scale.to(dtype).to(scale.dtype)
    bad = ~((stored - scale).abs() * reach <= scale / 2)
    if bad.any():
        cure = ": scale_dtype=float32" if dtype == torch.float16 else ""
        raise ConfigError(
            f"scale_dtype must hold every scale, got {str(dtype).removeprefix('torch.')} "
            f"for {scale[bad][0].item():.3g}{cure}"
        )
    return stored


def extra_code_used(x: Tensor, grid: Grid, dtype: torch.dtype) -> Grid:
    """`grid`, or the finer one that has the widest weight on its extra code and clips the other side.

    The scale of GPTQ's code leaves the extra code to nobody. At 2 bits this saves 20 to 37% of RTN's
    proxy, from 6 bits on nothing.
    """
    widest = x.gather(-1, x.abs().argmax(-1, keepdim=True))
    finer = Grid((widest / grid.low).to(dtype).to(x.dtype), grid.low, grid.high)
    better = squared_error(x, finer) < GAIN * squared_error(x, grid)  # false for a row of zeros
    return Grid(torch.where(better, finer.scale, grid.scale), grid.low, grid.high)


def squared_error(x: Tensor, grid: Grid) -> Tensor:
    return (grid.codes(x) * grid.scale - x).square().sum(-1, keepdim=True)


def shrunk(x: Tensor, widest: Grid, best: Grid, mirror: bool, dtype: torch.dtype) -> Grid:
    """The best of `best` and of all shrunken grids, group by group."""
    least, scale = x.new_full(best.scale.shape, torch.inf), best.scale
    for share in SHARES:
        s = (widest.scale * share).to(dtype).to(x.dtype)
        q = (x / s).round_()
        for sign in (1, -1) if mirror else (1,):
            y = torch.clamp(q * sign, widest.low, widest.high).mul_(s * sign)
            # |y - x|^2.4 by way of the logarithm: a quarter of the time of pow
            error = y.sub_(x).abs_().log_().mul_(POWER).exp_().sum(-1, keepdim=True)
            better = error < least
            least, scale = torch.where(better, error, least), torch.where(better, s * sign, scale)
    return Grid(scale, best.low, best.high)
