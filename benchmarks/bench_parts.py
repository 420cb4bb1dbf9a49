"""Parts of our own beside torch's, forward and backward, as training steps call them: attention in blocks, GELU.

    python benchmarks/bench_parts.py [rounds]

One thread, fp32; Q, K and V are (sequences, tokens, heads, width of a head), what GELU reads (tokens, hidden). Both are
interleaved in an order that is drawn anew every round, in CPU seconds; ratios are medians over rounds. The memory
that is freed is kept, as in a worker (`training.heap`), for both.
Wanted: <= 1.0x the time wherever `exec.parts=auto` takes ours. Measured: attention .73x to .84x at 256 tokens, .63x and
.66x at 512, .94x at 128; beside two other workers .85x to .89x, .64x and .69x, 1.04x, and GELU .46x to .79x.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import random
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from precisionlaws.models.attention import attend
from precisionlaws.models.own import BLOCKS, GELU, TORCH, taken
from precisionlaws.models.parts import GeluTanh, choose
from precisionlaws.training import heap

ATTENTION = [
    (8, 128, 4, 16), (4, 256, 4, 16), (4, 256, 9, 16), (16, 256, 9, 16), (64, 256, 9, 16), (4, 256, 6, 64), (32, 256, 6, 64),
    (2, 512, 9, 16), (2, 512, 12, 64), (1, 1024, 9, 16), (1, 1024, 12, 64),
]  # fmt: skip
HIDDEN = [(1024, 64), (1024, 256), (1024, 576), (1024, 1536), (16384, 576)]
SECONDS = 0.2  # of a turn of torch's


def attention(shape: tuple[int, ...], own: bool) -> Callable[[], None]:
    q, k, v = qkv = [torch.randn(shape, requires_grad=True) for _ in range(3)]
    g = torch.randn(shape).flatten(-2)
    return lambda: discard(torch.autograd.grad(attend(q, k, v, 1, own=own), qkv, g))


def gelu(shape: tuple[int, ...], own: bool) -> Callable[[], None]:
    x, g, act = torch.randn(shape, requires_grad=True), torch.randn(shape), GeluTanh()
    choose(act, GELU if own else TORCH)
    return lambda: discard(torch.autograd.grad(act(x), x, g))


def discard(grads: tuple[Tensor, ...]) -> None:
    pass


def seconds(step: Callable[[], None], count: int) -> float:
    start = time.process_time()
    for _ in range(count):
        step()
    return (time.process_time() - start) / count


def compare(
    shape: tuple[int, ...], theirs: Callable[[], None], ours: Callable[[], None], rounds: int
) -> str:
    steps = {TORCH: theirs, "ours": ours}
    first = [seconds(step, 2) for step in steps.values()]
    count, times = 1 + int(SECONDS / first[0]), {name: [] for name in steps}
    for _ in range(rounds):
        for name in random.sample(list(steps), 2):
            times[name].append(seconds(steps[name], count))
    ratios = sorted(b / a for a, b in zip(times[TORCH], times["ours"], strict=True))
    before, after = (1e3 * statistics.median(t) for t in times.values())
    return (
        f"{'x'.join(map(str, shape)):<16}{before:9.2f} {after:9.2f}  {statistics.median(ratios):.2f}x the time"
        f" ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 11
    torch.set_num_threads(1)
    heap.keep()
    random.seed(0)
    print(f"{'attention':<16}{'torch, ms':>9} {'ours':>9}")
    for shape in ATTENTION:
        line = compare(shape, attention(shape, False), attention(shape, True), rounds)
        print(f"{line}  auto: {taken((BLOCKS,), shape[1])}", flush=True)
    print(f"{'gelu':<16}{'torch, ms':>9} {'ours':>9}")
    for shape in HIDDEN:
        print(compare(shape, gelu(shape, False), gelu(shape, True), rounds), flush=True)


if __name__ == "__main__":
    main()
