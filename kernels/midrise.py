"""2^b numbers without zero, s/2, 3s/2 ... and their negatives: y = sign(x) (min(floor|x/s|, n) + 1/2) s.

Halfway values go away from zero, so that Q(-x) = -Q(x); a group whose scale is 0 becomes zeros.
"""

import torch
from torch import Tensor

from precisionlaws.kernels import reference


def rounded(x: Tensor, s: Tensor, largest: float, group: int | None) -> Tensor:
    """`x` on the grids of given scales: same shape and dtype. largest: (2^b - 1) / 2."""
    grouped = reference.split(reference.computing(x), group)
    s = s.to(grouped.dtype).unsqueeze(-1)
    v = grouped / torch.where(s == 0, 1.0, s)
    y = v.abs().floor_().add_(0.5).clamp_(max=largest).copysign_(v)
    return y.mul_(s).view(x.shape).to(x.dtype)
