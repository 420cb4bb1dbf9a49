"""How often a nominal 95% interval holds the truth: the default (by family) beside Wald and the bootstrap of runs.

    python benchmarks/bench_coverage.py                          # 1,000 replicates of `study`, seeds 0 to 999
    python benchmarks/bench_coverage.py 300 few,kumar,ptq 10000  # replicates, studies, first seed

1,000 replicates of all four take some 40 CPU minutes.

One table per study and noise. `study`: 4 sizes × 3 seeds × 4 D × 3 widths, a form-free law. `few`: 3 sizes ×
2 seeds, six families, 11 parameters. `kumar`: three roles with offsets, 11 parameters, and what follows from
them. `ptq`: losses and paired δ through the public `fit`. Loss noise: iid runs (sd .008 nats); a family's own
level (sd .02) besides; and a slope of each family in ln D (sd .01) besides, as runs from one trunk share it.

Every method gets the same fits (Huber 1e-3, `fit`'s default; a blind search is compared on the first). The
bootstrap of runs, the dearest, gets the first tenth of the replicates. The verdict: whether any quantity of
the default lies below 93% at the 1% level, one-sided binomial tests with Holm's correction within a table.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from precisionlaws.fitting.fit import fit
from precisionlaws.fitting.objective import Block, block
from precisionlaws.fitting.profiles import joined, profiles
from precisionlaws.fitting.resample import METHODS, Solved, draw
from precisionlaws.fitting.rows import centre
from precisionlaws.fitting.simulate import crossed, simulate
from precisionlaws.fitting.solve import minimise, search
from precisionlaws.laws import OFF, Law, law
from precisionlaws.laws.base import ROLES
from precisionlaws.planning.costs import relative_cost
from precisionlaws.planning.optimum import best_width

DELTA, LEVEL, LEAST, ALPHA = 1e-3, 0.95, 0.93, 0.01
DRAWS = 1000  # a quarter of `fit`'s: ends of intervals are noisier, and so cover a little less
FEWER = 400  # for methods that are only compared with
BLIND = 10  # replicates whose minimum a search from nowhere must find too
DEAR = 0.1  # share of the replicates that the bootstrap of runs gets
NOISE: Mapping[str, Mapping[str, Any]] = {
    "iid": {"run_sd": 0.008},
    "family": {"run_sd": 0.008, "family_sd": 0.02},
    "trunk": {"run_sd": 0.008, "family_sd": 0.02, "slope_sd": 0.01},
}
BASE = {"A": 30.0, "alpha": 0.5, "B": 150.0, "beta": 0.45, "E": 1.0}
WEIGHTS = {"eff_w[3]": 0.55, "eff_w[4]": 0.87}
ALL = {**WEIGHTS, "eff_w[6]": 0.98, "eff_a[4]": 0.75, "eff_a[6]": 0.97, "eff_kv[4]": 0.92}
DAMAGE = {"C_T": 0.018, "gamma_D": 0.69, "gamma_N": 0.25, "gamma_post": 0.63}
DELTA_NOISE: Mapping[str, Any] = {"delta_sd": (3e-4, 0.15), "delta_family_sd": 0.1}


def studies() -> dict[str, tuple[str, dict[str, float], pd.DataFrame]]:
    """Law, true parameters and design of each."""
    N, D = np.geomspace(5e3, 3e5, 4), np.geomspace(6e4, 2e6, 4)
    low = [{"P_w": 3}, {"P_w": 4}]
    demo = [*low, {"P_w": 6}, {"P_a": 4}, {"P_a": 6}, {"P_kv": 4}]
    roles = [{f"P_{role}": P} for role in ROLES for P in (4, 6)]
    kumar = dict(law("neff_kumar").published or {})
    paper = crossed((3e7, 6e7, 1.1e8, 2.2e8), (1.5e9, 3e9, 6e9, 1.3e10), roles, seeds=3)
    return {
        "study": ("neff_free", {**BASE, **WEIGHTS}, crossed(N, D, low, seeds=3)),
        "few": ("neff_free", {**BASE, **ALL}, crossed((6656, 20480, 50000), D[:4], demo, seeds=2)),
        "kumar": ("neff_kumar", kumar, paper),
        "ptq": ("neff_free+ptq_kumar", {**BASE, **WEIGHTS, **DAMAGE}, crossed(N, D, low, seeds=3, post=(3, 4, 5, 6))),
    }  # fmt: skip


def main(replicates: int, names: list[str], first: int) -> None:
    known = studies()
    unknown = [n for n in names if n not in known]
    if unknown:
        sys.exit(f"no study {unknown[0]!r}; there are {', '.join(known)}")
    seeds, held = range(first, first + replicates), True
    for name in names:
        one, true, design = law(known[name][0]), *known[name][1:]
        for kind, noise in NOISE.items():
            start = time.process_time()
            run = public if one.paired else direct
            ends, agree = run(one, true, design, noise, seeds)
            G, n = design["family"].nunique(), len(design)
            print(
                f"\n{name}, {kind} noise: {one.full_name}, {n} rows, {G} families, seeds {seeds[0]} to {seeds[-1]}"
                f"{agree}; {time.process_time() - start:.0f} CPU s"
            )
            held &= table(quantities(one, design, one_each(true)), ends)
    sys.exit(0 if held else 1)


def direct(
    one: Law, true: dict[str, float], design: pd.DataFrame, noise: Mapping[str, Any], seeds: range
) -> tuple[dict[str, list[Any]], str]:
    """Ends of the intervals by method and replicate, from the truth's own minimum."""
    ends: dict[str, list[Any]] = {m: [] for m in METHODS}
    family, run = (np.unique(design[c], return_inverse=True)[1] for c in ("family", "run_id"))
    agree = 0
    for k, seed in enumerate(seeds):
        frame = simulate(one, true, design, **noise, seed=seed)
        b = block("loss", one.bind(frame), frame, centre(frame))
        found = minimise(b, place(b, true)[None], DELTA, tol=1e-9, steps=500)
        if k < BLIND:
            agree += search(b, DELTA).value[0] >= found.value[0] * (1 - 1e-6)
        solved = Solved(block=b, u=found.u[0], delta=DELTA, cluster=family, run=run)
        for method in METHODS:
            if method != "run" or k < DEAR * len(seeds):
                count = DRAWS if method == "family" else FEWER
                draws = b.natural(draw((solved,), method, count, seed).u[0])
                drawn = quantities(one, design, draws)
                ends[method].append(interval(drawn))
                if method == "family":
                    hold(ends[method][-1], list(drawn), solved)
    return ends, f"; a blind search finds nothing lower in {agree} of {min(BLIND, len(seeds))}"


def public(
    one: Law, true: dict[str, float], design: pd.DataFrame, noise: Mapping[str, Any], seeds: range
) -> tuple[dict[str, list[Any]], str]:
    """Ends of the intervals of `fit` itself; Wald and runs on a tenth of the replicates."""
    ends: dict[str, list[Any]] = {m: [] for m in METHODS}
    for k, seed in enumerate(seeds):
        frame = simulate(one, true, design, **noise, **DELTA_NOISE, seed=seed)
        for method in METHODS:
            if method == "family" or k < DEAR * len(seeds):
                count = DRAWS if method == "family" else FEWER
                found = fit(frame, one, intervals=method, resamples=count, seed=seed)
                drawn = quantities(one, design, found.samples)
                ends[method].append(interval(drawn))
                for j, name in enumerate(drawn):
                    if name in found.params:
                        ends[method][-1][:, j] = found.interval(name)
    return ends, ""


def hold(ends: np.ndarray, names: list[str], s: Solved) -> None:
    """Ends (2, quantities) take in what profiles allow, as those of a `Fit` do."""
    found = profiles(s)
    for q in s.block.params:
        j = names.index(q.name)
        ends[:, j] = joined(found, q, *ends[:, j])


def place(b: Block, true: Mapping[str, float]) -> np.ndarray:
    """The truth in the space of the search."""
    out = []
    for q in b.params:
        v = true[q.name]
        for column, exponent, sign in q.centre:
            v *= b.centre[column] ** (-sign * (true[exponent] if exponent else 1.0))
        v = q.at / true[q.of] - v if q.link == "below" else v
        out.append(v if q.link == "identity" else np.log(v))
    return np.array(out)


def quantities(one: Law, design: pd.DataFrame, p: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Parameters and what follows from them, (R,) each."""
    out = {k: np.asarray(v) for k, v in p.items()}
    out["N_opt_exponent"] = p["beta"] / (p["alpha"] + p["beta"])
    if one.name == "neff_kumar":
        low = float(design["P_w"].to_numpy(float).min())
        for P in (low, low + 2):
            for roles in (*((r,) for r in ROLES), ROLES):
                x = {f"P_{r}": np.array(P if r in roles else OFF) for r in ROLES}
                name = "eff" if roles == ROLES else f"eff_{roles[0]}"
                out[f"{name}({P:g})"] = np.asarray(one.scale(p, x))
        out["P*"] = best_width(one, p, 1.0, relative_cost("paper"), low, ROLES, {})
    return out


def one_each(true: Mapping[str, float]) -> dict[str, np.ndarray]:
    return {k: np.array([v]) for k, v in true.items()}


def interval(q: Mapping[str, np.ndarray]) -> np.ndarray:
    """Low and high ends as `Fit.interval` has them, (2, quantities)."""
    draws = np.stack(list(q.values()))
    draws = np.where(np.isnan(draws), np.inf, draws)
    return np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1, method="nearest")


def table(truth: Mapping[str, np.ndarray], ends: Mapping[str, list[Any]]) -> bool:
    """Coverage and median widths of each quantity; True if none of the default's is below LEAST."""
    from scipy import stats

    true = np.array([v[0] for v in truth.values()])
    both = {m: np.array(e) for m, e in ends.items()}  # (replicates, 2, quantities)
    hits = {m: (e[:, 0] <= true) & (true <= e[:, 1]) for m, e in both.items()}
    wide = {m: np.median(e[:, 1] - e[:, 0], 0) for m, e in both.items()}
    R = len(hits["family"])
    p = stats.binom.cdf(hits["family"].sum(0), R, LEAST)
    below = holm(p)
    print(f"{'':15}{'truth':>10}" + "".join(f"{f'{m} ({len(both[m])})':>16}{'width':>10}" for m in METHODS))  # fmt: skip
    for j, name in enumerate(truth):
        cells = "".join(f"{hits[m][:, j].mean():>16.1%}{wide[m][j]:>10.3g}" for m in METHODS)
        verdict = f"  below {LEAST:.0%}: p = {p[j]:.1g}" if below[j] else ""
        print(f"{name:<15}{true[j]:>10.4g}{cells}{verdict}")
    least = {m: h.mean(0).min() for m, h in hits.items()}
    print(
        f"{'least':<25}" + "".join(f"{least[m]:>16.1%}{'':10}" for m in METHODS) + "\n"
        f"{'no quantity' if not below.any() else f'{below.sum()} quantities'} significantly below {LEAST:.0%}",
        flush=True,
    )
    return not below.any()


def holm(p: np.ndarray) -> np.ndarray:
    """Which hypotheses fall at ALPHA (Holm 1979)."""
    order = np.argsort(p)
    passed = p[order] <= ALPHA / np.arange(len(p), 0, -1)
    out = np.zeros(len(p), bool)
    out[order] = np.logical_and.accumulate(passed)
    return out


if __name__ == "__main__":
    arg = dict(enumerate(sys.argv))
    main(int(arg.get(1, 1000)), arg.get(2, "study").split(","), int(arg.get(3, 0)))
