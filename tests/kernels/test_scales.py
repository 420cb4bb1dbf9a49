"""Scale rules, random numbers and the rotation: their definitions, and what others publish."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from precisionlaws.kernels import hadamard, numbers, philox, reference, scaled, scales

INT4 = numbers.int_type(7)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def clip(levels: list[float]) -> float:
    return scales.gaussian_step(tuple(levels)) * levels[-1]


@pytest.mark.parametrize(
    ("bits", "midrise", "narrow"),
    [
        (2, 1.493530, 1.224006),
        (3, 2.051068, 1.952309),
        (4, 2.514005, 2.473879),
        (5, 2.916151, 2.898728),
        (8, 3.922205, 3.920501),
    ],
)
def test_clips_of_least_error_for_normal_values(bits: int, midrise: float, narrow: float) -> None:
    """Found by scipy on the integral; 2 and 3 bits also as published for QuEST."""
    halves = [i + 0.5 for i in range(2 ** (bits - 1))]
    assert clip(halves) == pytest.approx(midrise, rel=5e-6)
    whole = [float(i) for i in range(2 ** (bits - 1))]
    assert clip(whole) == pytest.approx(narrow, rel=5e-6)


def error(x: Tensor, s: Tensor, kind: numbers.Type) -> Tensor:
    """(rows,) mean squared error."""
    return (scaled.rounded(x, s, *kind, x.shape[-1]) - x).square().mean(-1)


@pytest.mark.parametrize("kind", [INT4, numbers.int_type(1), numbers.float_type(2, 1, "none")])
def test_the_gaussian_scale_has_the_least_error_on_normal_values(kind: numbers.Type) -> None:
    x = normal(1, 400_000)
    step = scales.gaussian_step(tuple(numbers.numbers(*kind).tolist()))
    best = error(x, scales.gaussian(x, step, x.shape[-1]), kind)
    for share in (0.8, 0.9, 0.95, 1.05, 1.1, 1.25):
        assert best <= error(x, scales.gaussian(x, step * share, x.shape[-1]), kind)


def test_the_searched_scale_has_the_least_error_of_its_shares() -> None:
    x = normal(5, 256) ** 3
    n = x.shape[-1]
    s = scales.searched(x, 7.0, n, lambda x, s: scaled.rounded(x, s, *INT4, n))
    best, widest = error(x, s, INT4), scales.absmax(x, 7.0, n)
    for share in scales.SHARES:
        assert (best <= error(x, widest * share, INT4) * (1 + 1e-6)).all()
    assert (best < error(x, widest, INT4)).all()


def test_powers_of_two_are_the_next_ones_up() -> None:
    x = torch.tensor([[7.0], [7.01], [3.5], [0.0], [7e-40], [3e38]])
    s = scales.power_of_two(x, 7.0, 1)
    assert s[:4].tolist() == [1.0, 2.0, 0.5, 0.0]
    positive = x[:, 0] > 0
    assert (torch.frexp(s[positive].double()).mantissa == 0.5).all()
    assert (s * 7 >= x[:, 0] * (1 - 1e-6)).all()
    assert (s[positive] / 2 * 7 < x[positive, 0]).all()


def test_absmax_and_absmean() -> None:
    x = normal(3, 4, 32)
    assert torch.equal(scales.absmax(x, 7.0, 16), reference.scale(x, 7.0, 16))
    assert torch.allclose(scales.absmean(x, 0.75, 32), 0.75 * x.abs().mean(-1))
    assert float(scales.absmax(torch.zeros(1, 8), 7.0, 8)) == 0


def words_in_numpy(seed: int, counter: np.ndarray) -> np.ndarray:
    """Philox4x32-10 in unsigned arithmetic."""
    low, key = np.uint64(0xFFFFFFFF), [np.uint64(seed & 0xFFFFFFFF), np.uint64(seed >> 32)]
    c = [counter.astype(np.uint64)] + [np.zeros(len(counter), np.uint64)] * 3
    for _ in range(10):
        p, q = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(q >> np.uint64(32)) ^ c[1] ^ key[0], q & low, (p >> np.uint64(32)) ^ c[3] ^ key[1], p & low]  # fmt: skip
        key = [k + np.uint64(w) & low for k, w in zip(key, (0x9E3779B9, 0xBB67AE85), strict=True)]
    return np.stack(c, -1)


@pytest.mark.parametrize("seed", [0, 1234, 2**33 + 7, 2**64 - 1])
def test_philox(seed: int) -> None:
    counters = np.array([0, 1, 2, 999, 2**31, 2**32 - 1])
    got = philox.blocks(seed, torch.from_numpy(counters))
    assert np.array_equal(got.numpy().astype(np.uint64), words_in_numpy(seed, counters))


def test_philox_known_answers() -> None:
    """Of Random123, kat_vectors: all zeros."""
    found = [hex(w) for w in philox.blocks(0, torch.zeros(1, dtype=torch.int64))[0].tolist()]
    assert found == ["0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"]


def test_uniform_numbers_do_not_depend_on_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cpu")
    whole = philox.uniform(5, 0, 10_000, device)
    assert whole.min() >= 0
    assert whole.max() < 1
    assert abs(float(whole.mean()) - 0.5) < 4.5 / math.sqrt(12 * 10_000)
    assert torch.equal(philox.uniform(5, 37, 1001, device), whole[37:1038])
    monkeypatch.setattr(philox, "PIECE", 16)
    assert torch.equal(philox.uniform(5, 0, 10_000, device), whole)
    assert philox.uniform(5, 3, 0, device).shape == (0,)


@pytest.mark.golden
@pytest.mark.parametrize("block", [2, 16, 32, 64, 128])
def test_hadamard_golden(block: int, goldens: Path) -> None:
    with np.load(goldens / "quant_goldens.npz") as file:
        x, y = (torch.from_numpy(file[k]) for k in ("had/x", f"had/{block}/y"))
    assert (hadamard.rotate(x, block) - y).abs().max() <= 2e-6


@pytest.mark.parametrize("block", [1, 2, 8, 128])
def test_the_rotation_is_its_own_inverse_and_keeps_products(block: int) -> None:
    x, w = normal(3, 5, 256).double(), normal(7, 256, seed=1).double()
    turned = hadamard.rotate(x, block)
    torch.testing.assert_close(hadamard.rotate(turned, block), x)
    torch.testing.assert_close(turned @ hadamard.rotate(w, block).T, x @ w.T)
    assert torch.autograd.gradcheck(
        lambda x: hadamard.rotate(x, block), x[:1, :2].clone().requires_grad_(), fast_mode=True
    )


def test_blocks_of_the_rotation() -> None:
    assert [hadamard.block_of(n) for n in (16, 48, 80, 96, 256, 384, 7)] == [16, 16, 16, 32, 128, 128, 1]  # fmt: skip
    with pytest.raises(ValueError, match="blocks of a Hadamard rotation are powers of two, got 24"):
        hadamard.rotate(normal(2, 48), 24)
    with pytest.raises(ValueError, match="groups of 32 must divide the last axis, which has 48"):
        hadamard.rotate(normal(2, 48), 32)
