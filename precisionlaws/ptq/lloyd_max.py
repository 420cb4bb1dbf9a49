"""The 2^b levels that cost a normal source least: what every code of as many bits per number is measured by.

Lloyd 1957 and Max 1960: every level is the mean of its cell, every edge lies halfway between two levels. For
a density whose logarithm is concave only one set of levels does both (Fleischer 1964). We solve v = c(v), c the
means of the cells of v, by Newton's method: a mean moves with its two edges and less than they do, so the
matrix has three diagonals and its rows are dominated by the middle one.
"""

import functools

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

STEPS = 30  # of Newton; 7 are enough from 1 to 8 bits

Array = NDArray[np.float64]


@functools.cache
def levels(bits: int) -> Array:
    """The positive ones, rising (2^(b-1),), in standard deviations. Raises: RuntimeError without an end."""
    n = 2 ** (bits - 1)
    v = 3**0.5 * ndtri(
        0.5 + (np.arange(n) + 0.5) / (2 * n)
    )  # best as n grows (Panter and Dite 1951)
    for _ in range(STEPS):
        edge, mass, moment = cells(v)
        c, weight = moment / mass, density(edge) / 2
        up = weight[1:-1] * (edge[1:-1] - c[:-1]) / mass[:-1]  # ∂c_i / ∂v_(i+1)
        down = weight[1:-1] * (c[1:] - edge[1:-1]) / mass[1:]
        slopes = np.diag(1 - np.append(up, 0) - np.insert(down, 0, 0))
        change = np.linalg.solve(slopes - np.diag(up, 1) - np.diag(down, -1), c - v)
        v = v + change
        if np.abs(change).max() < 1e-9:  # the error is flat there
            v.flags.writeable = False  # one array for all who ask
            return v
    raise RuntimeError(f"no levels of {bits} bits after {STEPS} steps")


def error(v: Array) -> float:
    """Mean squared error of N(0, 1) under rounding to the nearest of ± v, v positive and rising."""
    edge, mass, moment = cells(v)
    at = np.append(edge[:-1] * density(edge[:-1]), 0)
    square = mass + at[:-1] - at[1:]  # of ∫ x²
    return float(2 * (square - 2 * v * moment + v * v * mass).sum())


def cells(v: Array) -> tuple[Array, Array, Array]:
    """Edges (n + 1,) from 0 to infinity, mass and first moment of every cell (n,)."""
    edge = np.concatenate([[0.0], (v[1:] + v[:-1]) / 2, [np.inf]])
    return edge, -np.diff(ndtr(-edge)), -np.diff(density(edge))


def density(x: Array) -> Array:
    return np.exp(-x * x / 2) / np.sqrt(2 * np.pi)
