"""Which runs to train next: those that settle the best width, or tell two laws apart, most per second.

The draws of a fit are taken as the joint belief in what any run would show and in what is asked. What a
run is expected to take off the variance of the question is then a matter of covariances (linear Bayes;
exact for Gaussian beliefs, and nothing is refitted), and runs are picked one after the other, each given
those before it. A run shares its family's noise with the family's other runs: in a family that was
trained already most of it is known, which is what pairing is worth.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from precisionlaws.fitting import Fit
from precisionlaws.laws.base import BITS, OFF, ROLES, Array
from precisionlaws.planning.costs import FLOPS_PER_TOKEN
from precisionlaws.planning.plan import choose, merit, question
from precisionlaws.planning.widths import Widths, continuous

if TYPE_CHECKING:
    import pandas as pd

FURTHER = 2.0  # times the largest N and D measured
TAIL = 0.005  # of draws on each side that are drawn in: a ridge's are not Gaussian
MOST = 4000  # candidates


def next_runs(
    fit: Fit, K: int, *, flops: float, cost: str = "paper", other: Fit | None = None
) -> "pd.DataFrame":
    """The K runs to train next, best first.

    N, D, P_w, P_a, P_kv, seed, seconds (of one run; without a `seconds` column in the fit: FLOPs), aim, left
    (the share of the aim's variance after this run and those before it; for two laws: the expected
    log likelihood ratio between them so far).
    """
    if K < 1:
        raise ValueError(f"next must be at least 1, got {K}")
    table: Any = candidates(fit)
    see = [f for f in (fit, other) if f is not None]
    known = np.logical_and.reduce([np.isfinite(seen(f, table)).all(0) for f in see])
    table = table[known].reset_index(drop=True)
    if len(table) == 0:
        raise ValueError(
            "the laws of these fits have no value in common at any run that could be next"
        )
    if other is None:
        aim, h = question_of(fit, flops, cost)
        chosen, left = _settle(fit, table, h, K)
    else:
        aim, (chosen, left) = f"{fit.law.full_name} or {other.law.full_name}", _separate(fit, other, table, K)  # fmt: skip
    out = table.iloc[chosen].drop(columns="family").reset_index(drop=True)
    return out.assign(aim=aim, left=left)


def candidates(fit: Fit) -> "pd.DataFrame":
    """Runs that could be trained: sizes and D as measured and twice the largest, each format, known and new seeds."""
    import pandas as pd

    rows: Any = fit.rows
    sizes, tokens = ([*np.unique(rows[c]), FURTHER * rows[c].max()] for c in ("N", "D"))
    seeds = [*np.unique(rows["seed"]).astype(int)] if "seed" in rows else [0]
    formats = _formats(fit)
    made = [
        {"N": N, "D": D, **f, "seed": s, "family": f"{N:g}/{s}"}
        for N in sizes for D in tokens for f in formats for s in [*seeds, max(seeds) + 1]
    ]  # fmt: skip
    table = _new(pd.DataFrame(made), rows)
    if len(table) > MOST:
        table = table.sample(MOST, random_state=0)
    return table.assign(seconds=seconds(fit, table)).reset_index(drop=True)


def _new(table: Any, rows: Any) -> Any:
    """Without the runs that were trained already: the same run has the same loss, to the bit."""
    columns = ["N", "D", *(f"P_{r}" for r in ROLES), "seed"]
    had = rows.reindex(columns=columns).fillna({"seed": 0}).fillna(OFF)
    done = set(had.itertuples(index=False, name=None))
    return table[[r not in done for r in table[columns].itertuples(index=False, name=None)]]


def _formats(fit: Fit) -> list[dict[str, float]]:
    """Each role alone and all together, at widths that were measured; with a formula in P also between them."""
    plain = dict.fromkeys((f"P_{r}" for r in ROLES), OFF)
    out, roles = [plain], fit.measured
    for role, P in roles.items():
        between = np.arange(min(P), OFF) if continuous(fit.law) else P
        out += [{**plain, f"P_{role}": float(b)} for b in between]
    if len(roles) > 1:
        common = set.intersection(*map(set, roles.values()))
        out += [{**plain, **{f"P_{r}": b for r in roles}} for b in sorted(common)]
    return out


def seconds(fit: Fit, table: Any) -> Any:
    """Of each candidate: FLOPs at the rate of the measured runs; FLOPs where none was recorded."""
    import pandas as pd

    flops = FLOPS_PER_TOKEN * table["N"].to_numpy(float) * table["D"].to_numpy(float)
    rows: Any = fit.rows
    if "seconds" not in rows:
        return flops
    spent: Any = np.asarray(pd.to_numeric(rows["seconds"], errors="coerce"), float)
    known = spent > 0
    if not known.any():
        return flops
    done = FLOPS_PER_TOKEN * rows["N"].to_numpy(float) * rows["D"].to_numpy(float)
    return flops * spent[known].sum() / done[known].sum()


def seen(fit: Fit, table: Any) -> Array:
    """Log losses that each draw foresees at the candidates, (R, M)."""
    x: dict[str, Any] = {c: table[c].to_numpy(float) for c in ("N", "D", *BITS[:3])}
    if "G" in fit.law.columns:
        known = fit.rows["G"].dropna()
        plain = np.logical_and.reduce([x[f"P_{r}"] >= OFF for r in ROLES])
        x["G"] = np.where(plain, np.nan, known.mode().iloc[0])
    with np.errstate(all="ignore"):
        p = {k: v[:, None] for k, v in fit.samples.items()}
        log = np.log(fit.law.evaluate(p, fit.law.read(x)) + np.zeros((1, len(table))))
    low, high = np.nanquantile(log, [TAIL, 1 - TAIL], axis=0)
    return np.clip(log, low, high)


def question_of(fit: Fit, flops: float, cost: str) -> tuple[str, Array]:
    """What is to be settled, and its draws: P*, or which of the two likeliest widths is better."""
    q, table = question(fit, flops=flops, cost=cost, fixed={})
    if not table.roles:
        raise ValueError(f"{fit.law.full_name} has no width below 16 bits in these runs: nothing about P* can be settled")  # fmt: skip
    P = choose(q, fit.samples, table, table.scales)
    if q.smooth and np.nanstd(P) > 0:
        low, high = np.nanquantile(P, [TAIL, 1 - TAIL])
        return "P*", np.clip(np.where(np.isnan(P), high, P), low, high)
    column = {k: v[:, None] for k, v in fit.samples.items()}
    value = merit(q, column, table.P, table.scales)
    first, second = _rivals(value, table)
    with np.errstate(all="ignore"):
        gap = np.log(value[:, first] / value[:, second]) if q.separable else value[:, first] - value[:, second]  # fmt: skip
    gap = np.where(np.isfinite(gap), gap, np.nanmedian(gap))
    low, high = np.quantile(gap, [TAIL, 1 - TAIL])
    return f"{table.P[first]:g} or {table.P[second]:g} bits", np.clip(gap, low, high)


def _rivals(value: Array, table: Widths) -> tuple[int, int]:
    """The two measured widths that are best in most draws."""
    at = np.nonzero(table.trained)[0]
    own = np.where(np.isnan(value[:, at]), -np.inf, value[:, at])
    share = np.bincount(np.argmax(own, 1), minlength=len(at)) + 1e-6 * np.argsort(np.argsort(np.median(own, 0)))  # fmt: skip
    first, second = np.argsort(share)[::-1][:2]
    return int(at[first]), int(at[second])


def noise(fit: Fit, table: Any) -> tuple[float, Array]:
    """Variance of a run, and of its family given the runs that the family already has, (M,)."""
    own, shared = fit.residual["run_sd"] ** 2, fit.residual["family_sd"] ** 2
    rows: Any = fit.rows
    names = [f"{N:g}/{s:g}" for N, s in zip(rows["N"], rows.get("seed", np.zeros(len(rows))), strict=True)]  # fmt: skip
    trained = np.array([names.count(f) for f in table["family"]])
    return max(own, 1e-12), own * shared / np.maximum(own + trained * shared, 1e-300)


def _settle(fit: Fit, table: Any, h: Array, K: int) -> tuple[list[int], list[float]]:
    F = seen(fit, table)
    own, shared = noise(fit, table)
    M, family = len(table), table["family"].to_numpy(str)
    both = np.column_stack([F, h]) - np.append(F.mean(0), h.mean())
    S = both.T @ both / len(h)
    S[:M, :M] += np.where(family[:, None] == family[None], np.sqrt(np.outer(shared, shared)), 0.0)
    start, cost, chosen, left = S[M, M], table["seconds"].to_numpy(float), [], []
    for _ in range(min(K, M)):
        total = np.diag(S)[:M] + own
        gain = S[:M, M] ** 2 / total / cost
        gain[chosen] = -1.0
        k = int(np.argmax(gain))
        chosen.append(k)
        S -= np.outer(S[:, k], S[k]) / total[k]
        left.append(float(S[M, M] / start))
    return chosen, left


def _separate(fit: Fit, other: Fit, table: Any, K: int) -> tuple[list[int], list[float]]:
    both = [seen(f, table) for f in (fit, other)]
    gap = both[0].mean(0) - both[1].mean(0)
    own, shared = noise(fit, table)
    family = table["family"].to_numpy(str)
    V: Any = np.where(family[:, None] == family[None], np.sqrt(np.outer(shared, shared)), 0.0)
    V = V + sum(np.cov(F.T).reshape(V.shape) for F in both) + own * np.eye(len(gap))
    cost, chosen, ratio, so_far = table["seconds"].to_numpy(float), [], [], 0.0
    residual, left = gap.copy(), V.copy()
    for _ in range(min(K, len(gap))):
        worth = residual**2 / np.diag(left) / cost
        worth[chosen] = -1.0
        k = int(np.argmax(worth))
        so_far += 0.5 * residual[k] ** 2 / left[k, k]
        chosen.append(k)
        ratio.append(float(so_far))
        residual = residual - left[:, k] * residual[k] / left[k, k]
        left = left - np.outer(left[:, k], left[k]) / left[k, k]
        left[np.diag_indices_from(left)] = np.maximum(np.diag(left), 1e-300)
    return chosen, ratio


def lines(table: "pd.DataFrame", unit: str) -> list[str]:
    """The table in print."""
    t = table.iloc[0].to_dict()
    two = " or " in t["aim"] and "bits" not in t["aim"]
    head = "log likelihood ratio" if two else "variance left"
    out = [
        f"next, to settle {t['aim']}:",
        f"      N         D  P_w P_a P_kv  seed  {unit:>9}  {head}",
    ]
    for r in table.to_dict("records"):
        bits = "".join(f"{r[f'P_{role}']:>4g}" for role in ROLES)
        left = f"{r['left']:.3g}" if two else f"{r['left']:.1%}"
        out.append(
            f"{r['N']:>7.3g}  {r['D']:>8.3g}  {bits}  {r['seed']:>4}  {r['seconds']:>9.3g}  {left:>13}"
        )
    return out


def unit_of(fits: Sequence[Fit]) -> str:
    """Of the column `seconds`."""
    return "seconds" if all("seconds" in f.rows for f in fits) else "FLOP"
