"""Blocks whose scales are stored in a narrow type: MX and NVFP4.

MX (OCP Microscaling v1.0): a power of two per block of the reduced axis, stored as E8M0.

    X = 2^max(floor(log2 max|x|) - floor(log2 largest), -127),   y = nearest(x / X) * X

A block of zeros or of fp32 subnormals has the least scale. Values beyond the largest number are clipped:
with E4M3, those whose significand is over 1.75.

NVFP4: E2M1 values, an E4M3 scale b per block of 16 and an fp32 scale t of the tensor (or of a row, or 1),

    t = max|tensor| / (448 * 6),   b = E4M3(max|block| / 6 / t),   y = E2M1(x / (t b)) * (t b)

Two rules of b are in use: as written, where b may be subnormal, and 0 for a block of zeros, which stay
zeros; or at least 2^-6, with x times (1 / t) / b instead of divided, as torchao has it (`floored`).

A NaN or an infinity makes its block NaN, and with it all that shares t.
"""

import torch
from torch import Tensor

from precisionlaws.kernels import numbers, reference
from precisionlaws.kernels.philox import At, after, uniform_like
from precisionlaws.kernels.pieces import by_pieces
from precisionlaws.kernels.scaled import rounded

E4M3 = numbers.float_type(4, 3, "nan")
E2M1 = numbers.float_type(2, 1, "none")
E4M3_TINY = 2.0**-6  # its smallest normal number


def mx(
    x: Tensor, mantissa: int, least: int, largest: float, group: int, at: At | None = None
) -> Tensor:
    """Every value rounded to its block's grid: same shape and dtype as `x`.

    at: rounds stochastically, by random numbers from there on.
    Raises: ValueError if the last axis is no multiple of `group`.
    """

    def quantize(part: Tensor, first: int) -> Tensor:
        scales = mx_scales(part, largest, group)
        return rounded(part, scales, mantissa, least, largest, group, after(at, first))

    return by_pieces(quantize, x, group)


def mx_scales(x: Tensor, largest: float, group: int) -> Tensor:
    """(..., C / group) powers of two, 2^-127 at least; NaN for a block that is not finite."""
    most = reference.absmax(x, group)
    exponent = torch.frexp(most).exponent - torch.frexp(torch.tensor(largest)).exponent
    exponent.masked_fill_(most == 0, -127).clamp_(min=-127)
    return numbers.power_of_two(exponent, most.dtype).masked_fill_(~most.isfinite(), torch.nan)


def nvfp4(x: Tensor, group: int, outer: int | None, floored: bool, at: At | None = None) -> Tensor:
    """Every value rounded to its block's grid: same shape and dtype as `x`.

    outer: values per fp32 scale, None for the whole tensor, 0 for no such scale.
    at: rounds stochastically, by random numbers from there on.
    Raises: ValueError if the last axis is no multiple of `group`.
    """
    whole = None if outer else nvfp4_outer(x, outer)

    def quantize(part: Tensor, first: int) -> Tensor:
        t = nvfp4_outer(part, outer) if whole is None else whole
        b = nvfp4_scales(part, t, group, floored)
        return nvfp4_rounded(part, b, t, group, floored, after(at, first))

    return by_pieces(quantize, x, group)


def nvfp4_outer(x: Tensor, outer: int | None) -> Tensor:
    """t, in computing precision, in a shape that meets the blocks; 0 of zeros."""
    if outer == 0:
        return reference.computing(x.new_ones(1))
    most = reference.absmax(x, outer)
    return (most.unsqueeze(-1) if outer else most) / (E4M3[2] * E2M1[2])


def nvfp4_scales(x: Tensor, t: Tensor, group: int, floored: bool) -> Tensor:
    """b of every block, (..., C / group)."""
    blocked = _blocked(x, group)
    b = reference.absmax(blocked, group) / E2M1[2] / torch.where(t == 0, 1.0, t)
    spoilt = ~b.isfinite()
    if floored:
        b = b.clamp(min=E4M3_TINY)
    return numbers.nearest(b, *E4M3).masked_fill_(spoilt, torch.nan)


def nvfp4_rounded(
    x: Tensor, b: Tensor, t: Tensor, group: int, floored: bool, at: At | None = None
) -> Tensor:
    """`x` on the grids of given scales: same shape and dtype."""
    grouped = _blocked(x, group)
    d = (t * b).unsqueeze(-1)
    if floored:
        v = grouped * ((1.0 / torch.where(t == 0, 1.0, t)) / b).unsqueeze(-1)
    else:
        v = grouped / torch.where(d == 0, 1.0, d)
    if at is None:
        y = numbers.nearest(v, *E2M1)
    else:
        y = numbers.stochastic(v, uniform_like(v, at).to(v.dtype), *E2M1)
    return y.mul_(d).view(x.shape).to(x.dtype)


def _blocked(x: Tensor, group: int) -> Tensor:
    """(..., C / group, group), in computing precision."""
    reference.check_group(x, group)
    return reference.computing(x).contiguous().unflatten(-1, (x.shape[-1] // group, group))
