"""Codes of 2 to 8 bits for a normal source, beside scalar codes of the same rate and published numbers."""

import pytest
import torch
from torch import Tensor

from precisionlaws.ptq import midrise, residual
from precisionlaws.ptq.residual import SCALES

LLOYD_MAX = {2: 0.117482, 3: 0.034548, 4: 0.009497}  # Max 1960
PUBLISHED = {2: 0.0913, 3: 0.02945, 4: 0.0099}  # with the scales of Tseng et al. 2024, measured


def normal(n: int) -> Tensor:
    return torch.randn(n, 8, generator=torch.Generator().manual_seed(0))


def error(bits: int, n: int = 6000) -> float:
    x, s = normal(n), SCALES[bits][0]
    return ((residual.encode(s * x, bits)[1] / s - x) ** 2).mean().item()


@pytest.mark.parametrize("bits", sorted(SCALES))
def test_error_of_a_normal_source(bits: int) -> None:
    """Below the best scalar codes, above what is possible at all, and a quarter per bit."""
    found = error(bits)
    assert 4.0**-bits < found < 0.8 * midrise.error(midrise.step(bits), bits)
    if bits in PUBLISHED:
        assert found < min(1.01 * PUBLISHED[bits], 0.9 * LLOYD_MAX[bits])


@pytest.mark.parametrize("bits", sorted(SCALES))
def test_words_stand_for_the_points(bits: int) -> None:
    x = SCALES[bits][0] * normal(300)
    words, points = residual.encode(x, bits)
    assert words.shape == (bits // 2 + bits % 2, 300)
    for word, kind in zip(words, residual.stages(bits), strict=True):
        assert 0 <= word.min() <= word.max() < 2 ** (8 * kind)
    assert torch.allclose(residual.decode(words, bits), points, atol=1e-5)


@pytest.mark.parametrize("bits", [3, 4, 6])
def test_following_both_shifts_is_better(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    both = error(bits, 2000)
    monkeypatch.setattr(residual, "BEAM", 1)
    assert both < 0.99 * error(bits, 2000)


@pytest.mark.parametrize("bits", [4, 5])
def test_scales_are_those_of_least_error(bits: int) -> None:
    x, scales = normal(3000), SCALES[bits]

    def of(changed: list[float]) -> float:
        s = changed[0]
        return ((residual.encode(s * x, bits, changed)[1] / s - x) ** 2).mean().item()

    best = of(list(scales))
    for i in range(len(scales)):
        for factor in (0.85, 1.15):
            assert of([s * (factor if i == j else 1) for j, s in enumerate(scales)]) > best
