# pyright: basic
"""What the Triton kernels share: loads and stores, rounding to a number type, random numbers.

Bit-identity with plain torch rests on this: fp32 arithmetic; `div_rn`, since `/` compiles to an
approximate division; no fusion of products into sums; ties to even; maxima taken on the bits, where NaN
is larger than infinity and so spoils its group. No fp8 or bf16 cast decides a value: the interpreter's
are wrong, and the hardware's differ between architectures.

Importing this module imports triton: ops.py does so late.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

INTERPRETED = not isinstance(tl.max, triton.JITFunction)  # what TRITON_INTERPRET was at import
HELD = 16384  # values of one scale that one program holds in registers
VALUES = 32  # per thread: 8 vector loads in flight
RANDOM_VALUES = 16  # the same where each needs a random number: more would spill
TILE = 128 * VALUES  # per program, or per step of a loop
INTERPRETED_TILE = 1 << 20  # the interpreter's time is per program, not per value


@triton.jit
def load(pointer, inside, INTERP: tl.constexpr):
    x = tl.load(pointer, mask=inside, other=0.0)
    if INTERP and x.dtype == tl.bfloat16:  # the interpreter casts bf16 subnormals wrongly
        y = (x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        y = x.to(tl.float32)
    return y


@triton.jit
def store(pointer, y, inside, INTERP: tl.constexpr):
    if INTERP and pointer.dtype.element_ty == tl.bfloat16:  # the interpreter truncates
        bits = y.to(tl.uint32, bitcast=True)
        even = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        even = tl.where((bits & 0x7FFFFFFF) > 0x7F800000, (bits >> 16) | 0x40, even)
        tl.store(pointer, even.to(tl.uint16).to(tl.bfloat16, bitcast=True), mask=inside)
    else:
        tl.store(pointer, y.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
def magnitude(x):
    """|x| as an integer: ordered as |x| is, with NaN above infinity."""
    return x.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def signed(y, x):
    """|y| with the sign of x."""
    sign = x.to(tl.int32, bitcast=True) & -2147483648
    return (magnitude(y) | sign).to(tl.float32, bitcast=True)


@triton.jit
def rint(q, INTERP: tl.constexpr):
    if INTERP:  # has no libdevice; exact for |q| < 2^22
        whole = signed((tl.abs(q) + 12582912.0) - 12582912.0, q)
    else:
        whole = libdevice.rint(q)
    return whole


@triton.jit
def floor(q, INTERP: tl.constexpr):
    """Of q >= 0. (tl.floor flushes subnormals.)"""
    whole = rint(q, INTERP)
    return tl.where(whole > q, whole - 1.0, whole)


@triton.jit
def within(x, limit):
    """x, or the nearer of ±limit, of one shape with x. By default, clamp turns NaN into a bound."""
    return tl.clamp(x, -limit, limit, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def power(v, low):
    """2^floor(log2 |v|), at least `low`, of one shape with v; infinity for NaN."""
    exponent = (v.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
    return tl.maximum(exponent, low)


@triton.jit
def nearest(v, top, low, unit, WIDE: tl.constexpr):
    """`numbers.nearest` of the type of 2^-mantissa `unit`, 2^least `low` and largest `top`, all of one shape.

    WIDE: in fp64, because 1.5 * 2^23 steps may overflow.
    """
    v = within(v, top)
    shift = power(v, low)
    if WIDE:
        wide = shift.to(tl.float64) * (unit.to(tl.float64) * 6755399441055744.0)  # 1.5 * 2^52
        y = ((v.to(tl.float64) + wide) - wide).to(tl.float32)
    else:
        shift = shift * (unit * 12582912.0)
        y = (v + shift) - shift
    return signed(y, v)


@triton.jit
def stochastic(v, u, top, low, unit, INTERP: tl.constexpr):
    """`numbers.stochastic`, all of one shape."""
    v = within(v, top)
    step = power(v, low) * unit
    y = floor(tl.div_rn(tl.abs(v), step) + u, INTERP) * step
    return signed(tl.minimum(y, top, propagate_nan=tl.PropagateNan.ALL), v)


@triton.jit
def halves(v, top, INTERP: tl.constexpr):
    """`numbers.halves`, of one shape."""
    y = floor(tl.abs(v), INTERP) + 0.5
    return signed(tl.minimum(y, top, propagate_nan=tl.PropagateNan.ALL), v)


@triton.jit
def uniform(word):
    return (word >> 8).to(tl.float32) * 5.9604644775390625e-08  # 2^-24


@triton.jit
def uniform_at(seed, positions):
    """`philox.uniform` at any int64 positions: four times the work of `uniform_rows`."""
    a, b, c, d = tl.randint4x(seed, (positions // 4).to(tl.uint32))
    lane = (positions % 4).to(tl.int32)
    word = tl.where(lane == 0, a, tl.where(lane == 1, b, tl.where(lane == 2, c, d)))
    return uniform(word)


@triton.jit
def uniform_rows(seed, start, N, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Of ROWS rows of N values, the first at `start`: (ROWS, BLOCK). N and start are multiples of 4."""
    rows, fours = tl.arange(0, ROWS), tl.arange(0, BLOCK // 4)
    inside = rows[:, None] * (N // 4) + fours[None, :]
    a, b, c, d = tl.randint4x(seed, (start // 4).to(tl.uint32) + inside.to(tl.uint32))
    return tl.reshape(uniform(tl.join(tl.join(a, c), tl.join(b, d))), (ROWS, BLOCK))


def held_shape(n: int, each: int = VALUES) -> tuple[int, int, int]:
    """(BLOCK, ROWS, warps) for scales of n values, `each` per thread."""
    block = triton.next_power_of_2(n)
    return block, max(1, 128 * each // block), max(4, block // (32 * each))


def held_rows(rows: int, block: int, scales: int) -> int:
    """Scales per program: all of them where programs are interpreted."""
    if not INTERPRETED:
        return rows
    return min(triton.next_power_of_2(scales), max(1, INTERPRETED_TILE // block))


def constants(warps: int, **fixed: Any) -> dict[str, Any]:
    """Compile-time arguments and options. Fusion is on by default in triton 3.6 to 3.9."""
    return {**fixed, "INTERP": INTERPRETED, "num_warps": warps, "enable_fp_fusion": False}


def checked(x: Tensor) -> Tensor:
    """Raises: ValueError for a dtype that the kernels do not load."""
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"Triton fake-quantizes fp32, fp16 and bf16, not {x.dtype}")
    return x.contiguous()
