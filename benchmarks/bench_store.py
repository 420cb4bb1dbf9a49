"""`load` of a store of 100,000 points, beside reading its JSON files one by one.

    python benchmarks/bench_store.py               # 5,000 runs with 19 PTQ points each, in a temporary folder

The claims: at most 2 s from the cache, the same frame to the last bit, and one refresh of `jobs watch` over
5,000 runs in at most 1 s.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from precisionlaws.store import Store, complete, load, write
from precisionlaws.sweep.recorded import Job
from precisionlaws.sweep.watch import Watch

RUNS, POINTS = 5_000, 19


def synthetic(store: Store, runs: int, points: int) -> None:
    """Rows as training and PTQ write them: 75 columns, nulls, mixed whole and broken numbers."""
    for i in range(runs):
        row = final(i)
        name = row["run_id"]
        (store.run(name) / "points").mkdir(parents=True)
        store.result(name).write_text(json.dumps(row, indent=1) + "\n")
        for k in range(points):
            point = row | {
                "eval_id": f"rtn{k}-{k:012x}", "P_post": k % 13 + 3, "bits_effective": k % 13 + 3 + 1 / 16,
                "loss": row["loss"] + 0.1 / (k + 1), "delta_ptq": 0.1 / (k + 1), "delta_ptq_se": 0.01,
                "ptq": "rtn", "ptq.bits": k % 13 + 3, "ptq.granularity": "row", "ptq.group": 16,
            }  # fmt: skip
            store.point(name, point["eval_id"]).write_text(json.dumps(point, indent=1) + "\n")


def final(i: int) -> dict[str, Any]:
    bits = (16, 4, 4.25, 8)[i % 4]
    more = {f"quant.{r}.{k}": v for r in ("weights", "activations", "kv") for k, v in (("bits", bits), ("granularity", "row"), ("group", 16), ("scale", "absmax"), ("estimator", "ste"))}  # fmt: skip
    return {
        "schema": 1, "run_id": f"llama-d2w16-{i}-fp-s0-{i:012x}", "family": f"llama-d2w16-s{i % 50}",
        "arch": "llama", "objective": "causal", "N": 6656 + i, "N_head": 4096, "N_emb": 4096, "D": 5120 + i,
        "P_w": bits, "P_a": 16, "P_kv": 16, "bits_effective": bits, "seed": i % 50, "phase": "final",
        "mode": "none", "flops": 393216000 + i, "epochs": 0.09, "model": "llama", "model.kv_heads": None,
        "model.tied": False, "size": "size", "size.depth": 2, "size.width": 16, "data": "package",
        "data.context": 128, "batch_tokens": 1024, "optim": "adamw", "optim.lr": 0.03, "optim.clip": 1.0,
        **{f"optim.more{k}": 0.1 * k for k in range(10)}, "lr_schedule": "wsd", **more, "micro_batch": None,
        "exec.device": "cpu", "exec.threads": 1, "exec.compile": False, "exec.torch": "2.13.0+cpu",
        "data.fingerprint": "e4315e22b808b19f5ef493340d36d86149e6f43f1d91ba78d51893ccf0c7d65b",
        "eval_id": "final", "P_post": 16, "loss": 2 + i * 1e-5, "loss_se": 0.02, "status": "finished",
        "seconds": 0.37,
    }  # fmt: skip


def naive(root: Path) -> pd.DataFrame:
    """What one writes first."""
    files = [p for run in sorted(root.glob("runs/*")) for p in (run / "result.json", *sorted(run.glob("points/*.json")))]  # fmt: skip
    return complete(pd.DataFrame([json.loads(p.read_text()) for p in files]))


def timed(job: Callable[[], Any]) -> tuple[Any, float, float]:
    """Result, CPU seconds, seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = job()
    return result, time.process_time() - cpu, time.perf_counter() - wall


def main(runs: int, points: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "store"
        synthetic(Store(root), runs, points)
        jobs = {
            "JSON files one by one": lambda: naive(root),
            "load, no cache yet": lambda: load(root),
            "load": lambda: load(root),
        }
        found = {name: timed(job) for name, job in jobs.items()}
        base = found["JSON files one by one"]
        for name, (frame, cpu, wall) in found.items():
            pd.testing.assert_frame_equal(frame, base[0])
            print(f"{name:22} {len(frame):,} points  {cpu:6.2f} CPU s  {wall:6.2f} s  ×{base[1] / cpu:.1f}")  # fmt: skip

        watched(Store(root), runs)


def watched(store: Store, runs: int) -> None:
    """A tenth of a study is to go, ten workers are at it; the first look, and one that knows the finished."""
    jobs = [Job(final(i)["run_id"], f"u{i // 5}", 32, 40, 128, (), 1e-3, 0.1) for i in range(runs)]
    for job in jobs[: runs // 10]:
        store.result(job.run).unlink()
    plan = {"schema": 1, "study": "bench", "overrides": [], "jobs": [asdict(j) for j in jobs]}
    write(store.study("bench"), json.dumps(plan))
    for job in jobs[:50:5]:
        note = {"host": "h", "pid": 1, "beat": 1, "run": job.run, "step": 3, "steps": 40, "tokens": 99, "seconds": 9.0}  # fmt: skip
        write(store.claim(job.unit), json.dumps(note))
    watch = Watch(store)
    for name in ("first look of a watch", "each further look"):
        look, cpu, wall = timed(watch.look)
        assert look.rows[0].states["done"] == runs - runs // 10
        assert look.rows[0].states["running"] == 10
        print(f"{name:22} {runs:,} runs     {cpu:6.2f} CPU s  {wall:6.2f} s")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]) if len(sys.argv) > 2 else (RUNS, POINTS))
