"""Integers with a zero point: the codes 0 .. 2^b - 1 span the values of a group, and 0 is one of them.

    lo = min(x, 0), hi = max(x, 0),   s = RN((hi - lo) / n)  (1 where that is 0),  n = 2^b - 1
    z = clip(rint(-lo / s), 0, n),    q = clip(rint(x / s) + z, 0, n),   y = (q - z) * s

Groups, ties and precision are those of reference.py. A NaN or an infinity makes its whole group NaN.
"""

import torch
from torch import Tensor

from precisionlaws.kernels import reference
from precisionlaws.kernels.pieces import by_pieces


def fake_quantize(x: Tensor, n: float, group: int | None) -> Tensor:
    """Every value rounded to its group's grid: same shape and dtype as `x`.

    Raises: ValueError if the last axis is no multiple of `group`.
    """
    return by_pieces(lambda part, _: rounded(part, *grid(part, n, group), n, group), x, group)


def grid(x: Tensor, n: float, group: int | None) -> tuple[Tensor, Tensor]:
    """(s, z) of every group: (..., C / group), or (1,) of a tensor."""
    grouped = reference.split(reference.computing(x), group)
    if not grouped.numel():
        empty = grouped.new_ones(grouped.shape[:-1])
        return empty, empty - 1
    lo, hi = grouped.amin(-1).clamp_(max=0), grouped.amax(-1).clamp_(min=0)
    s = (hi - lo) / torch.full_like(hi, n)  # a tensor: by a number, CUDA multiplies instead
    s = s.masked_fill_(s == 0, 1.0)
    return s, (lo.abs() / s).round_().clamp_(0, n)


def rounded(x: Tensor, s: Tensor, z: Tensor, n: float, group: int | None) -> Tensor:
    """`x` on the grids of given scales and zero points: same shape and dtype."""
    grouped = reference.split(reference.computing(x), group)
    s, z = s.unsqueeze(-1), z.unsqueeze(-1)
    q = (grouped / s).round_().add_(z).clamp_(0, n)
    return q.sub_(z).mul_(s).view(x.shape).to(x.dtype)
