"""Our batched solver against scipy on the same objective, in the same process and on one thread.

    python benchmarks/bench_fit.py                 # a simulated precision study, 11 parameters, 380 runs
    python benchmarks/bench_fit.py points.csv      # N, D, loss (or Epoch's columns: the 5 highest losses are dropped)

Two jobs: the global fit from the same screened starts, and refits of bootstrap resamples from the full
fit. scipy is used as papers use it (BFGS and L-BFGS-B, numeric gradient, default tolerances). CPU time,
so that a busy machine changes little; scipy's resamples are fewer, and its time per refit is compared.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from precisionlaws.fitting.objective import Block, block, huber
from precisionlaws.fitting.rows import centre, select
from precisionlaws.fitting.simulate import crossed, simulate
from precisionlaws.fitting.solve import STARTS, minimise, screen, search
from precisionlaws.laws import law

DELTA = 1e-3
OURS, THEIRS = 1000, 12  # resamples


def main(path: str | None) -> None:
    b = from_csv(path) if path else simulated()
    ones = np.ones(len(b.y))
    print(
        f"{b.law.full_name}: {len(b.y)} points, {len(b.params)} parameters, Σ huber({DELTA:g}) of log loss"
    )
    found, seconds = timed(lambda: search(b, DELTA))
    print(f"global fit, {STARTS} starts  ours      {seconds:8.3f} s   F = {found.value[0]:.13e}")
    starts = screen(b, ones)
    starts = starts[np.argsort(huber(b.y - b.predict(starts), ones, 3e-2))[:STARTS]]
    for method in ("BFGS", "L-BFGS-B"):
        F, theirs = timed(
            lambda method=method: np.array([scipy_fit(b, u, ones, method)[0] for u in starts])
        )
        near = np.mean(found.value[0] * (1 + 1e-6) >= F)
        print(
            f"{'':23}{method:<9} {theirs:8.3f} s   F = {F.min():.13e}   ×{theirs / seconds:.0f}; {near:.0%} of starts within 1e-6"
        )
    W = np.random.default_rng(0).multinomial(len(b.y), ones / len(b.y), OURS).astype(float)
    refits, seconds = timed(
        lambda: minimise(b, np.repeat(found.u[:1], OURS, 0), DELTA, W=W, tol=1e-8)
    )
    ours = seconds / OURS
    print(
        f"resamples               ours      {1e3 * ours:8.3f} ms each, {refits.converged.mean():.1%} converged"
    )
    for method in ("BFGS", "L-BFGS-B"):
        F, theirs = timed(
            lambda method=method: np.array(
                [scipy_fit(b, found.u[0], w, method)[0] for w in W[:THEIRS]]
            )
        )
        excess = F / refits.value[:THEIRS] - 1
        print(
            f"{'':23}{method:<9} {1e3 * theirs / THEIRS:9.3f} ms each  ×{theirs / THEIRS / ours:.0f}; ends {excess.min():+.1e} to {excess.max():+.1e} above ours"
        )


def scipy_fit(b: Block, u: np.ndarray, W: np.ndarray, method: str) -> tuple[float, np.ndarray]:
    """Value and place where scipy stops."""
    from scipy import optimize

    def F(v: np.ndarray) -> float:
        out = float(huber(b.y - b.predict(np.clip(v, b.lower, b.upper)[None]), W, DELTA)[0])
        return out if np.isfinite(out) else 1e6

    bounds = list(zip(b.lower, b.upper, strict=True)) if method == "L-BFGS-B" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = optimize.minimize(F, u, method=method, bounds=bounds)
    return float(out.fun), out.x


def timed(job: Callable[[], Any]) -> tuple[Any, float]:
    """Result and CPU seconds."""
    start = time.process_time()
    result = job()
    return result, time.process_time() - start


def simulated() -> Block:
    one = law("neff_kumar")
    assert one.published is not None
    widths = [{c: P} for c in ("P_w", "P_a", "P_kv") for P in (4, 5, 6, 8, 12)] + [
        {"P_w": P, "P_a": P, "P_kv": P} for P in (4, 6, 8)
    ]
    design = crossed((3e7, 6e7, 1.1e8, 2.2e8), (1.5e9, 3e9, 6e9, 1.3e10, 2.6e10), widths, seeds=1)
    return of(simulate(one, one.published, design, run_sd=0.005, branch_sd=0.005), "neff_kumar")


def from_csv(path: str) -> Block:
    import pandas as pd

    table: Any = pd.read_csv(path)
    if "Model Size" in table:
        N = table["Model Size"].to_numpy(float)
        table = pd.DataFrame(
            {"N": N, "D": table["Training FLOP"].to_numpy(float) / (6 * N), "loss": table["loss"]}
        )
        table = table[table["loss"] < table["loss"].nlargest(5).min()]
    return of(table, "neff_kumar" if {"P_w", "P_a", "P_kv"} & set(table) else "chinchilla")


def of(frame: Any, name: str) -> Block:
    rows = select(frame, law(name))
    return block("loss", law(name).bind(rows.loss), rows.loss, centre(rows.loss))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
