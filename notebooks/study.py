# %% [markdown]
# # The study's five questions
# `sweeps/study.md` fixed the estimands before the runs. Each is averaged within a family (one size, one seed), then
# tested by Student's t with a jackknife over families; Holm over all tests. `STORE` is the store of `precisionlaws sweep study`, or a table of it.

# %%
import os
from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy import stats

import precisionlaws as pl

STORE = os.environ.get("PRECISIONLAWS_STORE", "results")
frame = pl.load(STORE)
BITS = ["P_w", "P_a", "P_kv"]
ROLES = {"P_w": "weights", "P_a": "activations", "P_kv": "kv"}


def trained(table: pd.DataFrame, grain: str = "group", scale: str = "absmax") -> pd.DataFrame:
    """Rows of the common recipe (peak rate of the rule, WSD with .2 decayed) in one granularity."""
    keep = np.isclose(table["optim.lr"] * table["size.width"], 0.48)
    keep &= (table["lr_schedule"] == "wsd") & np.isclose(table["lr_schedule.decay"], 0.2)
    for bits, role in ROLES.items():
        keep &= (table[bits] == 16) | (
            (table.get(f"quant.{role}.granularity") == grain)
            & (table.get(f"quant.{role}.scale") == scale)
        )
    return table[keep & (table.status == "finished")]


def losses(table: pd.DataFrame, *bits: float, **how: str) -> pd.Series:
    """Loss by (family, D) of the runs trained at these bits of W, A, KV."""
    rows = trained(table, **how)
    rows = rows[(rows[BITS] == list(bits)).all(axis=1) & (rows.eval_id == "final")]
    return rows.set_index(["family", "D"]).loss


def harm(table: pd.DataFrame, *bits: float, **how: str) -> pd.Series:
    """Δ by (family, D): loss above that of the 16-bit run of the same initialization and batches, nats."""
    return (losses(table, *bits, **how) - losses(table, 16, 16, 16)).dropna()


def damage(
    table: pd.DataFrame, P: float, phase: str = "final", w: float = 16, method: str = "rtn"
) -> pd.Series:
    """δ by (family, D) of weights rounded to P bits, in groups of 16 where a method has scales, nats; w: bits they
    were trained at."""
    rows = trained(table)
    rows = rows[(rows.P_post == P) & (rows.phase == phase) & (rows.ptq == method)]
    rows = rows[rows["ptq.granularity"].fillna("group") == "group"]
    rows = rows[(rows[BITS] == [w, 16, 16]).all(axis=1)]
    return rows.set_index(["family", "D"]).delta_ptq


def by_family(values: pd.Series) -> pd.Series:
    return values.dropna().groupby("family").mean()


def log_ratio(a: pd.Series, b: pd.Series) -> pd.Series:
    """Mean over D of ln a/b in each family; ln of the means where a δ is not positive."""
    pairs = pd.concat({"a": a, "b": b}, axis=1, join="inner")
    out = {}
    for name, own in pairs.groupby("family"):
        positive = bool((own > 0).all(axis=None))
        logs = np.log(own if positive else own.mean().to_frame().T)
        out[name] = float((logs.a - logs.b).mean())
    return pd.Series(out, dtype=float)


def decayed(after: pd.Series, before: pd.Series) -> pd.Series:
    """Mean over D of ln δ after the decay, minus ln δ of the undecayed trunk at the same D in each family: ln δ is
    interpolated in ln D between the trunk's checkpoints, so that the D beyond the last of them has no part."""
    out = {}
    for name, own in before[before > 0].groupby("family"):
        trunk = own.droplevel("family").sort_index()
        ends = after.xs(name, level="family")
        ends = ends[(ends.index >= trunk.index.min()) & (ends.index <= trunk.index.max())]
        if len(ends) and (ends > 0).all():
            at = np.interp(np.log(ends.index), np.log(trunk.index), np.log(trunk))
            out[name] = float((np.log(ends) - at).mean())
    return pd.Series(out, dtype=float)


def slope(values: pd.Series) -> pd.Series:
    """Slope of ln δ on ln D in each family that has two D or more, all positive."""
    out = {}
    for name, own in values.groupby("family"):
        D = np.log(own.index.get_level_values("D").to_numpy(float))
        if len(own) > 1 and (own > 0).all():
            out[name] = float(np.polyfit(D, np.log(own), 1)[0])
    return pd.Series(out, dtype=float)


# %% [markdown]
# eff(P) without a law of bits: the size at which the 16-bit losses (means of the seeds, interpolated in ln N at the
# same D) equal the family's loss. The pair takes the family's own luck out.


# %%
def worth(table: pd.DataFrame, *bits: float, **how: str) -> pd.Series:
    """ln eff by (family, D). NaN where the 16-bit sizes do not reach as low."""
    base = losses(table, 16, 16, 16)
    N = table.drop_duplicates("family").set_index("family").N
    mean = base.groupby([base.index.get_level_values("family").map(N), "D"]).mean()
    found = harm(table, *bits, **how)
    for (name, D), delta in found.items():  # type: ignore[misc]
        curve = mean.xs(D, level="D").sort_index()
        target = curve[N[name]] + delta
        inside = curve.min() <= target <= curve.max()
        at = np.interp(-target, -curve.to_numpy(), np.log(curve.index.to_numpy(float)))
        found[name, D] = at - np.log(N[name]) if inside else np.nan
    return found


def per_flop(table: pd.DataFrame, P: float, **how: str) -> pd.Series:
    """ln [eff(P) / P]: what a bit-FLOP buys; the difference of two widths decides between them."""
    return worth(table, P, P, P, **how) - np.log(P)


W4, A4, KV4, ALL4 = (4, 16, 16), (16, 4, 16), (16, 16, 4), (4, 4, 4)


def difference(a: tuple[int, ...], *others: tuple[int, ...]) -> "Estimand":
    """Δ(a) minus the Δ of all others, by family."""
    return lambda t: by_family(harm(t, *a) - sum(harm(t, *b) for b in others))


def protection(table: pd.DataFrame) -> pd.Series:
    ratios = [log_ratio(damage(table, 3, w=w), damage(table, 3)) for w in (4, 6)]
    return pd.concat(ratios).groupby(level=0).mean()


Estimand = Callable[[pd.DataFrame], pd.Series]
ESTIMANDS: dict[str, tuple[str, int, Estimand]] = {  # what, families planned, value by family
    "Q1a": ("slope of ln δ(3) on ln D, undecayed", 25, lambda t: slope(damage(t, 3, "stable"))),
    "Q1b": ("ln δ(3), decayed / undecayed at equal D", 25, lambda t: decayed(damage(t, 3), damage(t, 3, "stable"))),
    "Q2 A-W": ("Δ(A4) − Δ(W4), nats", 20, difference(A4, W4)),
    "Q2 KV-W": ("Δ(KV4) − Δ(W4), nats", 20, difference(KV4, W4)),
    "Q2 A-KV": ("Δ(A4) − Δ(KV4), nats", 20, difference(A4, KV4)),
    "Q3": ("Δ(WAKV4) − Δ(W4) − Δ(A4) − Δ(KV4), nats", 10, difference(ALL4, W4, A4, KV4)),
    "Q4": ("ln eff(4)/4 − ln eff(8)/8", 10, lambda t: by_family(per_flop(t, 4) - per_flop(t, 8))),
    "Q5": ("ln δ(3), weights trained at 4 or 6 / at 16", 20, protection),
}  # fmt: skip

# %% [markdown]
# Standard errors by leaving out one family at a time, everywhere: for a mean of family values that is the usual one, and
# where families share a curve (Q4) it holds the error of the curve too.


# %%
def jackknife(value: float, left: np.ndarray) -> float:
    """Standard error of a mean of families, from its values with one of them left out at a time."""
    moved = left[left != value]  # a family without a part in it moves nothing
    n = len(moved)
    return float(np.sqrt((n - 1) / n * ((moved - moved.mean()) ** 2).sum())) if n > 1 else np.nan


def standard_error(of: Estimand, table: pd.DataFrame, value: float) -> float:
    left = [of(table[table.family != f]).mean() for f in table.family.unique()]
    return jackknife(value, np.array(left))


def holm(p: pd.Series) -> pd.Series:
    """Adjusted p values (Holm 1979)."""
    order = p.sort_values()
    steps = (order * np.arange(len(order), 0, -1)).cummax().clip(upper=1)
    return steps.reindex(p.index)


def detectable(se: float, n: int, planned: int, power: float = 0.8) -> float:
    """The effect that the planned families find with this power at the first step of Holm (5% in all)."""
    t = stats.t(planned - 1)
    se = se * np.sqrt(n / planned)
    return float((t.ppf(1 - 0.025 / len(ESTIMANDS)) + t.ppf(power)) * se)


def answers(table: pd.DataFrame) -> pd.DataFrame:
    rows = {}
    for name, (what, planned, of) in ESTIMANDS.items():
        x = of(table).dropna()
        n, value, se = len(x), float(x.mean()), standard_error(of, table, x.mean())
        t = stats.t(max(n - 1, 1))
        rows[name] = {
            "estimand": what, "families": n, "value": value, "low": value - t.ppf(0.975) * se,
            "high": value + t.ppf(0.975) * se, "p": 2 * t.sf(abs(value) / se), "se": se,
            "detectable": detectable(se, n, planned),
        }  # fmt: skip
    out = pd.DataFrame(rows).T
    return out.assign(p_holm=holm(out.p.astype(float)))


# %%
table = answers(frame)
print(table.to_string(float_format="{:.3g}".format))
