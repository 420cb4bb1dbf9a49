"""Any number type under scales of computing precision: y = nearest(x / s) * s, one s per group.

The absmax scale maps the largest magnitude of a group to the largest number of the type, so nothing is
clipped: s = RN(max|x| / largest), 1 where that is 0. Groups are those of reference.py, which is this
for whole numbers. Under a given scale values beyond the largest number are clipped. A NaN or an infinity
makes its whole group NaN.
"""

from torch import Tensor

from precisionlaws.kernels import numbers, reference
from precisionlaws.kernels.pieces import by_pieces


def fake_quantize(
    x: Tensor, mantissa: int, least: int, largest: float, group: int | None
) -> Tensor:
    """Every value rounded to its group's grid, under absmax scales: same shape and dtype as `x`.

    Raises: ValueError if the last axis is no multiple of `group`.
    """

    def quantize(part: Tensor) -> Tensor:
        s = reference.scale(part, largest, group)
        return rounded(part, s, mantissa, least, largest, group)

    return by_pieces(quantize, x, group)


def rounded(
    x: Tensor,
    s: Tensor,
    mantissa: int,
    least: int,
    largest: float,
    group: int | None,
    u: Tensor | None = None,
) -> Tensor:
    """`x` on the grids of given scales: same shape and dtype.

    u: uniform in [0, 1), one per value: rounds stochastically.
    """
    grouped = reference.split(reference.computing(x), group)
    s = s.to(grouped.dtype).unsqueeze(-1)
    v = grouped / s
    # An infinite scale is of an infinite value; zero codes times infinity would spoil only some.
    if u is None:
        y = numbers.nearest(v, mantissa, least, largest)
    else:
        y = numbers.stochastic(v, u.view(v.shape).to(v.dtype), mantissa, least, largest)
    return y.mul_(s).view(x.shape).to(x.dtype)
