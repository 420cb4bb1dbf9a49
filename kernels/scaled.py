"""Any number type under scales of computing precision: y = nearest(x / s) * s, one s per group.

The absmax scale maps the largest magnitude of a group to the largest number of the type, so nothing is
clipped: s = RN(max|x| / largest), 1 where that is 0. Groups are those of reference.py, which is this
for whole numbers. Under a given scale values beyond the largest number are clipped. A NaN or an infinity
makes its whole group NaN.

Mid-rise types are the 2^b odd multiples of half a step, s/2, 3s/2 ... and their negatives, without zero:
y = sign(x) (min(floor|x/s|, largest - 1/2) + 1/2) s; a group whose scale is 0 becomes zeros.
"""

import torch
from torch import Tensor

from precisionlaws.kernels import numbers, reference
from precisionlaws.kernels.philox import At, after, uniform_like
from precisionlaws.kernels.pieces import by_pieces


def fake_quantize(
    x: Tensor, mantissa: int, least: int, largest: float, group: int | None, at: At | None = None
) -> Tensor:
    """Every value rounded to its group's grid, under absmax scales: same shape and dtype as `x`.

    at: rounds stochastically, by random numbers from there on.
    Raises: ValueError if the last axis is no multiple of `group`.
    """

    def quantize(part: Tensor, first: int) -> Tensor:
        if at is not None:
            s = reference.scale(part, largest, group)
            return rounded(part, s, mantissa, least, largest, group, after(at, first))
        grouped = reference.split(reference.computing(part), group)
        a = grouped.abs()
        s = reference.scale_of(a, largest)
        y = numbers.nearest_(a.div_(s), mantissa, least, largest).mul_(s).copysign_(grouped)
        return y.view(part.shape).to(x.dtype)

    return by_pieces(quantize, x, group)


def fake_quantize_members(x: Tensor, types: Tensor, group: int | None) -> Tensor:
    """`fake_quantize` of (E, ...), fp32 or less, to a type per index of the first axis: same shape and dtype.

    types: (E, 3), rows of `table`.
    Raises: ValueError if the last axis is no multiple of `group`.
    """
    largest, low, unit = types.to(x.device, torch.float32).unbind(1)
    grouped = reference.split(x.float(), group, len(types))
    largest, low, unit = (t.view(-1, *[1] * (grouped.dim() - 1)) for t in (largest, low, unit))
    s = reference.scale(x.float(), largest.view(-1), group).unsqueeze(-1)
    return numbers.nearest_of(grouped / s, largest, low, unit).mul_(s).view(x.shape).to(x.dtype)


def table(kinds: list[numbers.Type]) -> Tensor:
    """Types of members: rows (largest, 2^least, 2^-mantissa). Wide ones (numbers.py) cannot be members."""
    return torch.tensor([[top, 2.0**least, 2.0**-mantissa] for mantissa, least, top in kinds])


def rounded(
    x: Tensor,
    s: Tensor,
    mantissa: int,
    least: int,
    largest: float,
    group: int | None,
    at: At | None = None,
    midrise: bool = False,
) -> Tensor:
    """`x` on the grids of given scales: same shape and dtype."""
    grouped = reference.split(reference.computing(x), group)
    s = s.to(grouped.dtype).unsqueeze(-1)
    # An infinite scale is of an infinite value; zero codes times infinity would spoil only some.
    if midrise:
        y = numbers.halves(grouped / torch.where(s == 0, 1.0, s), largest)
    elif at is None:
        a = grouped.abs().div_(s)
        y = numbers.nearest_(a, mantissa, least, largest).copysign_(grouped)
    else:
        v = grouped / s
        y = numbers.stochastic(v, uniform_like(v, at).to(v.dtype), mantissa, least, largest)
    return y.mul_(s).view(x.shape).to(x.dtype)


def rounded_within(
    x: Tensor,
    s: Tensor,
    mantissa: int,
    least: int,
    largest: float,
    group: int | None,
    bound: float,
    at: At | None = None,
    midrise: bool = False,
) -> tuple[Tensor, Tensor]:
    """The same, and where |x| <= bound * s."""

    def quantize(part: Tensor, first: int) -> Tensor:
        if part is x:
            mine = s
        else:
            mine = s.reshape(-1)[first // n : (first + part.numel()) // n]
            mine = mine if group == part.shape[-1] else mine.view(len(part), -1)
        return rounded(part, mine, mantissa, least, largest, group, after(at, first), midrise)

    n = group or x.numel()
    inside = reference.split(reference.computing(x), group).abs() <= bound * s.unsqueeze(-1)
    return by_pieces(quantize, x, group), inside.view(x.shape)
