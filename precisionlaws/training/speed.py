"""How fast this machine trains: tokens per second of the small sizes, quantized and not."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from precisionlaws.data.batches import Batches
from precisionlaws.run import Exec, RunConfig, compose
from precisionlaws.training.loop import advance, batches_of
from precisionlaws.training.state import State
from precisionlaws.training.unit import fresh_for

SIZES = ("7k", "20k", "50k", "100k", "200k", "400k", "1M")
WAYS = {
    "16 bits": [],
    "w4": ["quant=qat"],
    "w8 a8 kv8": ["quant=low_precision"],
}
SECONDS = 0.25  # of training per measurement
ROUNDS = 3


@dataclass(frozen=True)
class Job:
    """A run that is trained for its speed."""

    run: RunConfig
    state: State
    batches: Batches

    def steps(self, count: int) -> None:
        """`count` steps of the trainer's own loop."""
        state, run = self.state, self.run
        state.log.clear()
        advance(state, run, self.batches, state.step + count, lambda _: 1.0)


def job(size: str, batch_tokens: int, overrides: Sequence[str] = ()) -> Job:
    run = compose([f"size={size}", f"batch_tokens={batch_tokens}", "tokens=1G", *overrides])
    return Job(run, fresh_for(run, Exec(device="cpu", threads=1)), batches_of(run))


def seconds_per_step(one: Job) -> float:
    """Wall-clock time of a step, over about `SECONDS`."""
    start, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < SECONDS or not count:
        one.steps(1)
        count += 1
    return passed / count


def table() -> str:
    """Tokens per second of one process with one thread: a row per size, a column per precision.

    The batch is the default's. Ways are measured in turn, so that what else the machine does at the
    time falls on all of them alike; the best of `ROUNDS` counts.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = [row(size) for size in SIZES]
    finally:
        torch.set_num_threads(before)
    head = f"{'size':<6}{'N':>10}" + "".join(f"{w:>12}" for w in WAYS) + "   tokens per second"
    return "\n".join([head, *rows])


def row(size: str) -> str:
    jobs = [job(size, 1024, overrides) for overrides in WAYS.values()]
    for one in jobs:
        one.steps(2)
    rounds = [[seconds_per_step(one) for one in jobs] for _ in range(ROUNDS)]
    rates = [one.run.batch / min(r[i] for r in rounds) for i, one in enumerate(jobs)]
    return f"{size:<6}{jobs[0].run.N:>10,}" + "".join(f"{r:>12,.0f}" for r in rates)
