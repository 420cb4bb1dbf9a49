# pyright: basic
"""Fake quantization to any number type in Triton: bit for bit what scaled.py, blocks.py and asymmetric.py give.

A scale whose values fit in a program is found where the values are, in one pass (`_held_kernel`). Longer
ones are found first, by a maximum over memory, and the values follow in tiles (`_long_kernel`). Scales that
are sums (absmean, gaussian) or are searched for come from scales.py: a sum depends on its order.

A type is passed as three fp32 numbers, so that kernels are compiled once for all types of a rule; types
per member of a pack as a table of them.
"""

import contextlib

import torch
import triton
import triton.language as tl
from torch import Tensor

from precisionlaws.kernels import device
from precisionlaws.kernels.device import (
    INTERPRETED,
    constants,
    halves,
    held_rows,
    held_shape,
    load,
    magnitude,
    nearest,
    rint,
    stochastic,
    store,
    uniform_at,
    uniform_rows,
)
from precisionlaws.kernels.numbers import WIDE, Type
from precisionlaws.kernels.philox import At
from precisionlaws.kernels.reference import check_group


@triton.jit
def _scale(x, axis: tl.constexpr, top, RULE: tl.constexpr):
    """Of every row: `reference.scale`, or `blocks.mx_scales`. top: the largest number, per row."""
    most = tl.max(magnitude(x), axis=axis)
    if RULE == "mx":
        exponent = (most >> 23) - (
            top.to(tl.int32, bitcast=True) >> 23
        )  # of subnormals: -127 or less
        exponent = tl.maximum(exponent, -127)
        bits = tl.where(exponent == -127, 0x00400000, (exponent + 127) << 23)
        s = tl.where(most >= 0x7F800000, 0x7FC00000, bits).to(tl.float32, bitcast=True)
    else:
        s = tl.div_rn(most.to(tl.float32, bitcast=True), top)
        s = tl.where(s == 0, 1.0, s)
    return s


@triton.jit
def _grid(x, n):
    """`asymmetric.grid` of every row. n: the largest code, per row."""
    lo, hi = tl.minimum(tl.min(x, axis=1), 0.0), tl.maximum(tl.max(x, axis=1), 0.0)
    nan = tl.max(magnitude(x), axis=1) > 0x7F800000  # of which min and max say nothing
    s = tl.where(nan, float("nan"), tl.div_rn(hi - lo, n))
    return tl.where(s == 0, 1.0, s), lo


@triton.jit
def _with_zero(x, s, lo, n, INTERP: tl.constexpr):
    """Values on the grid that has a zero point, all of one shape."""
    z = tl.clamp(rint(tl.div_rn(tl.abs(lo), s), INTERP), tl.zeros_like(n), n, propagate_nan=tl.PropagateNan.ALL)  # fmt: skip
    q = rint(tl.div_rn(x, s), INTERP) + z
    return (tl.clamp(q, tl.zeros_like(n), n, propagate_nan=tl.PropagateNan.ALL) - z) * s


@triton.jit
def _value(x, s, u, top, low, unit, ROUND: tl.constexpr, WIDE: tl.constexpr, INTERP: tl.constexpr):
    """Values on the grid of s, all of one shape."""
    if ROUND == "midrise":
        y = halves(tl.div_rn(x, tl.where(s == 0, 1.0, s)), top, INTERP)
    elif ROUND == "stochastic":
        y = stochastic(tl.div_rn(x, s), u, top, low, unit, INTERP)
    else:
        y = nearest(tl.div_rn(x, s), top, low, unit, WIDE)
    return y * s


@triton.jit(do_not_specialize=["seed", "first_position"])
def _held_kernel(
    x_ptr,
    y_ptr,
    mask_ptr,  # int8: |x| <= bound * s; not written unless MASK
    given_ptr,  # fp32, a scale per row; not read unless RULE is given
    types_ptr,  # fp32 (members, 3): top, low, unit; not read if PER_MEMBER is 0
    scales,  # in the whole tensor
    top,
    low,
    unit,
    bound,
    seed,
    first_position,
    N: tl.constexpr,  # values per scale
    PER_MEMBER: tl.constexpr,  # scales per member
    BLOCK: tl.constexpr,  # N, rounded up to a power of two
    ROWS: tl.constexpr,  # scales per program
    RULE: tl.constexpr,  # absmax, mx, zero (point) or given
    ROUND: tl.constexpr,  # nearest, stochastic, midrise or zero
    MASK: tl.constexpr,
    WIDE: tl.constexpr,
    FOURS: tl.constexpr,  # N and the first position are multiples of 4
    INTERP: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * ROWS
    rows = tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    offsets = rows[:, None] * N + columns[None, :]
    there = rows < tl.minimum(scales - first, ROWS).to(tl.int32)  # 64-bit masks cost registers
    inside = there[:, None] & (columns < N)[None, :]
    x = load(x_ptr + first * N + offsets, inside, INTERP)
    if PER_MEMBER:
        own = types_ptr + (first + rows) // PER_MEMBER * 3
        top = tl.load(own, mask=there, other=1.0)
        low = tl.load(own + 1, mask=there, other=1.0)
        unit = tl.load(own + 2, mask=there, other=1.0)
    else:
        top = tl.full([ROWS], top, tl.float32)
        low = tl.full([ROWS], low, tl.float32)
        unit = tl.full([ROWS], unit, tl.float32)
    top_, low_ = tl.broadcast_to(top[:, None], x.shape), tl.broadcast_to(low[:, None], x.shape)
    unit_ = tl.broadcast_to(unit[:, None], x.shape)
    if RULE == "zero":
        s, lo = _grid(x, top)
        s, lo = tl.broadcast_to(s[:, None], x.shape), tl.broadcast_to(lo[:, None], x.shape)
        y = _with_zero(x, s, lo, top_, INTERP)
    else:
        if RULE == "given":
            s = tl.load(given_ptr + first + rows, mask=there, other=1.0)
        else:
            s = _scale(x, 1, top, RULE)
        s = tl.broadcast_to(s[:, None], x.shape)
        u = 0.0
        if ROUND == "stochastic":
            start = first_position.to(tl.int64) + first * N
            if FOURS:
                u = uniform_rows(seed, start, N, ROWS, BLOCK)
            else:
                u = uniform_at(seed, start + offsets)
        y = _value(x, s, u, top_, low_, unit_, ROUND, WIDE, INTERP)
        if MASK:
            kept = tl.abs(x) <= s * bound
            tl.store(mask_ptr + first * N + offsets, kept.to(tl.int8), mask=inside)
    store(y_ptr + first * N + offsets, y, inside, INTERP)


@triton.jit(do_not_specialize=["seed", "first_position"])
def _long_kernel(
    x_ptr,
    y_ptr,
    mask_ptr,
    given_ptr,  # fp32, a scale, or with a zero point (scale, lowest), for every n values
    types_ptr,
    n,
    tiles,  # per scale
    top,
    low,
    unit,
    bound,
    seed,
    first_position,
    PER_MEMBER: tl.constexpr,
    ROUND: tl.constexpr,
    MASK: tl.constexpr,
    WIDE: tl.constexpr,
    FOURS: tl.constexpr,
    TILE: tl.constexpr,
    INTERP: tl.constexpr,
):
    scale, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    columns = tl.arange(0, TILE)
    start = tile.to(tl.int64) * TILE
    inside = columns < tl.minimum(n - start, TILE).to(tl.int32)
    at = scale.to(tl.int64) * n + start
    x = load(x_ptr + at + columns, inside, INTERP)
    if PER_MEMBER:
        own = types_ptr + scale // PER_MEMBER * 3
        top, low, unit = tl.load(own), tl.load(own + 1), tl.load(own + 2)
    top = tl.full([TILE], top, tl.float32)
    if ROUND == "zero":
        s = tl.full([TILE], tl.load(given_ptr + scale * 2), tl.float32)
        lo = tl.full([TILE], tl.load(given_ptr + scale * 2 + 1), tl.float32)
        y = _with_zero(x, s, lo, top, INTERP)
    else:
        s = tl.full([TILE], tl.load(given_ptr + scale), tl.float32)
        low, unit = tl.full([TILE], low, tl.float32), tl.full([TILE], unit, tl.float32)
        u = 0.0
        if ROUND == "stochastic":
            position = first_position.to(tl.int64) + at
            if FOURS:
                u = tl.reshape(uniform_rows(seed, position, 4, 1, TILE), (TILE,))
            else:
                u = uniform_at(seed, position + columns)
        y = _value(x, s, u, top, low, unit, ROUND, WIDE, INTERP)
        if MASK:
            kept = tl.abs(x) <= s * bound
            tl.store(mask_ptr + at + columns, kept.to(tl.int8), mask=inside)
    store(y_ptr + at + columns, y, inside, INTERP)


def fake_quantize(
    x: Tensor, mantissa: int, least: int, largest: float, group: int | None, at: At | None = None
) -> Tensor:
    """`scaled.fake_quantize` of fp32, fp16 or bf16. at: rounds stochastically.

    Raises: ValueError for another dtype, or if the last axis is no multiple of `group`.
    """
    return _under(x, (mantissa, least, largest), group, "absmax", at)


def mx(
    x: Tensor, mantissa: int, least: int, largest: float, group: int, at: At | None = None
) -> Tensor:
    """`blocks.mx`. Raises: as `fake_quantize`."""
    return _under(x, (mantissa, least, largest), group, "mx", at)


def fake_quantize_members(x: Tensor, types: Tensor, group: int | None) -> Tensor:
    """`scaled.fake_quantize_members`. Raises: as `fake_quantize`."""
    x = device.checked(x)
    check_group(x, group)
    y = torch.empty_like(x)
    if x.numel():
        members, n = len(types), group or x.numel() // len(types)
        types = types.to(x.device, torch.float32).contiguous()
        given = None
        if n > device.HELD:
            limits = types[:, 0].repeat_interleave(x.numel() // n // members)
            given = _scales(x, limits, n)
        _launch(x, y, n, "absmax", "nearest", (0, 0, 0.0), given=given, types=types)
    return y


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
    """`scaled.rounded`. Raises: as `fake_quantize`."""
    return _given(x, s, (mantissa, least, largest), group, at, midrise, None)[0]


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
    """`scaled.rounded_within`. Raises: as `fake_quantize`."""
    return _given(x, s, (mantissa, least, largest), group, at, midrise, bound)


def asymmetric(x: Tensor, n: float, group: int | None) -> Tensor:
    """`asymmetric.fake_quantize`. Raises: as `fake_quantize`."""
    x = device.checked(x)
    check_group(x, group)
    y = torch.empty_like(x)
    if not x.numel():
        return y
    values, given = group or x.numel(), None
    if values > device.HELD:
        lo, hi = x.view(-1, values).float().aminmax(dim=-1)
        lo, hi = lo.clamp_(max=0), hi.clamp_(min=0)
        s = (hi - lo) / torch.full_like(hi, n)
        given = torch.stack((torch.where(s == 0, 1.0, s), lo), -1)
    _launch(x, y, values, "zero", "zero", (0, 0, n), given=given)
    return y


def _under(x: Tensor, kind: Type, group: int | None, rule: str, at: At | None) -> Tensor:
    """Under scales by a rule."""
    x = device.checked(x)
    check_group(x, group)
    y = torch.empty_like(x)
    if x.numel():
        n = group or x.numel()
        given = None
        if n > device.HELD:
            assert rule == "absmax"  # nobody has MX blocks of 16,384
            given = _scales(x, torch.full((x.numel() // n,), kind[2], device=x.device), n)
        _launch(x, y, n, rule, _rounding(at, False), kind, given=given, at=at)
    return y


def _scales(x: Tensor, limits: Tensor, n: int) -> Tensor:
    """`reference.scale` of n values each, by a maximum over memory."""
    from precisionlaws.kernels import fake_quant

    s = fake_quant.maxima(x, n).view(torch.float32) / limits
    return torch.where(s == 0, 1.0, s)


def _given(
    x: Tensor, s: Tensor, kind: Type, group: int | None, at: At | None, midrise: bool, bound: float | None
) -> tuple[Tensor, Tensor]:  # fmt: skip
    x = device.checked(x)
    check_group(x, group)
    y = torch.empty_like(x)
    mask = torch.empty(x.shape if bound is not None else 0, dtype=torch.bool, device=x.device)
    if x.numel():
        s = s.to(x.device, torch.float32).contiguous()
        n = group or x.numel() // s.numel()
        _launch(
            x, y, n, "given", _rounding(at, midrise), kind, given=s, at=at, mask=mask, bound=bound
        )
    return y, mask


def _rounding(at: At | None, midrise: bool) -> str:
    return "midrise" if midrise else "nearest" if at is None else "stochastic"


def _launch(
    x: Tensor,
    y: Tensor,
    n: int,
    rule: str,
    rounding: str,
    kind: Type,
    *,
    given: Tensor | None = None,
    types: Tensor | None = None,
    at: At | None = None,
    mask: Tensor | None = None,
    bound: float | None = None,
) -> None:
    scales = x.numel() // n
    mantissa, least, largest = kind
    seed, first = at or (0, 0)
    numbers = (largest, 2.0**least, 2.0**-mantissa, bound or 0.0, seed, first)
    tensors = (x, y, *(x if t is None else t for t in (mask, given, types)))
    if mask is not None and bound is not None:
        tensors = (x, y, mask.view(torch.int8), *tensors[3:])
    fixed = {
        "PER_MEMBER": scales // len(types) if types is not None else 0,
        "ROUND": rounding,
        "MASK": bound is not None,
        "WIDE": largest > WIDE,
    }
    with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
        if n <= device.HELD:
            block, rows, warps = held_shape(n, each(rounding))
            rows = held_rows(rows, block, scales)
            fixed |= {"N": n, "BLOCK": block, "ROWS": rows, "RULE": rule, "FOURS": _fours(n, first)}
            grid = (triton.cdiv(scales, rows),)
            _held_kernel[grid](*tensors, scales, *numbers, **constants(warps, **fixed))
            return
        tile = tile_of(n, rounding)
        tiles = triton.cdiv(n, tile)
        fixed |= {"TILE": tile, "FOURS": _fours(n, first)}
        _long_kernel[(scales * tiles,)](*tensors, n, tiles, *numbers, **constants(4, **fixed))


def each(rounding: str) -> int:
    """Values per thread."""
    return device.RANDOM_VALUES if rounding == "stochastic" else device.VALUES


def tile_of(n: int, rounding: str) -> int:
    if INTERPRETED:
        return min(triton.next_power_of_2(n), device.INTERPRETED_TILE)
    return 128 * each(rounding)


def _fours(n: int, first: int) -> bool:
    """Whether four values side by side share a block of Philox."""
    return n % 4 == 0 and first % 4 == 0 and n > 1
