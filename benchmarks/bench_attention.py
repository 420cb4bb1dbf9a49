"""Attention in blocks of queries beside torch's own, forward and backward, as training steps call them.

    python benchmarks/bench_attention.py [rounds]

One thread, fp32, causal, Q, K and V as (sequences, tokens, heads, width of a head). Both are interleaved in an order
that is drawn anew every round, in CPU seconds; ratios are medians over rounds. The memory that is freed is kept, as
in a worker (`training.heap`).
Wanted: <= 1.0x the time wherever `exec.parts=auto` takes blocks (129 to 512 tokens). Measured: .73x to
.84x at 256 tokens, .63x and .66x at 512, .94x at 128.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import random
import statistics
import sys
import time

import torch
from torch import Tensor

from precisionlaws.models.attention import attend
from precisionlaws.models.own import BLOCKS, TORCH, taken
from precisionlaws.training import heap

SHAPES = [
    (8, 128, 4, 16), (4, 256, 4, 16), (4, 256, 9, 16), (16, 256, 9, 16), (64, 256, 9, 16), (4, 256, 6, 64), (32, 256, 6, 64),
    (2, 512, 9, 16), (2, 512, 12, 64), (1, 1024, 9, 16), (1, 1024, 12, 64),
]  # fmt: skip
SECONDS = 0.2  # of a turn of torch's


def seconds(way: str, qkv: list[Tensor], g: Tensor, count: int) -> float:
    start = time.process_time()
    for _ in range(count):
        q, k, v = qkv
        torch.autograd.grad(attend(q, k, v, 1, own=way == BLOCKS), qkv, g)
    return (time.process_time() - start) / count


def compare(shape: tuple[int, ...], rounds: int) -> str:
    qkv = [torch.randn(shape, requires_grad=True) for _ in range(3)]
    g = torch.randn(shape).flatten(-2)
    ways = (TORCH, BLOCKS)
    first = [seconds(way, qkv, g, 2) for way in ways]
    count, times = 1 + int(SECONDS / first[0]), {way: [] for way in ways}
    for _ in range(rounds):
        for way in random.sample(ways, 2):
            times[way].append(seconds(way, qkv, g, count))
    ratios = sorted(b / a for a, b in zip(times[TORCH], times[BLOCKS], strict=True))
    torchs, blocks = (1e3 * statistics.median(times[way]) for way in ways)
    chosen = taken((BLOCKS,), shape[1])
    return (
        f"{'x'.join(map(str, shape)):<16}{torchs:9.2f} {blocks:9.2f}  {statistics.median(ratios):.2f}x the time"
        f" ({ratios[0]:.2f} to {ratios[-1]:.2f})  auto: {chosen}"
    )


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 11
    torch.set_num_threads(1)
    heap.keep()
    random.seed(0)
    print(f"{'shape':<16}{'torch, ms':>9} {'blocks':>9}")
    for shape in SHAPES:
        print(compare(shape, rounds), flush=True)


if __name__ == "__main__":
    main()
