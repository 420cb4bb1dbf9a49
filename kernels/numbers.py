"""Number types: a value rounded to the nearest number of a type, by arithmetic on its exponent bits.

A type is three numbers. `mantissa`: stored fraction bits; `least`: the exponent of the smallest normal
number, below which the step stays 2^(least - mantissa); `largest`: the greatest number. An integer is a
type whose numbers are all subnormal: least = mantissa makes the step 1.

    step = 2^(max(floor(log2 |x|), least) - mantissa),   y = rint(x / step) * step, within ±largest

Ties go to even. Infinities become ±largest, NaN stays NaN, and the sign of zero is kept. No division and
no logarithm: 2^floor(log2 |x|) is what remains of x without its fraction bits, and adding 1.5 * 2^23
steps (fp64: 2^52) makes the adder round. So every backend gives the same bits, with no fp8 casts.

Everything is computed in the type of `x`, fp32 or fp64; the results fit in bf16 up to 7 mantissa bits.
"""

import torch
from torch import Tensor

Type = tuple[int, int, float]  # mantissa, least, largest
WIDE = 2.0**100  # beyond it, 1.5 * 2^23 steps may be more than fp32 holds


def float_type(exponent: int, mantissa: int, specials: str) -> Type:
    """A float of `exponent` and `mantissa` bits, bias 2^(exponent - 1) - 1.

    specials: what the top codes mean. `none`: numbers; `nan`: the very last code is NaN (E4M3 of OFP8);
    `ieee`: the top exponent is infinity and NaN.
    """
    bias = 2 ** (exponent - 1) - 1
    top = 2**exponent - 1 - bias - (specials == "ieee")
    lost = 2 if specials == "nan" else 1  # steps below the next power of two
    least, unit = 1 - bias, 2.0**-mantissa
    if specials == "nan" and mantissa == 0:
        return mantissa, least, 2.0 ** (top - 1)
    return mantissa, least, 2.0**top * (2 - lost * unit)


def int_type(q_max: int) -> Type:
    """Whole numbers from -q_max to q_max."""
    digits = q_max.bit_length()
    return digits, digits, float(q_max)


def nearest(x: Tensor, mantissa: int, least: int, largest: float) -> Tensor:
    """The nearest number of the type to each value: fresh, same shape and dtype."""
    return nearest_(x.abs(), mantissa, least, largest).copysign_(x)


def nearest_(a: Tensor, mantissa: int, least: int, largest: float) -> Tensor:
    """`nearest` of values that are not negative, in their place (but for wide types in fp32)."""
    if largest > WIDE and a.dtype == torch.float32:
        return nearest_(a.double(), mantissa, least, largest).float()
    a = a.clamp_(max=largest)
    power, shift = _power(a, least), 1.5 * 2.0 ** (_digits(a) - mantissa)
    # Two passes: the sum has one bit per step. (alpha * power is exact.)
    return a.add_(power, alpha=shift).sub_(power, alpha=shift)


def stochastic(x: Tensor, u: Tensor, mantissa: int, least: int, largest: float) -> Tensor:
    """Rounded up in magnitude with the probability of the remainder: floor(|x| / step + u) steps.

    u: uniform in [0, 1), one per value. Beyond ±largest nothing is random.
    """
    v = x.clamp(-largest, largest)
    step = _power(v, least).mul_(2.0**-mantissa)
    y = (v.abs() / step).add_(u).floor_().mul_(step)
    return y.clamp_(max=largest).copysign_(v)


def halves(x: Tensor, largest: float) -> Tensor:
    """The nearest of ±1/2, ±3/2 .. ±largest: fresh, same shape and dtype. Whole numbers go away from zero,
    so that Q(-x) = -Q(x)."""
    return x.abs().floor_().add_(0.5).clamp_(max=largest).copysign_(x)


def nearest_of(x: Tensor, largest: Tensor, low: Tensor, unit: Tensor) -> Tensor:
    """`nearest` with a type per value, fp32: largest number, 2^least and 2^-mantissa in shapes that meet `x`."""
    v = x.clamp(-largest, largest)
    exponent = (v.view(torch.int32) & 0x7F800000).view(torch.float32)
    shift = torch.maximum(exponent, low).mul_(unit * 1.5 * 2.0**23)
    return (v + shift).sub_(shift).copysign_(v)


def numbers(mantissa: int, least: int, largest: float) -> Tensor:
    """Every number of the type that is not negative, in order, fp64."""
    unit = 2.0**-mantissa
    below = torch.arange(0, 1, unit, dtype=torch.float64) * 2.0**least
    exponents = range(least, int(torch.tensor(largest).log2()) + 2)
    normal = torch.arange(1, 2, unit, dtype=torch.float64)
    every = torch.cat([below, *(normal * 2.0**e for e in exponents)])
    return every[every <= largest]


def power_of_two(exponent: Tensor, dtype: torch.dtype) -> Tensor:
    """2^exponent, exactly: by its bits, because pow may be off."""
    return (exponent.long() + 1023 << 52).view(torch.float64).to(dtype)


def power_below(v: Tensor) -> Tensor:
    """2^floor(log2 |v|) of normal values: fresh; 0 for zeros and subnormals, infinity for what is not finite."""
    kind, mask = (
        (torch.int64, 0x7FF0000000000000) if v.dtype == torch.float64 else (torch.int32, 0x7F800000)
    )
    return (v.view(kind) & mask).view(v.dtype)


def _power(v: Tensor, least: int) -> Tensor:
    """2^max(floor(log2 |v|), least); infinity for NaN, which then stays NaN."""
    return power_below(v).clamp_(min=2.0**least)


def _digits(v: Tensor) -> int:
    return 52 if v.dtype == torch.float64 else 23
