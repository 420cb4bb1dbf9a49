"""Attention in blocks of queries beside torch's own, forward and backward, as training steps call them.

    python benchmarks/bench_attention.py [rounds]

One thread, fp32, causal, Q, K and V as (sequences, tokens, heads, width of a head). Both are interleaved in an order
that is drawn anew every round, in CPU seconds; ratios are medians over rounds. The memory that is freed is kept, as
in a worker (`training.heap`).
Wanted: <= 1.0x the time wherever `exec.attention=auto` takes blocks (129 to 512 tokens).
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
from precisionlaws.models.attention_kernels import kernel_of
from precisionlaws.training import heap

SHAPES = [
    (8, 128, 4, 16), (4, 256, 4, 16), (4, 256, 9, 16), (16, 256, 9, 16), (64, 256, 9, 16), (4, 256, 6, 64), (32, 256, 6, 64),
    (2, 512, 9, 16), (2, 512, 12, 64), (1, 1024, 9, 16), (1, 1024, 12, 64),
]  # fmt: skip
SECONDS = 0.2  # of a turn of torch's


def seconds(kernel: str, qkv: list[Tensor], g: Tensor, count: int) -> float:
    start = time.process_time()
    for _ in range(count):
        q, k, v = qkv
        torch.autograd.grad(attend(q, k, v, 1, kernel=kernel), qkv, g)
    return (time.process_time() - start) / count


def compare(shape: tuple[int, ...], rounds: int) -> str:
    qkv = [torch.randn(shape, requires_grad=True) for _ in range(3)]
    g = torch.randn(shape).flatten(-2)
    kernels = ("sdpa", "blocks")
    first = [seconds(kernel, qkv, g, 2) for kernel in kernels]
    count, times = 1 + int(SECONDS / first[0]), {kernel: [] for kernel in kernels}
    for _ in range(rounds):
        for kernel in random.sample(kernels, 2):
            times[kernel].append(seconds(kernel, qkv, g, count))
    ratios = sorted(b / a for a, b in zip(times["sdpa"], times["blocks"], strict=True))
    sdpa, blocks = (1e3 * statistics.median(times[kernel]) for kernel in kernels)
    chosen = kernel_of("auto", shape[1], "float32", "cpu")
    return (
        f"{'x'.join(map(str, shape)):<16}{sdpa:9.2f} {blocks:9.2f}  {statistics.median(ratios):.2f}x the time"
        f" ({ratios[0]:.2f} to {ratios[-1]:.2f})  auto: {chosen}"
    )


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 11
    torch.set_num_threads(1)
    heap.keep()
    random.seed(0)
    print(f"{'shape':<16}{'sdpa, ms':>9} {'blocks':>9}")
    for shape in SHAPES:
        print(compare(shape, rounds), flush=True)


if __name__ == "__main__":
    main()
