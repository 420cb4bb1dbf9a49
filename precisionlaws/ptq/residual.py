"""Codes of 2 to 8 bits per number for vectors of eight: E8P, then its residual by E8P again, and so on.

Every two bits are a stage of E8P, an odd bit at the end a stage of 256 vectors of E8 (e8p.py). A stage
rounds what those before it left, magnified: a number x of unit variance stands for

    s x ≈ q_1 + (q_2 + (q_3 + ...) / m_3) / m_2,     q_i in the codebook of stage i

Tseng et al. 2024 (arXiv:2402.04396) have 2, 3 and 4 bits, with s and m from a search under other aims. We
chose s and m_2, m_3, ... for the least mean squared error of a normal source, for every width
(benchmarks/bench_e8p.py repeats the search). What a vector loses by overload it cannot win back in later
stages, so s falls as bits grow: theirs at 4 bits (1.03 and 3.45) costs 22% more.

E8P proposes two points, one per shift. We follow both to the last stage and keep the better: the codes are
the same size and the error is up to 17% smaller than that of the nearest point at every stage.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from precisionlaws.ptq import e8p

SCALES: Mapping[int, Sequence[float]] = {  # bits: s, m_2, m_3, ...
    2: (1.04,),
    3: (0.997, 1.836),
    4: (0.902, 3.725),
    5: (0.847, 3.746, 2.077),
    6: (0.788, 3.671, 3.925),
    7: (0.768, 3.579, 4.098, 1.995),
    8: (0.729, 3.471, 3.903, 3.833),
}
BEAM = 2


def stages(bits: int) -> list[int]:
    """Bits per number of every stage"""
    return [2] * (bits // 2) + [1] * (bits % 2)


def encode(x: Tensor, bits: int, scales: Sequence[float] | None = None) -> tuple[Tensor, Tensor]:
    """s x as (N, 8) -> words (stages, N) int64 and the points (N, 8) that they stand for."""
    magnify, kinds = (scales or SCALES[bits])[1:], stages(bits)
    left, words = x.unsqueeze(0), x.new_empty(0, 1, len(x), dtype=torch.int64)  # (beam, N, 8)
    size = 1.0
    for i, kind in enumerate(kinds):
        if i:
            left, size = left * magnify[i - 1], size * magnify[i - 1]
        beam = BEAM if i + 1 < len(kinds) else 1
        left, words = stage(left, words, kind, beam)
    return words[:, 0], x - left[0] / size


def stage(left: Tensor, words: Tensor, kind: int, beam: int) -> tuple[Tensor, Tensor]:
    """left (K, N, 8), words (stages, K, N) -> the same after one more stage, the best `beam` of each."""
    flat = left.reshape(-1, e8p.WIDTH)
    if kind == 2:
        fresh, points, errors = e8p.nearest_of_each_shift(flat)
    else:
        fresh, points = (t.unsqueeze(0) for t in e8p.encode_one_bit(flat))
        errors = (flat - points).square().sum(-1)
    fresh, errors = (t.view(-1, *left.shape[:2]).flatten(0, 1) for t in (fresh, errors))
    left = (left - points.view(-1, *left.shape)).flatten(0, 1)
    words = words.repeat(1, len(left) // words.shape[1], 1)
    best = errors.topk(min(beam, len(errors)), 0, largest=False).indices
    words = torch.cat([words, fresh.unsqueeze(0)])
    return (
        left.gather(0, best.unsqueeze(-1).expand(-1, -1, e8p.WIDTH)),
        words.gather(1, best.expand(len(words), *best.shape)),
    )


def decode(words: Tensor, bits: int, scales: Sequence[float] | None = None) -> Tensor:
    """Words (stages, ...) -> points (..., 8) float32"""
    out, size = torch.zeros(*words.shape[1:], e8p.WIDTH), 1.0
    for word, kind, m in zip(
        words, stages(bits), (1.0, *(scales or SCALES[bits])[1:]), strict=True
    ):
        size *= m
        out += (e8p.decode(word) if kind == 2 else e8p.one_bit()[word]) / size
    return out
