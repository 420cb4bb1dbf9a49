"""Our solver against what papers and packages run, on the same objective, in one process, on one thread.

    python benchmarks/bench_fit.py svg_extracted_data.csv     # Epoch's table (precisionlaws config show table=epoch)
    python benchmarks/bench_fit.py                            # without it: simulated points of the same shape
    python benchmarks/bench_fit.py ... --full                 # every start and resample of the peers, not a sample of them

Jobs: (1) Chinchilla's law on 240 points: Epoch's 4,500 L-BFGS-B starts with numeric gradients, the package
`chinchilla` (BFGS), ours, and ours from Epoch's starts; (2) 4,000 bootstraps, Epoch's by BFGS with autograd from
the published parameters; (3) a law of 11 parameters on 460 runs, and scipy as papers use it. CPU seconds
(children included), so that a busy machine changes little; ours is the median of several, as a peer's is a mean over
its starts; a peer's sample is scaled to its whole job and says so.
Peers that are not installed are named: pip install chinchilla autograd.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import itertools
import resource
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from scipy import optimize

from precisionlaws.fitting.objective import Block, block, huber
from precisionlaws.fitting.rows import centre, select
from precisionlaws.fitting.simulate import crossed, simulate
from precisionlaws.fitting.solve import descend, minimise, search
from precisionlaws.laws import law
from precisionlaws.store import load

DELTA = 1e-3
RESAMPLES = 4000
GRID = tuple(
    np.array([a, b, e, alpha, beta])
    for alpha, beta, e, a, b in itertools.product(
        np.arange(0, 2.5, 0.5), np.arange(0, 2.5, 0.5), np.arange(-1, 1.5, 0.5), np.arange(0, 30, 5), np.arange(0, 30, 5)
    )
)  # fmt: skip
HOFFMANN = np.array(
    [6.0073404, 6.0179186, 0.5267228, 0.33917084, 0.2849083]
)  # log A, log B, log E, α, β
PUBLISHED = {"A": 124.52, "B": 1293.28, "E": 0.02566, "alpha": 0.01540, "beta": 0.02060}  # errors


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", nargs="?")
    parser.add_argument("--table", default="epoch")
    parser.add_argument("--full", action="store_true")
    chosen = parser.parse_args()
    frame = load(chosen.file, table=chosen.table) if chosen.file else simulated_points()
    one_fit(frame, chosen.full)
    bootstrap(frame, chosen.full, known=chosen.file is not None and chosen.table == "epoch")
    precision(chosen.full)


def one_fit(frame: Any, full: bool) -> None:
    b = of(frame, "chinchilla")
    print(f"chinchilla, {len(b.y)} points, Σ huber({DELTA:g}) of log loss; CPU seconds")
    runs = [timed(lambda: search(b, DELTA)) for _ in range(9)]
    found, ours = runs[0][0], float(np.median([seconds for _, seconds in runs]))
    line("ours, screened starts", ours, found.value)
    start = in_search_space(b, np.array(GRID))
    ended, seconds = timed(lambda: descend(b, start, DELTA))
    line(f"ours, Epoch's {len(GRID)} starts", seconds, ended.value, found.value[0])
    some = sample(len(GRID), len(GRID) if full else 150)
    theirs, whole = timed(lambda: np.array([epochs(frame, GRID[i], "L-BFGS-B").fun for i in some]))
    whole *= len(GRID) / len(some)
    line(
        f"Epoch's procedure ({len(some)} of {len(GRID)} starts run)", whole, theirs, found.value[0]
    )
    print(
        f"  ×{whole / ours:,.0f} for one fit, ×{whole / seconds:.1f} on the same {len(GRID)} starts"
    )
    packaged(frame, b, ours, 3 if full else 2)


def bootstrap(frame: Any, full: bool, known: bool) -> None:
    b = of(frame, "chinchilla")
    n = len(b.y)
    draws = np.random.RandomState(42)
    picks = np.array([draws.choice(n, n) for _ in range(RESAMPLES)])
    W = np.stack([np.bincount(pick, minlength=n) for pick in picks]).astype(float)
    u = search(b, DELTA).u[:1]
    runs = [
        timed(lambda: minimise(b, np.repeat(u, RESAMPLES, 0), DELTA, W=W, tol=1e-10))
        for _ in range(5)
    ]
    refits, ours = runs[0][0], float(np.median([seconds for _, seconds in runs]))
    print(
        f"{RESAMPLES} bootstraps\n  {'ours':46}{ours:9.2f} s   {refits.converged.mean():.1%} converged"
    )
    sd = {name: v.std(ddof=1) for name, v in b.natural(refits.u).items()}
    says = "  ".join(
        f"{k} {v:.4g}" + (f" ({PUBLISHED[k]:g})" if known else "") for k, v in sd.items()
    )
    print(f"  standard errors{' (published)' if known else ''}: {says}")
    jac: Any = autograd()
    some = RESAMPLES if full else 60
    theirs, seconds = timed(
        lambda: np.array(
            [epochs(frame.iloc[pick], HOFFMANN, "BFGS", jac).fun for pick in picks[:some]]
        )
    )
    seconds *= RESAMPLES / some
    excess = theirs / refits.value[:some] - 1
    how = "autograd" if jac else "numeric gradients; not installed: pip install autograd"
    print(
        f"  {f'Epoch, BFGS, {how} ({some} run)':46}{seconds:9.2f} s   ends {excess.min():+.1e} to {excess.max():+.1e} above ours"
        f"\n  ×{seconds / ours:.0f}; ours is worse on {(excess < -1e-9).sum()} of {some}"
    )


def precision(full: bool) -> None:
    b = simulated_runs()
    some = 40 if full else 6
    print(f"{b.law.full_name}, {len(b.y)} runs, {len(b.params)} parameters")
    for text, delta in (("least squares", np.inf), (f"huber({DELTA:g})", DELTA)):
        found, seconds = timed(lambda delta=delta: search(b, delta))
        W = np.random.default_rng(0).multinomial(
            len(b.y), np.full(len(b.y), 1 / len(b.y)), RESAMPLES
        )
        refits, boot = timed(
            lambda delta=delta, W=W, u=found.u[:1]: minimise(b, np.repeat(u, RESAMPLES, 0), delta, W=W.astype(float), tol=1e-10)
        )  # fmt: skip
        ends, many = timed(lambda delta=delta: descend(b, random_starts(b, 200), delta))
        share = np.mean(ends.value <= found.value[0] * (1 + 1e-6))
        print(
            f"  {text:14} one fit {seconds:.3f} s; {RESAMPLES} resamples {boot:.2f} s, {refits.converged.mean():.1%} converged; "
            f"200 random starts {many:.2f} s, {share:.1%} at the best minimum"
        )
        theirs, seconds = timed(
            lambda delta=delta, W=W, u=found.u[0]: np.array(
                [by_scipy(b, u, w, delta) for w in W[:some]]
            )
        )
        seconds *= RESAMPLES / some
        excess = theirs / refits.value[:some] - 1
        print(
            f"  {'':14} scipy BFGS, numeric gradients, from our fit ({some} run): {seconds:.0f} s, ×{seconds / boot:.0f}; "
            f"ends {excess.min():+.1e} to {excess.max():+.1e} above ours"
        )


def line(what: str, seconds: float, values: Any, best: Any = None) -> None:
    best = values.min() if best is None else best
    near = np.mean(values <= best * (1 + 1e-6))
    print(
        f"  {what:46}{seconds:9.3f} s   F = {values.min():.13e}   {near:.1%} of starts within 1e-6"
    )


def epochs(frame: Any, start: Any, method: str, jac: Any = None) -> Any:
    """Besiroglu et al. 2024: scipy on Σ huber of log-sum-exp, numeric gradients unless given."""
    data = tuple(frame[c].to_numpy(float) for c in ("N", "D", "loss"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return optimize.minimize(partial(objective, np), start, args=data, method=method, jac=jac)


def objective(xp: Any, p: Any, N: Any, D: Any, loss: Any) -> Any:
    a, b, e, alpha, beta = p
    fitted = xp.log(xp.exp(a - alpha * xp.log(N)) + xp.exp(b - beta * xp.log(D)) + xp.exp(e))
    r = xp.log(loss) - fitted
    return xp.sum(xp.where(xp.abs(r) <= DELTA, 0.5 * r**2, DELTA * (xp.abs(r) - 0.5 * DELTA)))


def autograd() -> Any:
    """The exact gradient that Epoch's notebook uses; None where autograd is not installed."""
    try:
        import autograd.numpy as numpy  # pyright: ignore[reportMissingImports]
        from autograd import grad  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    gradient: Any = grad  # a decorated function, whose own signature no checker sees
    return gradient(partial(objective, numpy))


def packaged(frame: Any, b: Block, ours: float, points: int) -> None:
    """The package `chinchilla` on a grid of points⁵ starts with the same objective."""
    try:
        from chinchilla import Chinchilla  # pyright: ignore[reportMissingImports]
        from chinchilla._metrics import log_huber  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        print(f"  chinchilla (PyPI): not installed ({error}): pip install chinchilla")
        return
    ends: dict[str, Any] = {
        "E": (1.1, 1.5),
        "A": (200, 600),
        "B": (200, 2000),
        "alpha": (0.3, 0.5),
        "beta": (0.25, 0.5),
    }
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        grid = {k: np.linspace(v[0], v[1], points) for k, v in ends.items()}
        peer = Chinchilla(
            folder, param_grid=grid, loss_fn=partial(log_huber, delta=DELTA), log_level=40
        )
        table = frame[["N", "D", "loss"]].reset_index(drop=True)
        peer.database.df = table.assign(C=6 * table["N"] * table["D"])
        seconds = timed(peer.fit)[1]
        p = peer.get_params()
    u = [np.log(p["A"]), np.log(p["B"]), np.log(p["E"]), p["alpha"], p["beta"]]
    F = objective(np, u, *(table[c].to_numpy(float) for c in ("N", "D", "loss")))
    best = search(b, DELTA).value[0]
    line(f"chinchilla (PyPI), BFGS, best of {points**5} starts", seconds, np.array([F]), best)
    print(f"  ×{seconds / ours:,.0f} for one fit, and ends {F / best - 1:+.1e} above ours")


def by_scipy(b: Block, u: np.ndarray, W: np.ndarray, delta: float) -> float:
    def F(v: np.ndarray) -> float:
        out = float(huber(b.y - b.predict(np.clip(v, b.lower, b.upper)[None]), W, delta)[0])
        return out if np.isfinite(out) else 1e6

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(optimize.minimize(F, u, method="BFGS").fun)


def in_search_space(b: Block, p: np.ndarray) -> np.ndarray:
    """Rows (log A, log B, log E, α, β) as u, moved into the bounds."""
    a, beta = p[:, 0] - p[:, 3] * np.log(b.centre["N"]), p[:, 4]
    v = {
        "A": a, "B": p[:, 1] - beta * np.log(b.centre["D"]), "E": np.exp(p[:, 2]),
        "alpha": np.log(np.maximum(p[:, 3], 1e-9)), "beta": np.log(np.maximum(beta, 1e-9)),
    }  # fmt: skip
    return np.clip(np.stack([v[q.name] for q in b.params], 1), b.lower, b.upper)


def random_starts(b: Block, n: int) -> np.ndarray:
    """Every parameter, linear ones too, anywhere in the range where searches start."""
    ends = np.array([q.start if q.link == "identity" else np.log(q.start) for q in b.params])
    return np.random.default_rng(1).uniform(ends[:, 0], ends[:, 1], (n, len(ends)))


def sample(n: int, k: int) -> np.ndarray:
    return np.random.default_rng(0).permutation(n)[:k]


def simulated_points() -> Any:
    import pandas as pd

    print(
        "no file: simulated points; `precisionlaws config show table=epoch` says where the measured ones are"
    )
    one, rng = law("chinchilla"), np.random.default_rng(0)
    assert one.published is not None
    N = 10 ** rng.uniform(7.65, 10.2, 240)
    D = np.clip(10 ** rng.uniform(18.7, 21.5, 240) / (6 * N), 1e8, None)
    frame = pd.DataFrame({"N": N, "D": D})
    noise = 0.004 * rng.standard_t(3, 240)
    return frame.assign(loss=one.loss(one.published, frame) * np.exp(noise))


def simulated_runs() -> Block:
    one = law("neff_kumar")
    assert one.published is not None
    widths = [{c: P} for c in ("P_w", "P_a", "P_kv") for P in (4, 5, 6, 7, 8, 10, 12)] + [
        dict.fromkeys(("P_w", "P_a", "P_kv"), 8)
    ]
    design = crossed((3e7, 6e7, 1.1e8, 2.2e8), (1.5e9, 3e9, 6e9, 1.3e10, 2.6e10), widths, seeds=1)
    return of(simulate(one, one.published, design, run_sd=0.005, branch_sd=0.005), "neff_kumar")


def of(frame: Any, name: str) -> Block:
    rows = select(frame, law(name))
    return block("loss", law(name).bind(rows.loss), rows.loss, centre(rows.loss))


def timed(job: Callable[[], Any]) -> tuple[Any, float]:
    """Result and CPU seconds, of child processes too."""
    start = used()
    result = job()
    return result, used() - start


def used() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(r.ru_utime + r.ru_stime for r in both)


if __name__ == "__main__":
    main()
