"""Fake quantization in plain torch: defines the result of every backend, and is the path on a CPU.

Symmetric integers of narrow range, one scale per group, no zero point:

    s = RN(max|x| / q_max)  (1 where that is 0),   q = clip(rint(x / s), -q_max, q_max),   y = q * s

with q_max = 2^(b-1) - 1, so that -q_max and q_max both exist and Q(-x) = -Q(x). Ties go to even:
`torch.round` and the hardware's rint agree, floor(x + .5) does not. The arithmetic is fp32 whatever
the input (doing it in bf16 changes 7.5 % of 8-bit codes), fp64 for fp64. The quotient is a true
division: x * (1/s) rounds other codes. A NaN or an infinity makes its whole group NaN.

A group is `group` consecutive values of the last axis; a row is the group of the whole last axis;
`group=None` is one scale for the tensor. `q_max` is a number, or a tensor of shape (E,) with one
value per index of a leading member axis; a tensor-wide scale is then one per member.
"""

import torch
from torch import Tensor

from precisionlaws.kernels import pieces

SMALLEST_NORMAL = torch.finfo(torch.float32).tiny


def q_max_of(bits: int) -> int:
    """The largest code of a narrow symmetric integer: 7 for 4 bits."""
    return 2 ** (bits - 1) - 1


def fake_quantize(x: Tensor, q_max: float | Tensor, group: int | None) -> Tensor:
    """Every value rounded to its group's grid: same shape and dtype as `x`.

    Raises: ValueError if the last axis is no multiple of `group`.
    """
    if isinstance(q_max, Tensor):
        return _fake_quantize(x, q_max, group)
    return pieces.by_pieces(lambda part, _: _fake_quantize(part, q_max, group), x, group)


def _fake_quantize(x: Tensor, q_max: float | Tensor, group: int | None) -> Tensor:
    grouped, limit = _grouped(x, q_max, group)
    s = _quotient(grouped.abs(), limit)
    # The quotient by s is a fresh tensor, so all that follows is in place: 3 or 4 passes and the maximum.
    if _all_normal(s):
        y = (grouped / s).round_().mul_(s)
    else:
        s = s.masked_fill_(s == 0, 1.0)
        y = _clip((grouped / s).round_(), limit).mul_(s)
    return y.view(x.shape).to(x.dtype)


def _all_normal(s: Tensor) -> bool:
    """No scale is 0, subnormal or NaN, so that no code overflows: a question that is free on a CPU only."""
    if not s.is_cpu or torch.compiler.is_compiling() or not s.numel():
        return False
    return s.amin().item() >= SMALLEST_NORMAL


def scale(x: Tensor, q_max: float | Tensor, group: int | None) -> Tensor:
    """Scale of every group, fp32 (fp64 for fp64): (..., C / group), or (1,) or (E,) for tensors."""
    grouped, limit = _grouped(x, q_max, group)
    return scale_of(grouped.abs(), limit).squeeze(-1)


def absmax(x: Tensor, group: int | None) -> Tensor:
    """max|x| of every group, in computing precision: (..., C / group), or (1,) of a tensor."""
    if group is None and pieces.large(x):
        most = [computing(part).abs().amax() for part, _ in pieces.pieces(x)]
        return torch.stack(most).amax(0, keepdim=True)
    return most_of(split(computing(x), group).abs()).squeeze(-1)


def most_of(a: Tensor) -> Tensor:
    """The largest of every group of magnitudes, (..., 1): 0 of none."""
    return _row_max(a) if a.numel() else a.new_zeros(*a.shape[:-1], 1)


def codes(x: Tensor, s: Tensor, q_max: float | Tensor, group: int | None) -> Tensor:
    """Codes of `x` on the grids of given scales, as whole floats in the shape of `x`."""
    grouped, limit = _grouped(x, q_max, group)
    return _clip((grouped / s.to(grouped.dtype).unsqueeze(-1)).round_(), limit).view(x.shape)


def values(q: Tensor, s: Tensor, group: int | None, members: int = 0) -> Tensor:
    """The numbers that codes stand for: q * s in the shape of `q`, in the dtype of `s`.

    members: size of the member axis if there is one scale per member (`group=None`).
    """
    grouped = split(q.to(s.dtype), group, members)
    return (grouped * s.unsqueeze(-1)).view(q.shape)


def _grouped(x: Tensor, q_max: float | Tensor, group: int | None) -> tuple[Tensor, float | Tensor]:
    """`x` in computing precision with one group per last axis, and q_max in a shape that meets it."""
    members = q_max.numel() if isinstance(q_max, Tensor) else 0
    grouped = split(computing(x), group, members)
    if isinstance(q_max, Tensor):
        q_max = q_max.to(grouped.dtype).view(-1, *[1] * (grouped.dim() - 1))
    return grouped, q_max


def computing(x: Tensor) -> Tensor:
    """`x` in computing precision."""
    return x if x.dtype == torch.float64 else x.float()


def split(x: Tensor, group: int | None, members: int = 0) -> Tensor:
    """One group per last axis. Raises: ValueError if groups do not divide the last axis."""
    if group is None:
        return x.reshape(members or 1, -1)  # (E, values)
    n = x.shape[-1]
    if group == n:
        return x if x.is_contiguous() else x.contiguous()  # (..., C)
    check_group(x, group)
    return x.contiguous().unflatten(-1, (n // group, group))  # (..., C / group, group)


def check_group(x: Tensor, group: int | None) -> None:
    """Raises: ValueError if the last axis of `x` is no multiple of `group`."""
    if group is None or group == (n := x.shape[-1]):
        return
    if group < 1 or n % group:
        raise ValueError(f"groups of {group} must divide the last axis, which has {n} values")


def scale_of(a: Tensor, q_max: float | Tensor) -> Tensor:
    """Of groups of magnitudes, (..., 1)."""
    s = _quotient(a, q_max)
    return s.masked_fill_(s == 0, 1.0)


def _quotient(a: Tensor, q_max: float | Tensor) -> Tensor:
    """max|x| / q_max of every group of magnitudes, (..., 1)"""
    if not a.numel():
        return a.new_ones(*a.shape[:-1], 1)
    most = _row_max(a)
    return most.div_(q_max if isinstance(q_max, Tensor) else divisor(most, q_max))


def divisor(x: Tensor, value: float) -> float | Tensor:
    """What divides `x` truly: by a number, CUDA multiplies by its reciprocal."""
    return x.new_full((), value) if x.is_cuda else value


def _row_max(a: Tensor) -> Tensor:
    """Magnitudes (..., n) -> (..., 1). On a CPU aminmax, max and the infinity norm are 2 to 10 times slower."""
    n = a.shape[-1]
    if n >= 128 or not a.is_cpu or torch.compiler.is_compiling():
        return a.amax(-1, keepdim=True)
    if n < 8:
        return torch.max_pool1d(a.view(1, 1, -1), n).view(*a.shape[:-1], 1)
    # Half the time of either: amax of floats is slow on short rows, and as whole numbers magnitudes order alike.
    word = torch.int64 if a.dtype == torch.float64 else torch.int32
    return a.view(word).amax(-1, keepdim=True).view(a.dtype)


def _clip(q: Tensor, q_max: float | Tensor) -> Tensor:
    # Needed even with absmax: a subnormal scale is rounded so coarsely that codes overflow.
    if isinstance(q_max, Tensor):
        return torch.minimum(torch.maximum(q, -q_max, out=q), q_max, out=q)
    return q.clamp_(-q_max, q_max)
