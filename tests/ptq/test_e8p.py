"""E8P against its definition as a set of 65,536 points, and against the search through all of them."""

import math

import pytest
import torch
from torch import Tensor

from precisionlaws.ptq import e8p, lloyd_max


def normal(n: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    return scale * torch.randn(n, 8, generator=torch.Generator().manual_seed(seed))


def everything() -> Tensor:
    return e8p.decode(torch.arange(65536))


def test_points_are_those_of_the_definition() -> None:
    """Half-odd points of E8 with 256 patterns of absolute values, shifted by a quarter either way."""
    points = everything()
    assert len(points.unique(dim=0)) == 65536
    shift = torch.where(torch.arange(65536) % 2 == 0, 0.25, -0.25).unsqueeze(1)
    unshifted = points - shift
    assert ((unshifted - 0.5) % 1 == 0).all()
    assert (unshifted.sum(1) % 2 == 0).all()
    patterns = unshifted.abs().unique(dim=0)
    norms = patterns.square().sum(1)
    assert [int((norms == n).sum()) for n in (2, 4, 6, 8, 10, 12)] == [1, 8, 28, 64, 126, 29]
    assert len(patterns) == 256
    assert torch.equal(points.sort(0).values, -points.flip(0).sort(0, descending=True).values)


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0, 30.0])
def test_encoding_finds_the_nearest_of_all_points(scale: float) -> None:
    x, points = normal(400, scale), everything()
    words, nearest = e8p.encode(x)
    searched = torch.cdist(x.double(), points.double()).amin(1)
    assert torch.allclose((x - nearest).double().norm(dim=1), searched, atol=1e-5 * scale)
    assert torch.equal(points[words], nearest)


def test_every_point_encodes_to_itself() -> None:
    points = everything()
    words, nearest = e8p.encode(points)
    assert torch.equal(words, torch.arange(65536))
    assert torch.equal(nearest, points)


def test_normal_source_costs_what_it_should() -> None:
    """The published codebook: .0913, ours with another 29 patterns as much; above the bound 1/16."""
    x = normal(50_000)
    error = ((e8p.encode(1.04 * x)[1] / 1.04 - x) ** 2).mean().item()
    assert 0.0905 < error < 0.0920


@pytest.mark.parametrize("width", [1, 2, 4])
def test_costs_less_than_k_means_of_fewer_dimensions(width: int) -> None:
    """Of equal rate, started from the best levels of one number; on samples that neither was fitted to."""
    x, unseen = normal(20_000).view(-1, width), normal(20_000, seed=1)
    levels = torch.from_numpy(lloyd_max.levels(2).copy()).float()
    points = torch.cartesian_prod(*[torch.cat([-levels, levels])] * width).view(-1, width)
    for _ in range(10):
        nearest = torch.cdist(x, points).argmin(1)
        sums = torch.zeros_like(points).index_add_(0, nearest, x)
        points = sums / torch.bincount(nearest, minlength=len(points)).unsqueeze(1)
    error = torch.cdist(unseen.view(-1, width), points).amin(1).square().mean() / width
    ours = (e8p.encode(1.04 * unseen)[1] / 1.04 - unseen).square().mean()
    assert ours < 0.96 * error


def test_one_bit_points() -> None:
    points = e8p.one_bit()
    norms = points.square().sum(1)
    assert [int((norms == n).sum()) for n in (0, 2, 4)] == [1, 240, 15]
    assert len(points.unique(dim=0)) == 256
    assert (points.sum(1) % 2 == 0).all()
    assert ((points % 1 == 0).all(1) | (points % 1 == 0.5).all(1)).all()
    x = normal(500)
    words, nearest = e8p.encode_one_bit(x)
    assert torch.equal(torch.cdist(x, points).argmin(1), words)
    assert torch.equal(points[words], nearest)


def test_entries_are_the_bits_of_words() -> None:
    """The signs of the first seven entries, the shift and the pattern: nothing else is in a word."""
    word = 200 << 8 | 0b1010101 << 1 | 1
    point = e8p.decode(torch.tensor(word)) + 0.25
    assert torch.equal(point[:7] < 0, torch.tensor([1, 0, 1, 0, 1, 0, 1]).bool())
    assert torch.equal(point.abs(), e8p.tables().patterns[200])
    assert math.isclose(point.sum().item() % 2, 0)
