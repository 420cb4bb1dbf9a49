"""nGPT beside GPT: steps, and CPU seconds, to equal loss.

    python benchmarks/bench_ngpt.py [store] [overrides of sweeps/ngpt.yaml ...]

The study is trained first, or gone on with: each model at several D, each D a run of its own that ends there with a
decayed rate, three learning rates, of which the best counts. The loss of the baseline at each D (mean of the
seeds) is then looked up on nGPT's curve, by interpolating ln D in the loss. A step is timed in CPU seconds, models
in turn, one thread; seconds to equal loss are steps times that. Found with both
seeds: nGPT reaches the losses of its baseline, a llama, at D = 125k, 250k, 500k and 1M with 1.25, 1.20, 1.05 and .99
times the steps, of 1.4 times the time each; those of a GPT-2 of fewer parameters with half of the steps and as much
time. No claim: the paper's is 4 to 20 times fewer steps,
of models of 0.5B and 1B, and a step of its implementation takes longer than the baseline's, which it says.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from precisionlaws.run import RunConfig
from precisionlaws.sweep.api import sweep
from precisionlaws.sweep.points import study
from precisionlaws.training.loop import batches_of
from precisionlaws.training.speed import Job
from precisionlaws.training.state import fresh

ROUNDS, STEPS = 15, 6


def curves(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean loss over seeds at the best rate: a row per D, a column per model."""
    mean = frame.groupby(["arch", "D", "optim.lr"]).loss.mean()
    return mean.groupby(level=["D", "arch"]).min().unstack("arch")


def tokens_to(loss: float, curve: Any) -> float:
    """D at which a falling curve reaches a loss; NaN outside of it."""
    known = curve.dropna()
    x = np.log(known.index.to_numpy(float))
    return float(np.exp(np.interp(-loss, -known.to_numpy(), x, np.nan, np.nan)))


def seconds_per_step(runs: dict[str, RunConfig]) -> dict[str, float]:
    """CPU seconds, medians over rounds in which the models take turns."""
    jobs = {name: Job(run, fresh(run, "cpu"), batches_of(run)) for name, run in runs.items()}
    for job in jobs.values():
        job.steps(2)
    rounds = [{name: cpu(job) for name, job in jobs.items()} for _ in range(ROUNDS)]
    return {name: statistics.median(r[name] for r in rounds) / STEPS for name in jobs}


def cpu(job: Job) -> float:
    start = time.process_time()
    job.steps(STEPS)
    return time.process_time() - start


def table(losses: pd.DataFrame, step: dict[str, float], peer: str) -> list[str]:
    """Per D of the peer: what nGPT needs to reach its loss, as shares of the peer's."""
    lines = [
        f"\n{peer}: D and loss; nGPT reaches it with so much of the steps, and of the CPU time"
    ]
    known = losses[peer].dropna()
    for D, loss in zip(known.index, known.to_numpy(float), strict=True):
        share = tokens_to(loss, losses["ngpt"]) / D
        words = f"{share:6.2f} x {share * step['ngpt'] / step[peer]:6.2f} x"
        if np.isnan(share):
            before = bool(loss > losses["ngpt"].max())
            words = "before its first D" if before else "beyond its last D"
        lines.append(f"  {D:>10,}  {loss:.4f}   {words}")
    return lines


def main() -> None:
    torch.set_num_threads(1)
    store = Path(sys.argv[1] if len(sys.argv) > 1 else "results")
    points = study("ngpt", sys.argv[2:]).points
    frame = sweep(points, store)
    losses = curves(frame.query("status == 'finished'"))
    step = seconds_per_step({p.run.model.SHORT: p.run for p in points})
    print("mean loss at the best rate, nats per token\n" + losses.round(4).to_string())
    for name, seconds in step.items():
        N = frame[frame.arch == name].N.iloc[0]
        ratio = step["ngpt"] / seconds
        print(f"{name:<6} N {N:,}  {1e3 * seconds:.1f} CPU ms a step; nGPT takes {ratio:.2f} x")
    for peer in ("llama", "gpt"):
        print("\n".join(table(losses, step, peer)))


if __name__ == "__main__":
    main()
