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

import math

import torch
from torch import Tensor

from precisionlaws.kernels import numbers, reference
from precisionlaws.kernels.philox import At, after, uniform_like
from precisionlaws.kernels.pieces import by_pieces
from precisionlaws.kernels.scaled import rounded

E4M3 = numbers.float_type(4, 3, "nan")
E2M1 = numbers.float_type(2, 1, "none")
E4M3_TINY = 2.0**-6  # its smallest normal number
SMALLEST = {torch.float32: 2.0**-149, torch.float64: 2.0**-1074}  # above 0


def mx(
    x: Tensor, mantissa: int, least: int, largest: float, group: int, at: At | None = None
) -> Tensor:
    """Every value rounded to its block's grid: same shape and dtype as `x`.

    at: rounds stochastically, by random numbers from there on.
    Raises: ValueError if the last axis is no multiple of `group`.
    """

    def quantize(part: Tensor, first: int) -> Tensor:
        if at is not None:
            scales = mx_scales(part, largest, group)
            return rounded(part, scales, mantissa, least, largest, group, after(at, first))
        blocked = _blocked(part, group)
        a = blocked.abs()
        s = _mx_scales(reference.most_of(a), largest)
        y = numbers.nearest_(a.div_(s), mantissa, least, largest).mul_(s).copysign_(blocked)
        return y.view(part.shape).to(x.dtype)

    return by_pieces(quantize, x, group)


def mx_scales(x: Tensor, largest: float, group: int) -> Tensor:
    """(..., C / group) powers of two, 2^-127 at least; NaN for a block that is not finite."""
    return _mx_scales(reference.absmax(x, group), largest)


def _mx_scales(most: Tensor, largest: float) -> Tensor:
    """Of the largest magnitude of every block."""
    s = numbers.power_below(most).mul_(0.5 ** (math.frexp(largest)[1] - 1)).clamp_(min=2.0**-127)
    return s.add_(most * 0)  # NaN of what is not finite


def nvfp4(x: Tensor, group: int, outer: int | None, floored: bool, at: At | None = None) -> Tensor:
    """Every value rounded to its block's grid: same shape and dtype as `x`.

    outer: values per fp32 scale: the last axis, None for the whole tensor, 0 for no such scale.
    at: rounds stochastically, by random numbers from there on.
    Raises: ValueError if the last axis is no multiple of `group`.
    """
    reference.check_group(x, group)
    if not x.numel():
        return torch.empty_like(x)
    every = _block_most(x, group) if outer is None else None
    t = (
        None
        if outer
        else _outer(reference.computing(x.new_zeros(()) if every is None else every.amax()), outer)
    )

    def quantize(part: Tensor, first: int) -> Tensor:
        blocked = _blocked(part, group)
        a = blocked.abs()
        if every is None:
            most = reference.most_of(a)
        else:
            mine = every[first // group : (first + a.numel()) // group]
            most = mine.view(*a.shape[:-1], 1).to(a.dtype)
        top = _outer(most.amax(-2, keepdim=True), outer) if t is None else t
        b = _nvfp4_scales(most, top, floored)
        y = _nvfp4_rounded(a, blocked, b, top, floored, after(at, first))
        return y.view(part.shape).to(x.dtype)

    return by_pieces(quantize, x, group)


def _block_most(x: Tensor, group: int) -> Tensor:
    """The largest magnitude of every block, flat, in the dtype of `x`, which holds it exactly."""

    def most(part: Tensor, _: int) -> Tensor:
        return reference.most_of(_blocked(part, group).abs()).squeeze(-1).to(x.dtype)

    return by_pieces(most, x, group, x.shape[-1] // group).view(-1)


def nvfp4_outer(x: Tensor, outer: int | None) -> Tensor:
    """t, in computing precision, in a shape that meets the blocks; 0 of zeros."""
    if outer == 0:
        return reference.computing(x.new_ones(1))
    most = reference.absmax(x, outer)
    return _outer(most.unsqueeze(-1) if outer else most, outer)


def _outer(most: Tensor, outer: int | None) -> Tensor:
    """t, of the largest magnitude that it spans."""
    if outer == 0:
        return torch.ones_like(reference.computing(most))
    return most / reference.divisor(most, E4M3[2] * E2M1[2])


def nvfp4_scales(x: Tensor, t: Tensor, group: int, floored: bool) -> Tensor:
    """b of every block, (..., C / group)."""
    return _nvfp4_scales(reference.most_of(_blocked(x, group).abs()).squeeze(-1), t, floored)


def _nvfp4_scales(most: Tensor, t: Tensor, floored: bool) -> Tensor:
    """Of the largest magnitude of every block."""
    b = (most / reference.divisor(most, E2M1[2])).div_(t.masked_fill(t == 0, 1.0))
    spoilt = b * 0  # NaN of what is not finite
    if floored:
        b = b.clamp_(min=E4M3_TINY)
    return numbers.nearest_(b, *E4M3).add_(spoilt)


def nvfp4_rounded(
    x: Tensor, b: Tensor, t: Tensor, group: int, floored: bool, at: At | None = None
) -> Tensor:
    """`x` on the grids of given scales: same shape and dtype."""
    blocked = _blocked(x, group)
    y = _nvfp4_rounded(blocked.abs(), blocked, b.unsqueeze(-1), t.unsqueeze(-1), floored, at)
    return y.view(x.shape).to(x.dtype)


def _nvfp4_rounded(
    a: Tensor, blocked: Tensor, b: Tensor, t: Tensor, floored: bool, at: At | None
) -> Tensor:
    """a: the magnitudes of `blocked`, (..., C / group, group), which are used up. b, t: (..., 1)."""
    d = t * b
    if floored:
        v = a.mul_((1.0 / t.masked_fill(t == 0, 1.0)) / b)
    else:  # by 0: largest numbers times 0, and the zeros of a block of zeros
        v = a.div_(d.clamp(min=SMALLEST[a.dtype]))
    if at is None:
        y = numbers.nearest_(v, *E2M1)
    else:
        y = numbers.stochastic(v, uniform_like(v, at).to(v.dtype), *E2M1)
    return y.mul_(d).copysign_(blocked)


def _blocked(x: Tensor, group: int) -> Tensor:
    """(..., C / group, group), in computing precision."""
    reference.check_group(x, group)
    return reference.computing(x).contiguous().unflatten(-1, (x.shape[-1] // group, group))
