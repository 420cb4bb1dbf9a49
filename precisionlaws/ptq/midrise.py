"""Evenly spaced levels ± 1/2, ± 3/2 ... steps, 2^b of them: the step that costs a normal source least."""

import functools
import itertools
import math

TOLERANCE = 1e-6  # of the step; the error is flat there


@functools.cache
def step(bits: int) -> float:
    """In standard deviations (Max 1960, table II)."""
    low, high, golden = 0.0, 2.0, (math.sqrt(5) - 1) / 2  # one bit: 1.596
    while high - low > TOLERANCE:
        a, b = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, b) if error(a, bits) < error(b, bits) else (a, high)
    return (low + high) / 2


def error(step: float, bits: int) -> float:
    """Mean squared error of N(0, 1) under rounding to nearest."""
    levels = 2 ** (bits - 1)
    edges = [step * k for k in range(levels)] + [math.inf]
    total = 0.0
    for a, b in itertools.pairwise(edges):
        v = a + step / 2
        mass = (math.erfc(a / math.sqrt(2)) - math.erfc(b / math.sqrt(2))) / 2
        slope = density(a) - density(b)  # of ∫ x
        square = mass + a * density(a) - (b * density(b) if b < math.inf else 0)  # of ∫ x²
        total += square - 2 * v * slope + v * v * mass
    return 2 * total


def density(x: float) -> float:
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
