"""Packs beside the same runs in sequence: tokens per second of E runs as one batch, and one by one.

    python benchmarks/bench_packs.py [members] [rounds]

Both go through the trainer's own loops, with their batches, schedules and logs; runs differ in bits, seed
and learning rate. On a CPU one thread and CPU seconds, on a GPU wall-clock seconds. Packs and sequences
are interleaved, and ratios are medians over rounds. training/pack_rules.py holds what was measured.
Claims: on a GPU 16 runs at N <= 1M train at >= 8x the tokens per second of the same runs in sequence; on
a CPU packs of 8 pay >= 1.4x where pack_rules says so.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import statistics
import sys
import time
from collections.abc import Callable

import torch

from precisionlaws.run import RunConfig, compose
from precisionlaws.training import loop, pack
from precisionlaws.training.pack_rules import pays
from precisionlaws.training.state import fresh

CPU = {"7k": (128, 512, 1024), "20k": (128, 256, 512, 1024), "50k": (512,), "100k": (128, 256)}
GPU = {"20k": (1024,), "100k": (1024,), "400k": (1024,), "1M": (1024,)}  # size: tokens per step
ROUNDS = 5
SECONDS = 0.25  # of a turn of the sequence


def members(size: str, batch: int, count: int) -> list[RunConfig]:
    """Half of them unquantized, half with weights at 3 and 4 bits."""
    base = [f"size={size}", f"batch_tokens={batch}", "tokens=1G"]
    return [
        compose([*base, f"seed={e // 4}", f"quant.weights.bits={(16, 16, 3, 4)[e % 4]}"])
        for e in range(count)
    ]


def contestants(runs: list[RunConfig], device: str) -> tuple[Callable[[int], None], ...]:
    """(one after the other, as a pack): functions that make steps of every run."""
    alone = [(fresh(r, device), r, loop.batches_of(r)) for r in runs]
    packed, everyone = pack.Pack(runs, device), set(range(len(runs)))

    def sequence(count: int) -> None:
        for state, run, batches in alone:
            state.log.clear()
            loop.advance(state, run, batches, state.step + count, lambda _: 1.0)

    def together(count: int) -> None:
        for member in packed.members:
            member.log.clear()
        pack.advance(packed, everyone, packed.step + count, lambda _: 1.0)

    return sequence, together


def seconds(steps: Callable[[int], None], count: int, device: str) -> float:
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    steps(count)  # ends with the losses on the host
    return clock() - start


def compare(size: str, batch: int, count: int, rounds: int, device: str) -> None:
    runs = members(size, batch, count)
    each = contestants(runs, device)
    for steps in each:
        steps(2)
    n = 1 + int(SECONDS / (seconds(each[0], 2, device) / 2))
    turns = [[seconds(steps, n, device) for steps in each] for _ in range(rounds)]
    ratio = statistics.median(a / b for a, b in turns)
    rates = [batch * count * n / statistics.median(t[i] for t in turns) for i in (0, 1)]
    print(
        f"{size:<5} N {runs[0].N:>9,}  {batch:>5} tokens a step  {count} runs in sequence {rates[0]:>9,.0f}"
        f"  as a pack {rates[1]:>9,.0f} tokens per second  {ratio:.2f}x  (exec.pack: {pays(runs[0], device)})",
        flush=True,
    )


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else {"cpu": 8, "cuda": 16}[device]
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else ROUNDS
    for size, batches in {"cpu": CPU, "cuda": GPU}[device].items():
        for batch in batches:
            compare(size, batch, count, rounds, device)


if __name__ == "__main__":
    main()
