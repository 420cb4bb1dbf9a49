"""Against the tables for a normal source of Max (1960, IRE Trans. Inf. Theory 6), and of Jayant and Noll (1984)
from 6 bits on."""

import pytest
import torch

from precisionlaws.ptq import midrise

TABLE = {  # bits: step, mean squared error; 1 to 3 bits by 40-digit arithmetic
    1: (1.5958, 0.3634),
    2: (0.9957, 0.1188),
    3: (0.5860, 0.03744),
    4: (0.3352, 0.01154),
    5: (0.1881, 0.003495),
    6: (0.1041, 0.001040),
    7: (0.0569, 0.0003043),
    8: (0.0308, 0.00008769),
}


@pytest.mark.parametrize("bits", TABLE)
def test_published_steps_and_errors(bits: int) -> None:
    step, error = TABLE[bits]
    assert midrise.step(bits) == pytest.approx(step, abs=1e-4)
    assert midrise.error(midrise.step(bits), bits) == pytest.approx(error, rel=5e-4)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_error_is_that_of_rounding(bits: int) -> None:
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    step, high = 0.9 * midrise.step(bits), 2 ** (bits - 1)
    rounded = ((x / step + 0.5).round().clamp(1 - high, high) - 0.5) * step
    found = (rounded - x).square()
    assert abs(found.mean() - midrise.error(step, bits)) < 5 * found.std() / len(x) ** 0.5


@pytest.mark.parametrize("bits", range(1, 9))
def test_no_step_beside_it_is_better(bits: int) -> None:
    best = midrise.step(bits)
    least = midrise.error(best, bits)
    assert all(midrise.error(best * f, bits) > least for f in (0.5, 0.98, 1.02, 2))
