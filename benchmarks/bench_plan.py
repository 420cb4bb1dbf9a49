"""How long a grid of 10,000 points takes to plan, beside one full Hydra compose per point.

    python benchmarks/bench_plan.py

Claim: at most 5 s. Planning: overrides to checked configs, names, units. The peer composes a sample of the same points with
Hydra's own compose and is scaled up.
"""

import random
import time

from precisionlaws.overrides import expand, load
from precisionlaws.ptq.base import eval_id
from precisionlaws.run import RunConfig, compose, run_id
from precisionlaws.sweep.points import Point, nothing
from precisionlaws.sweep.schedule import units

GRID = {
    "size": ["7k", "20k", "50k", "100k"],
    "tokens": ["64k", "128k", "256k", "512k", "1024k"],
    "seed": ["0", "1", "2", "3", "4"],
    "quant.weights.bits": ["3", "4", "6", "8", "16"],
    "quant.activations.bits": ["3", "4", "6", "8", "16"],
    "quant.kv.bits": ["4", "6", "8", "16"],
}
SAMPLE = 10


def main() -> None:
    run_id(compose([]))  # imports and the corpus
    start, cpu = time.perf_counter(), time.process_time()
    runs, _ = expand([f"{k}={','.join(v)}" for k, v in GRID.items()], "run", RunConfig)
    none = nothing()
    points = [Point(run_id(r), eval_id(none), r, none) for r in runs]
    made = units(points)
    ours, cpu = time.perf_counter() - start, time.process_time() - cpu
    assert len({p.run_id for p in points}) == 10_000
    rng = random.Random(0)
    start = time.perf_counter()
    for _ in range(SAMPLE):
        load("run", [f"{k}={rng.choice(v)}" for k, v in GRID.items()])
    peer = (time.perf_counter() - start) / SAMPLE * len(points)
    print(f"ours   {len(points):,} points, {len(made):,} units   {ours:8.1f} s, {cpu:.1f} CPU s")
    print(
        f"peer   a full compose per point (from {SAMPLE})   {peer:8.1f} s   ratio {peer / ours:.0f}"
    )


if __name__ == "__main__":
    main()
