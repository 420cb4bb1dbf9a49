# %% [markdown]
# # What else the study says
# Secondary in `sweeps/study.md`: numbers with 95% intervals and the families behind them, without a claim of
# significance. `study.py` has the estimands; a family (one size, one seed) is the unit here too. `STORE` is the store
# of `precisionlaws sweep study`, or a table of it: `pkg:study`.

# %%
import os
from collections.abc import Callable, Iterable, Mapping
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats
from study import BITS, by_family, damage, decayed, harm, jackknife, slope, trained, worth

import precisionlaws as pl
from precisionlaws.planning.costs import cost

frame = pl.load(os.environ.get("PRECISIONLAWS_STORE", "results"))
done = frame[frame.status == "finished"]
final = done[(done.eval_id == "final") & (done.phase == "final")]
PARTS = ("W", "A", "KV")
Values = pd.Series  # one per family


def bits(parts: str, P: float) -> tuple[float, ...]:
    """Bits of W, A, KV where only the parts named have P: "W", "A KV"."""
    return tuple(P if part in parts.split() else 16 for part in PARTS)


def said(mid: float, se: float, n: int, scale: Callable[[float], float]) -> str:
    half = stats.t(n - 1).ppf(0.975) * se
    low, high = scale(mid - half), scale(mid + half)
    return f"{scale(mid):.3g} ({low:.3g} to {high:.3g}; {n})"


def mean(values: Values, scale: Callable[[float], float] = float) -> str:
    """Mean over families, its interval by Student's t, and how many there are."""
    x = values.dropna().astype(float)
    return said(float(x.mean()), float(x.std()) / np.sqrt(len(x)), len(x), scale) if len(x) > 1 else "–"  # fmt: skip


def factor(logs: Values) -> str:
    """The same of values that are logarithms of factors."""
    return mean(logs, np.exp)


def show(title: str, rows: Iterable[Mapping[str, object]]) -> pd.DataFrame:
    table = pd.DataFrame(list(rows))
    print(f"\n{title}\n{table.to_string(index=False) if len(table) else 'no such runs'}")
    return table


# %% [markdown]
# ## What was trained
# A trunk is a training that several D share; a point is complete where the schedule ends there. D/N of the paper's
# grid reaches about 900, at 30M to 220M parameters.

# %%
SHARED = ["family", "optim.lr", *BITS, "quant.weights.granularity", "quant.weights.scale"]
wsd = final[final.lr_schedule == "wsd"]
counts = {
    "trunks": wsd.groupby(SHARED, dropna=False).ngroups + len(final) - len(wsd),
    "schedule-complete points": len(final),
    "PTQ points": int((done.P_post < 16).sum()),
    "families": done.family.nunique(),
    "diverged runs": frame[frame.status == "diverged"].run_id.nunique(),
    "tokens per parameter": f"{(final.D / final.N).min():.3g} to {(final.D / final.N).max():.4g}",
}
print(pd.Series(counts).to_string())

# %% [markdown]
# ## Is the learning rate fair?
# At the peak rate that is best at 16 bits, how far is training of 3-bit weights from its own best? One seed, so no interval.


# %%
def rates() -> Iterable[dict[str, object]]:
    rows = final[(final.lr_schedule == "wsd") & np.isclose(final["lr_schedule.decay"], 0.2)]
    rows = rows[(rows.seed == 0) & (rows.P_a == 16) & (rows.P_kv == 16) & rows.P_w.isin([3, 16])]
    rows = rows[(rows.P_w == 16) | (rows["quant.weights.granularity"] == "group")]
    for (N, D), own in rows.groupby(["N", "D"]):
        grid = own.pivot_table(index="optim.lr", columns="P_w", values="loss").dropna()
        if len(grid) < 3 or grid.shape[1] < 2:
            continue
        best16, best3 = grid[16].idxmin(), grid[3].idxmin()
        rule = grid.index[np.argmin(np.abs(np.log(grid.index * own["size.width"].iloc[0] / 0.48)))]
        yield {
            "N": N, "D": D, "rates": len(grid), "best at 16 bits": best16, "best at 3": best3, "rule": rule,
            "3 bits lose, nats": round(grid[3][best16] - grid[3].min(), 4),
            "rule loses at 16 bits": round(grid[16][rule] - grid[16].min(), 4),
            "rule loses at 3": round(grid[3][rule] - grid[3].min(), 4),
        }  # fmt: skip


show("Learning rates (block F)", rates())

# %% [markdown]
# ## One part at a time
# Δ above the 16-bit run of the same family, and the differences that put the parts in order, in millinats.

# %%
ORDER = (("A", "W"), ("KV", "W"), ("A", "KV"))
alone = {(part, P): 1e3 * harm(frame, *bits(part, P)) for part in PARTS for P in (3, 4, 6)}
of = {key: by_family(values) for key, values in alone.items()}
show("Δ, millinats (block B)", [{"bits": P} | {part: mean(of[part, P]) for part in PARTS} for P in (3, 4, 6)])  # fmt: skip
show("Order, millinats (block B)", [{"bits": P} | {f"{a} − {b}": mean(of[a, P] - of[b, P]) for a, b in ORDER}
     for P in (3, 4, 6)])  # fmt: skip
show("Δ at 4 bits by size, millinats", [
    {"N": N} | {part: mean(by_family(1e3 * harm(rows, *bits(part, 4)))) for part in PARTS}
    for N, rows in frame.groupby("N")])  # fmt: skip

# %% [markdown]
# ## Do costs add?
# Δ of parts together, and minus the sum of each alone: nats at equal N and D. Whether factors of N_eff multiply is
# another question, and a law's: `fit --law neff_free+interaction`.

# %%
together = {" ".join(parts): 1e3 * harm(frame, *bits(" ".join(parts), 4)) for k in (2, 3) for parts in combinations(PARTS, k)}  # fmt: skip
show("At 4 bits, millinats (blocks B, C)", [
    {"parts": parts, "Δ": mean(by_family(values)),
     "Δ − sum of each alone": mean(by_family(values - sum(alone[part, 4] for part in parts.split())))}
    for parts, values in together.items()])  # fmt: skip

# %% [markdown]
# ## What a bit buys, and scales
# eff(P) of weights, activations and KV cache together, without a law of bits, and how much compute a width needs
# against the best one for the same loss, by what training costs. A model that is worth less than the smallest one
# that was trained has a bound, not a value: such widths are not compared, and it is said how many runs were out of reach.

# %%
SCALES = {
    "16 values": {"grain": "group"},
    "16 values, clipped": {"grain": "group", "scale": "mse"},
    "row": {"grain": "row"},
    "tensor": {"grain": "tensor"},
}
WIDTHS = (3, 4, 5, 6, 8)
equal = (final.P_w == final.P_a) & (final.P_a == final.P_kv)
joint = final[equal & final.D.isin(final.D[equal & (final.P_w < 16)])]  # all that eff is read off


def ln_eff(table: pd.DataFrame, scales: str, P: float) -> Values:
    """By family; empty where one of its runs is out of reach, so that survivors do not stand for all."""
    found = worth(table, P, P, P, **SCALES[scales])
    return by_family(found) if found.notna().all() else found[:0]


# First all families, then all but one.
without = [joint, *(joint[joint.family != name] for name in joint.family.unique())]
measured = [(s, P) for s in SCALES for P in WIDTHS if len(ln_eff(joint, s, P))]
LN_EFF = {key: np.array([ln_eff(table, *key).mean() for table in without]) for key in measured}


def jackknifed(logs: np.ndarray, n: int) -> str:
    """A factor and its interval; all n families are read off one curve, so it is by leaving out one at a time."""
    return said(float(logs[0]), jackknife(logs[0], logs[1:]), n, np.exp)


def effs() -> Iterable[dict[str, object]]:
    for scales, how in SCALES.items():
        for P in WIDTHS:
            found = worth(joint, P, P, P, **how)
            if len(found):
                n = found.index.get_level_values("family").nunique()
                yield {
                    "scales": scales, "bits": P, "Δ, millinats": mean(by_family(1e3 * harm(joint, P, P, P, **how))),
                    "eff": jackknifed(LN_EFF[scales, P], n) if (scales, P) in LN_EFF else "–",
                    "out of reach": f"{found.isna().sum()} of {len(found)}",
                }  # fmt: skip


def wasted(relative: Callable[[float], float]) -> Iterable[dict[str, object]]:
    """Compute for the same loss, relative to the best width: [eff/c](best) / [eff/c](P)."""
    for scales in SCALES:
        worth_of = {P: LN_EFF[s, P] - np.log(relative(P)) for s, P in LN_EFF if s == scales}
        if worth_of:
            worth_of[16] = np.zeros(len(without))
            best = max(worth_of, key=lambda P, of=worth_of: of[P][0])
            n = len(ln_eff(joint, *next(key for key in LN_EFF if key[0] == scales)))
            yield {"scales": scales, "P*": best} | {
                P: jackknifed(worth_of[best] - worth_of[P], n) if best != P else "1" for P in sorted(worth_of)
            }  # fmt: skip


show("eff(P) of W, A, KV together (blocks C, D)", effs())
for name in ("paper", "h100_fp8", "flat"):
    show(f"Compute for equal loss against the best width; cost {name}", wasted(cost(name).relative))

# %% [markdown]
# ## PTQ: method, decay and rate
# How δ grows with D by method, before and after the decay, and what a better method leaves of δ. `fit --by-method` fits laws.


# %%
def rounded(method: str, P: float, phase: str) -> pd.Series:
    return damage(frame, P, phase, method=method)


def left(method: str, P: float) -> Values:
    """ln of the share of RTN's δ, after the decay."""
    share = by_family(rounded(method, P, "final")) / by_family(rounded("rtn", P, "final"))
    return pd.Series(np.log(share[share > 0]))


METHODS = ("rtn", "gptq", "quip_sharp")
show("Slope of ln δ on ln D (block A)", [
    {"method": m, "bits": P, "undecayed": mean(slope(rounded(m, P, "stable"))), "decayed": mean(slope(rounded(m, P, "final")))}
    for m in METHODS for P in (3, 4)])  # fmt: skip
show("Share of RTN's δ that is left, decayed (block A)", [
    {"method": m} | {f"{P} bits": factor(left(m, P)) for P in (3, 4)} for m in METHODS[1:]])  # fmt: skip

after_decay = decayed(rounded("rtn", 3, "final"), rounded("rtn", 3, "stable"))
size = after_decay.index.map(final.drop_duplicates("family").set_index("family").N)
show("δ(3) decayed / undecayed at equal D, by size (block A)", [
    {"N": N, "δ": factor(own)} for N, own in after_decay.groupby(size)])  # fmt: skip

# %% [markdown]
# Block E moves decay and rate with D held: ln δ(3) = a ln D + b [it decays] + c (share of steps that decay) + d ln rate
# within each family, and cosine against WSD. Three families, so wide intervals.

# %%
TERMS = ("ln D", "decays at all", "share decayed", "ln rate")
base = done[
    (done.ptq == "rtn")
    & (done.P_post == 3)
    & (done.phase == "final")
    & (done[BITS] == 16).all(axis=1)
]


def partial_effects() -> Iterable[dict[str, float]]:
    for _, own in base[(base.lr_schedule == "wsd") & (base.delta_ptq > 0)].groupby("family"):
        decay = own["lr_schedule.decay"].astype(float)
        if decay.nunique() > 1:
            x = np.column_stack([np.ones(len(own)), np.log(own.D), decay > 0, decay, np.log(own["optim.lr"])])  # fmt: skip
            yield dict(
                zip(
                    TERMS, np.linalg.lstsq(x, np.log(own.delta_ptq), rcond=None)[0][1:], strict=True
                )
            )


effects = pd.DataFrame(list(partial_effects()), columns=list(TERMS))
show("Partial effects on ln δ(3) (block E)", [{term: mean(effects[term]) for term in TERMS}])

grid = base[(base.lr_schedule == "wsd") & (base.delta_ptq > 0)]
grid = grid.assign(ln_delta=np.log(grid.delta_ptq), share=grid["lr_schedule.decay"].astype(float))
by_share = grid.pivot_table(
    index=["family", "optim.lr", "D"], columns="share", values="ln_delta"
).dropna()
show("δ(3) against that of no decay, by share of steps that decay (block E)", [
    {"rate": rate} | {f"{share:g}": factor(by_family(own[share] - own[0.0])) for share in own.columns[1:]}
    for rate, own in (("all", by_share), *by_share.groupby("optim.lr"))])  # fmt: skip
cosine = base[base.lr_schedule == "cosine"].set_index(["family", "D"]).delta_ptq
ratio = pd.Series(np.log(cosine / rounded("rtn", 3, "final")))
show("δ(3) under cosine / under WSD", [{"all D": factor(by_family(ratio))}])  # fmt: skip

# %% [markdown]
# ## Was anything overtrained?
# ρ = (D/N) / (D/N)*, the second at the compute 6ND of that run, by the 16-bit fit. No statement about overtraining is
# made at ρ < 3.

# %%
fitted = pl.fit(trained(final)[lambda t: (t[BITS] == 16).all(axis=1)], "chinchilla")


def ln_overtrained(p: Mapping[str, np.ndarray], N: float, D: float) -> np.ndarray:
    """L = E + A N^−α + B D^−β is least at N* = (αA/βB)^(1/(α+β)) (C/6)^(β/(α+β)); ρ = (D/N) / (C/6 / N*²)."""
    of_C = (np.log(p["alpha"] * p["A"] / (p["beta"] * p["B"])) + p["beta"] * np.log(N * D)) / (p["alpha"] + p["beta"])  # fmt: skip
    return 2 * (of_C - np.log(N))


def overtrained() -> Iterable[dict[str, object]]:
    for N, D in fitted.rows.groupby("N").D.max().items():
        at = float(np.exp(ln_overtrained(fitted.params, N, D)))  # type: ignore[arg-type]
        low, high = np.exp(np.quantile(ln_overtrained(fitted.samples, N, D), [0.025, 0.975]))  # type: ignore[arg-type]
        yield {"N": N, "D": D, "D/N": round(D / N, 1), "ρ": f"{at:.3g} ({low:.3g} to {high:.3g})"}


show("Overtraining at the largest D of each size", overtrained())
