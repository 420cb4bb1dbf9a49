"""E8P: 65,536 vectors of eight numbers, two bits per number (Tseng et al. 2024, arXiv:2402.04396).

The half-odd points of the lattice E8 are the vectors of numbers from Z + 1/2 whose sum is even. E8P holds
those whose absolute values are one of 256 *patterns*, shifted by +1/4 or -1/4 in every number. A word:

    bit 0      the shift: 0 is +1/4, 1 is -1/4
    bits 1-7   signs of the first seven numbers, 1 for minus; the eighth makes the sum even
    bits 8-15  the pattern

The patterns are all 227 of squared norm up to 10 and 29 of norm 12. The paper's authors picked those by
hand. All such patterns are equally likely under a normal density, so what matters is that they are spread
evenly: we take every other of the 56 that have five entries 3/2 and three 1/2, in lexicographic order of
where the 1/2 stand, and the last. Mean squared error of a normal source .0916, that of a greedy search
for the best 29 as well (all 56: .0901).

Nearest points without a search through the words: within the patterns of norm up to 10, which are all
permutations of seven, the largest entries belong to the largest numbers, and if the signs do not fit the
parity, that of the smallest product is turned. So eight numbers are sorted, seven scores and the 29 of the
other patterns compared, for both shifts.
"""

import functools
import itertools
from dataclasses import dataclass, fields

import torch
from torch import Tensor

WIDTH = 8  # numbers per word
SHIFT = 0.25


@dataclass(frozen=True)
class Tables:
    patterns: Tensor  # (256, 8)
    index: Tensor  # (3^8,) of the pattern whose entries less 1/2 are these digits to base 3
    sorted: Tensor  # (7, 8) patterns up to norm 10 whose entries fall
    halves: Tensor  # (29, 3) where the patterns of norm 12 have 1/2

    def to(self, like: Tensor) -> "Tables":
        def moved(t: Tensor) -> Tensor:
            return t.to(like.device, like.dtype if t.is_floating_point() else t.dtype)

        return Tables(**{f.name: moved(getattr(self, f.name)) for f in fields(self)})


@functools.cache
def tables() -> Tables:
    """Computed from the definition in a few milliseconds: nothing is stored."""
    every = torch.cartesian_prod(*[torch.tensor([0.5, 1.5, 2.5])] * WIDTH)
    small = every[every.square().sum(1) <= 10]
    falling = small[(small.diff(dim=1) <= 0).all(1)]
    places = list(itertools.combinations(range(WIDTH), 3))
    halves = torch.tensor([*places[::2], places[-1]])
    picked = torch.full((len(halves), WIDTH), 1.5).scatter_(1, halves, 0.5)
    patterns = torch.cat([small, picked])
    index = torch.zeros(3**WIDTH, dtype=torch.int64)
    index[digits(patterns)] = torch.arange(len(patterns))
    return Tables(patterns, index, falling, halves)


def digits(patterns: Tensor) -> Tensor:
    """(..., 8) -> the number whose digits to base 3 are the entries less 1/2"""
    powers = 3.0 ** torch.arange(WIDTH, device=patterns.device)
    return ((patterns - 0.5) @ powers.to(patterns.dtype)).long()


def odd(patterns: Tensor) -> Tensor:
    """Whether the sum is odd"""
    return patterns.sum(-1) % 2 == 1


def decode(words: Tensor) -> Tensor:
    """Words (...), whole numbers whose lowest 16 bits count, -> points (..., 8) float32."""
    word = words.long() & 0xFFFF
    pattern = tables().patterns.to(words.device)[word >> 8]
    minus = (word.unsqueeze(-1) >> 1 + torch.arange(WIDTH, device=words.device) & 1).bool()
    minus[..., -1] = odd(pattern) ^ (minus[..., :-1].sum(-1) % 2 == 1)
    shift = SHIFT * (1 - 2 * (word & 1)).unsqueeze(-1)
    return torch.where(minus, -pattern, pattern) + shift


def encode(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (N, 8) -> words (N,) int64 and points (N, 8), the nearest of all."""
    words, points, distances = nearest_of_each_shift(x)
    best = distances.argmin(0, keepdim=True)
    return words.gather(0, best)[0], points.gather(0, best.unsqueeze(-1).expand(1, *x.shape))[0]


def nearest_of_each_shift(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x (N, 8) -> words (2, N), points (2, N, 8), squared distances (2, N): the nearest for either shift."""
    table = tables().to(x)
    shift = x.new_tensor([SHIFT, -SHIFT]).view(2, 1, 1)
    y = x - shift
    size, negative = y.abs(), y < 0
    odd_signs = negative.sum(-1) % 2 == 1
    pattern, score = best_pattern(size, odd_signs, table)
    turned = (size * pattern).argmin(-1, keepdim=True)  # costs least where the signs do not fit
    wrong = (odd(pattern) ^ odd_signs).unsqueeze(-1)
    minus = negative.scatter(-1, turned, negative.gather(-1, turned) ^ wrong)
    points = torch.where(minus, -pattern, pattern) + shift
    signs = (minus[..., :-1] << 1 + torch.arange(WIDTH - 1, device=x.device)).sum(-1)
    shifts = torch.arange(2, device=x.device).unsqueeze(-1)
    words = table.index[digits(pattern)] << 8 | signs | shifts
    return words, points, y.square().sum(-1) - 2 * score


def best_pattern(size: Tensor, odd_signs: Tensor, table: Tables) -> tuple[Tensor, Tensor]:
    """Sizes (..., 8) and whether an odd number of signs are minus -> patterns (..., 8), scores (...).

    The score is <x, p> - |p|²/2 of the best signs: the largest is the nearest.
    """
    falling, order = size.sort(-1, descending=True)
    least, odd_signs = falling[..., -1:], odd_signs.unsqueeze(-1)
    scores = falling @ table.sorted.T - table.sorted.square().sum(-1) / 2
    scores -= least * (odd(table.sorted) ^ odd_signs)  # turning the sign of a 1/2
    at_halves = size[..., table.halves]  # (..., 29, 3)
    larger = 1.5 * size.sum(-1, keepdim=True) - at_halves.sum(-1) - 6
    larger -= torch.minimum(at_halves.amin(-1), 3 * least) * ~odd_signs  # their sums are odd
    score, best = torch.cat([scores, larger], -1).max(-1)
    small = torch.zeros_like(size).scatter_(-1, order, table.sorted[best.clamp(max=6)])
    picked = table.patterns[(best - 7).clamp(min=0) + 227]
    return torch.where((best < 7).unsqueeze(-1), small, picked), score


@functools.cache
def one_bit() -> Tensor:
    """256 vectors of E8, one bit per number (256, 8): the 241 of squared norm up to 2, and 15 of norm 4.

    Those are ±2 in one number but the last -2. All of norm 4 are equally likely under a normal density.
    """
    whole = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0])] * WIDTH)
    whole = whole[(whole.square().sum(1) <= 2) & (whole.sum(1) % 2 == 0)]
    half = torch.cartesian_prod(*[torch.tensor([-0.5, 0.5])] * WIDTH)
    half = half[half.sum(1) % 2 == 0]
    double = 2 * torch.eye(WIDTH)
    return torch.cat([whole, half, double, -double[:-1]])


def encode_one_bit(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (N, 8) -> words (N,) int64 below 256 and points (N, 8), the nearest of all."""
    points = one_bit().to(x)
    words = torch.addmm(-points.square().sum(1) / 2, x, points.T).argmax(1)
    return words, points[words]
