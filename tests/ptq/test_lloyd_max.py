"""Against the table of Max (1960, IRE Trans. Inf. Theory 6), against 30-digit arithmetic, and by what defines it."""

import numpy as np
import pytest

from precisionlaws.ptq import lloyd_max, midrise

PRINTED = {1: 0.3634, 2: 0.1175, 3: 0.03454, 4: 0.009497, 5: 0.002499}
EXACT = {
    1: 0.363380227632,
    2: 0.117481847829,
    3: 0.0345477607885,
    4: 0.00950100800819,
    5: 0.00250466835567,
    6: 0.000644239665317,
}
LEVELS = {  # as printed
    1: [0.7980],
    2: [0.4528, 1.510],
    3: [0.2451, 0.7560, 1.344, 2.152],
    4: [0.1284, 0.3881, 0.6568, 0.9424, 1.256, 1.618, 2.069, 2.733],
}


@pytest.mark.parametrize("bits", EXACT)
def test_errors_are_exact(bits: int) -> None:
    assert lloyd_max.error(lloyd_max.levels(bits)) == pytest.approx(EXACT[bits], rel=1e-10)


@pytest.mark.parametrize("bits", PRINTED)
def test_published_errors(bits: int) -> None:
    """To a unit of the fourth digit; at 4 and 5 bits the printed ones lie below the minimum, by .04 and .2%."""
    unit = 10 ** np.floor(np.log10(PRINTED[bits])) / 1000
    off = lloyd_max.error(lloyd_max.levels(bits)) - PRINTED[bits]
    assert abs(off) < unit if bits < 4 else 0 < off < 0.0025 * PRINTED[bits]


@pytest.mark.parametrize("bits", LEVELS)
def test_published_levels(bits: int) -> None:
    assert lloyd_max.levels(bits) == pytest.approx(LEVELS[bits], abs=6e-4)


@pytest.mark.parametrize("bits", range(1, 9))
def test_levels_are_the_means_of_their_cells(bits: int) -> None:
    """By sums over a fine grid, whose edges are not those of cells: nothing is shared with the solver."""
    v, x = lloyd_max.levels(bits), (np.arange(1_000_000) + 0.5) * 1e-5
    cell = np.searchsorted((v[1:] + v[:-1]) / 2, x)
    weight = np.exp(-x * x / 2)
    mass = np.bincount(cell, weight)
    assert np.bincount(cell, weight * x) / mass == pytest.approx(v, abs=1e-5)
    error = (weight * (x - v[cell]) ** 2).sum() / weight.sum()
    assert lloyd_max.error(v) == pytest.approx(error, rel=1e-6)


@pytest.mark.parametrize("bits", range(1, 9))
def test_evenly_spaced_levels_cost_more(bits: int) -> None:
    even = midrise.step(bits) * (np.arange(2 ** (bits - 1)) + 0.5)
    assert lloyd_max.error(even) == pytest.approx(midrise.error(midrise.step(bits), bits), rel=1e-9)
    less = lloyd_max.error(lloyd_max.levels(bits)) / lloyd_max.error(even)
    assert less == pytest.approx(1) if bits == 1 else less < 0.99
    rate = lloyd_max.error(lloyd_max.levels(bits)) * 4**bits
    assert 1 < rate < np.pi * 3**0.5 / 2  # Shannon's bound; Panter and Dite's limit
