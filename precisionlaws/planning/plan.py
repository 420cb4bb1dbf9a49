"""`plan(fit, flops=...) -> Plan`: the N, D and bits to train at, and how sure the data are of them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from precisionlaws.fitting import Fit
from precisionlaws.laws import OFF
from precisionlaws.laws.base import Array
from precisionlaws.planning.costs import FLOPS_PER_TOKEN, relative_cost
from precisionlaws.planning.critical import critical_D
from precisionlaws.planning.doubts import doubts
from precisionlaws.planning.optimum import best_width, split, wasted
from precisionlaws.planning.widths import Widths, continuous, efficiency, widths

if TYPE_CHECKING:
    import pandas as pd

REGRET = 0.05  # of compute: widths within this of the best are as good as it


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """The best run for a budget. `samples` hold draws of N, D, P, loss, and D_crit(P) of each PTQ width."""

    law: str
    flops: float
    cost: str
    fixed: Mapping[str, float]
    N: float
    D: float
    P: float
    loss: float  # nats per token
    samples: Mapping[str, Array]
    regret: "pd.DataFrame"  # P, eff, eff/c against 16 bits, share of compute wasted, share of draws where P is best
    p_set: tuple[int, ...]  # widths that waste at most 5% of the compute
    critical: "pd.DataFrame"  # P_post, δ at (N, D), D_crit: tokens beyond which more training hurts after PTQ
    warnings: tuple[str, ...]

    def interval(self, name: str, level: float = 0.95) -> tuple[float, float]:
        """Interval of N, D, P, loss or D_crit(P)."""
        if name not in self.samples:
            raise ValueError(
                f"no quantity {name!r} in this plan; there are {', '.join(self.samples)}"
            )
        return quantiles(self.samples[name], level)

    def to_json(self) -> str:
        """Numbers, tables and warnings; floats round-trip exactly, and what has no end (D_crit may not) is null."""
        out = {name: getattr(self, name) for name in self.__dataclass_fields__}
        out["samples"] = {k: v.tolist() for k, v in self.samples.items()}
        out["regret"], out["critical"] = self.regret.to_dict("list"), self.critical.to_dict("list")
        out["intervals"] = {k: self.interval(k) for k in self.samples}
        return json.dumps(_finite(out), allow_nan=False)

    def summary(self) -> str:
        """The printed report."""
        from precisionlaws.planning.summary import summary

        return summary(self)


def plan(
    fit: Fit, *, flops: float, cost: str = "paper", fixed: Mapping[str, float] | None = None
) -> Plan:
    """The N, D and P of least loss for a training budget; `fixed` holds N, D or P."""
    fixed = {k: float(v) for k, v in (fixed or {}).items()}
    c = relative_cost(cost)
    table = widths(fit)
    _check(fit, flops, fixed, table)
    point = {k: np.array([v]) for k, v in fit.params.items()}
    both = [
        _solve(fit, p, eff, table, flops, c, fixed)
        for p, eff in ((point, table.eff[None]), (fit.samples, table.draws))
    ]
    answer, samples = {k: float(v[0]) for k, v in both[0].items()}, both[1]
    regret = _regret(fit, table, flops, c, fixed)
    critical, more = _critical(fit, answer, samples)
    samples = {**samples, **more}
    p_set = tuple(int(P) for P in regret["P"][regret["regret"] <= REGRET])
    return Plan(
        law=fit.law.full_name, flops=float(flops), cost=cost, fixed=fixed, samples=samples, regret=regret,
        p_set=p_set, critical=critical, warnings=tuple(doubts(fit, table, answer, samples, critical)), **answer,
    )  # fmt: skip


def quantiles(draws: Array, level: float) -> tuple[float, float]:
    """Central interval; a draw without a value counts as beyond every number."""
    ends = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(np.where(np.isnan(draws), np.inf, draws), ends, method="nearest")
    return float(low), float(high)


def _finite(value: Any) -> Any:
    """The same with null for infinite numbers, which JSON does not have."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _solve(
    fit: Fit,
    p: Mapping[str, Array],
    eff: Array,
    table: Widths,
    flops: float,
    c: Any,
    fixed: Mapping[str, float],
) -> dict[str, Array]:
    """N, D, P and loss of each draw, (R,)."""
    R = len(eff)
    budget = flops / FLOPS_PER_TOKEN
    rest = {k: v for k, v in fixed.items() if k != "P"}
    if "P" in fixed:
        P = np.full(R, fixed["P"])
    elif len(rest) == 2:
        P = np.full(R, _width_left(budget / (fixed["N"] * fixed["D"]), c, table))
    elif continuous(fit.law):
        P = best_width(fit.law, p, flops, c, float(table.P[0]), table.roles, rest)
    else:
        P = table.P[np.argmax(_merit(fit, p, eff, table, budget, c, rest), 1)]
    if continuous(fit.law):
        at = efficiency(fit.law, p, P, table.roles)
    else:
        at = eff[np.arange(R), np.searchsorted(table.P, P)]
    N, D, loss = split(
        fit.law, p, budget / c(P), at, {k: v for k, v in rest.items() if len(rest) == 1 or k == "N"}
    )
    return {"N": N + 0.0 * at, "D": D + 0.0 * at, "P": P, "loss": loss}


def _merit(
    fit: Fit,
    p: Mapping[str, Array],
    eff: Array,
    table: Widths,
    budget: float,
    c: Any,
    rest: Mapping[str, float],
) -> Array:
    """What the best width maximises, (R, W): eff/c, or −loss if N or D is fixed."""
    if not rest:
        return np.where(np.isnan(eff), 0.0, eff) / c(table.P)
    q = {k: v[:, None] for k, v in p.items()}
    loss = split(fit.law, q, budget / c(table.P) + 0.0 * eff, eff, rest)[2]
    return np.where(np.isnan(loss), -np.inf, -loss)


def _regret(
    fit: Fit, table: Widths, flops: float, c: Any, fixed: Mapping[str, float]
) -> "pd.DataFrame":
    """By whole width: how much of the budget it wastes against the best whole width."""
    import pandas as pd

    rest = {k: v for k, v in fixed.items() if k != "P"}
    rest = rest if len(rest) == 1 else {}
    budget = flops / FLOPS_PER_TOKEN
    point = {k: np.array([v]) for k, v in fit.params.items()}
    waste, best = [], np.zeros(len(table.P))
    for p, eff in ((point, table.eff[None]), (fit.samples, table.draws)):
        merit = _merit(fit, p, eff, table, budget, c, rest)
        star = np.argmax(merit, 1)
        best = np.bincount(star, minlength=len(table.P)) / len(star)
        if rest:
            q = {k: v[:, None] for k, v in p.items()}
            waste.append(
                wasted(fit.law, q, budget / c(table.P) + 0.0 * eff, eff, star, rest, -merit)
            )
        else:
            waste.append(1 - merit / merit.max(1, keepdims=True))
    gain = np.where(np.isnan(table.draws), 0.0, table.draws) / c(table.P)
    low, high = np.quantile(gain, [0.025, 0.975], axis=0, method="nearest")
    worst = np.quantile(waste[1], [0.025, 0.975], axis=0, method="nearest")
    return pd.DataFrame({
        "P": table.P.astype(int), "eff": table.eff, "gain": table.eff / c(table.P), "gain_low": low, "gain_high": high,
        "regret": waste[0][0], "regret_low": worst[0], "regret_high": worst[1], "best": best, "interpolated": ~table.trained,
    })  # fmt: skip


def _critical(
    fit: Fit, answer: Mapping[str, float], samples: Mapping[str, Array]
) -> "tuple[pd.DataFrame, dict[str, Array]]":
    """δ at the plan's N and D, and D_crit, for each width that was rounded to."""
    import pandas as pd

    rows, draws = [], {}
    known = sorted(set(fit.delta_rows["P_post"])) if fit.law.paired else []
    for P in known:
        with np.errstate(all="ignore"):
            D, cloud = (
                critical_D(fit.law, p, {"N": at["N"], "P_post": P})
                for p, at in ((fit.params, answer), (fit.samples, samples))
            )
            delta, spread = (
                fit.law.penalty(p, fit.law.read({"N": at["N"], "D": at["D"], "P_post": P}))
                for p, at in ((fit.params, answer), (fit.samples, samples))
            )
        draws[f"D_crit({P:g})"] = cloud
        low, high = quantiles(draws[f"D_crit({P:g})"], 0.95)
        d_low, d_high = quantiles(np.asarray(spread), 0.95)
        inside = float(D) <= float(np.max(fit.delta_rows["D"]))
        rows.append({"P_post": P, "delta": float(delta), "delta_low": d_low, "delta_high": d_high, "D_crit": float(D),
                     "D_crit_low": low, "D_crit_high": high, "extrapolated": not inside})  # fmt: skip
    return pd.DataFrame(rows), draws


def _width_left(c_needed: float, c: Any, table: Widths) -> float:
    """The width that spends the budget when N and D are both fixed."""
    cost = c(table.P)
    if not cost.min() <= c_needed <= cost.max() * (1 + 1e-9) or cost.min() == cost.max():
        span = f"{table.P[0]:g} to {table.P[-1]:g}"
        raise ValueError(
            f"no width from {span} bits makes the fixed N and D cost the budget exactly; fix only one of them"
        )
    return float(np.max(table.P[cost <= c_needed * (1 + 1e-9)]))


def _check(fit: Fit, flops: float, fixed: Mapping[str, float], table: Widths) -> None:
    if not (np.isfinite(flops) and flops > 0):
        raise ValueError(f"flops must be positive and finite, got {flops:g}")
    for column in ("N", "D"):
        if len(np.unique(fit.rows[column])) < 2:
            only = float(np.min(fit.rows[column]))
            raise ValueError(
                f"all runs of this fit have {column} = {only:g}: what {column} does to the loss is unknown, and no plan follows"
            )
    if fit.measured and (fit.law.added or fit.law.on("D")):
        what = "nats added in training" if fit.law.added else "an efficiency of data"
        raise ValueError(
            f"no plan from {fit.law.full_name}: with {what} the best width depends on the budget, and plans are made "
            "of laws in which bits scale N alone, such as neff_free and neff_kumar"
        )
    unknown = [k for k in fixed if k not in ("N", "D", "P")]
    if unknown:
        raise ValueError(f"fixed may hold N, D and P, got {', '.join(unknown)}")
    bad = [f"{k} = {v:g}" for k, v in fixed.items() if not (np.isfinite(v) and v > 0)]
    if bad or len(fixed) == 3:
        raise ValueError(
            f"fixed must leave something to choose and be positive: {', '.join(bad) or 'N, D and P are all fixed'}"
        )
    if "P" not in fixed:
        return
    P = fixed["P"]
    if continuous(fit.law):
        if not table.P[0] <= P <= OFF:
            raise ValueError(
                f"P must be from {table.P[0]:g} (the smallest width trained in every role) to 16 bits, got {P:g}"
            )
    elif P not in table.P:
        raise ValueError(
            f"P must be one of {', '.join(f'{b:g}' for b in table.P)} bits, got {P:g}: {fit.law.full_name} knows no other"
        )
