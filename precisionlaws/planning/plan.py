"""`plan(fit, flops=...) -> Plan`: the N, D and bits to train at, and how sure the data are of them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from precisionlaws.fitting import Fit
from precisionlaws.laws.base import Array
from precisionlaws.planning.constraints import FIXED, binding, check, impossible
from precisionlaws.planning.costs import cost as cost_model
from precisionlaws.planning.critical import critical_D
from precisionlaws.planning.doubts import doubts
from precisionlaws.planning.shipping import ship
from precisionlaws.planning.surface import Budget, Question, best_P, scales_at, solve, waste
from precisionlaws.planning.widths import Widths, continuous, widths

if TYPE_CHECKING:
    import pandas as pd

REGRET = 0.05  # of compute: widths within this of the best are as good as it
ENDS = [0.025, 0.975]
FEW = 500  # draws behind the intervals of waste where there is no closed form


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """The best run for a budget. `samples` hold draws of N, D, P, loss, and D_crit(P) of each PTQ width."""

    law: str
    flops: float
    cost: str
    fixed: Mapping[str, float]
    served: float  # tokens over the life of the model, which the budget pays for too
    N: float
    D: float
    P: float
    loss: float  # nats per token
    samples: Mapping[str, Array]
    regret: "pd.DataFrame"  # P, eff, eff/c against 16 bits, loss, share of compute wasted, share of draws where P is best
    p_set: tuple[int, ...]  # widths that waste at most 5% of the compute
    tradeoff: "pd.DataFrame"  # P, N*, D*, and what they are of those at 16 bits
    critical: "pd.DataFrame"  # P_post, δ at (N, D), D_crit: tokens beyond which more training hurts after PTQ
    shipping: "pd.DataFrame"  # P_post, N, D, loss after PTQ of a model trained at 16 bits, where memory is given
    binds: tuple[str, ...]  # constraints that hold with equality
    separable: bool  # the best width depends neither on the budget nor on the base
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
        for name in ("regret", "tradeoff", "critical", "shipping"):
            out[name] = getattr(self, name).to_dict("list")
        out["intervals"] = {k: self.interval(k) for k in self.samples}
        return json.dumps(_finite(out), allow_nan=False)

    def summary(self) -> str:
        """The printed report."""
        from precisionlaws.planning.summary import summary

        return summary(self)


def plan(
    fit: Fit,
    *,
    flops: float,
    cost: str = "paper",
    fixed: Mapping[str, float] | None = None,
    served: float = 0.0,
) -> Plan:
    """The N, D and P of least loss for a budget of training, and of serving so many tokens.

    cost: a model of conf/cost. fixed: N, D or P, and memory, the most bytes that the block weights may take.
    """
    fixed = {k: float(v) for k, v in (fixed or {}).items()}
    q, table = question(fit, flops=flops, cost=cost, fixed=fixed, served=served)
    check(fit, q, table, fixed)
    point = {k: np.array([v]) for k, v in fit.params.items()}
    held = fixed.get("P")
    answer = {
        k: float(v[0]) for k, v in _solve(fit, q, point, table, table.point_scales, held).items()
    }
    if not np.isfinite(answer["loss"]) or min(answer["N"], answer["D"]) < 1:
        raise ValueError(impossible(q, table, held))
    samples = _solve(fit, q, fit.samples, table, table.scales, held)
    regret = _regret(fit, q, table)
    critical, more = _critical(fit, answer, samples)
    samples = {**samples, **more}
    warnings = doubts(fit, q, table, answer, samples, critical)
    return Plan(
        law=fit.law.full_name, flops=float(flops), cost=cost, fixed=fixed, served=float(served), samples=samples,
        regret=regret, p_set=tuple(int(P) for P in regret["P"][regret["regret"] <= REGRET]),
        tradeoff=_tradeoff(fit, q, table), critical=critical, shipping=ship(fit, q),
        binds=binding(q, answer), separable=q.separable, warnings=tuple(warnings), **answer,
    )  # fmt: skip


def question(
    fit: Fit, *, flops: float, cost: str, fixed: Mapping[str, float], served: float = 0.0
) -> tuple[Question, Widths]:
    """What `plan` asks of a fit, and the scales at whole widths that answer it."""
    model = cost_model(cost)
    table = widths(fit, model.roles)
    budget = Budget(flops=flops, cost=model, served=served, head=_head(fit) if model.head else (0.0, 0.0))  # fmt: skip
    q = Question(
        law=fit.law, budget=budget, roles=table.roles, low=float(table.P[0]), G=_group(fit),
        fixed={k: v for k, v in fixed.items() if k in FIXED and k != "P"},
    )  # fmt: skip
    return q, table


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
    q: Question,
    p: Mapping[str, Array],
    table: Widths,
    s: tuple[Array, Array],
    held: float | None,
) -> dict[str, Array]:
    """N, D, P and loss of each draw, (R,); s: scales (R, W)."""
    R, column = len(s[0]), {k: v[:, None] for k, v in p.items()}
    P = choose(q, p, table, s) if held is None else np.full(R, held)
    if continuous(fit.law):
        at = scales_at(q, column, P[:, None])
    else:
        pick = np.arange(R), np.searchsorted(table.P, P)
        at = s[0][pick][:, None], s[1][pick][:, None]
    N, D, loss = (v[:, 0] + np.zeros(R) for v in solve(q, column, P[:, None], at))
    return {"N": N, "D": D, "P": P, "loss": loss}


def choose(q: Question, p: Mapping[str, Array], table: Widths, s: tuple[Array, Array]) -> Array:
    """The best width of each draw, (R,)."""
    if q.smooth and not {"N", "D"} <= set(q.fixed):
        return best_P(q, p)
    return table.P[np.argmax(merit(q, {k: v[:, None] for k, v in p.items()}, table.P, s), 1)]


def merit(q: Question, p: Mapping[str, Array], P: Array, s: tuple[Array, Array]) -> Array:
    """What the best width maximises, (R, W): eff/c where bits separate, else −loss."""
    if q.separable:
        both = s[0] * s[1]
        return np.where(np.isnan(both), 0.0, both) / q.budget.cost.relative(P)
    loss = solve(q, p, P, s)[2]
    return np.where(np.isnan(loss), -np.inf, -loss)


def _regret(fit: Fit, q: Question, table: Widths) -> "pd.DataFrame":
    """By whole width: its loss, and how much of the budget it wastes against the best whole width."""
    import pandas as pd

    wasted, losses = [], []
    point = {k: np.array([[v]]) for k, v in fit.params.items()}
    every = {k: v[:, None] for k, v in fit.samples.items()}
    best = np.zeros(len(table.P))
    for p, s in ((point, table.point_scales), (every, table.scales)):
        value = merit(q, p, table.P, s)
        star = np.argmax(value, 1)
        best = np.bincount(star, minlength=len(table.P)) / len(star)
        losses.append(solve(q, p, table.P, s)[2] + np.zeros(value.shape) if q.separable else -value)
        if q.separable:
            wasted.append(1 - value / value.max(1, keepdims=True))
        else:
            thin = slice(None, None, 1 if q.closed else max(len(star) // FEW, 1))
            wasted.append(_wasted(q, _part(p, thin), table.P, [v[thin] for v in s], star[thin], -value[thin]))  # fmt: skip
    c = q.budget.cost.relative(table.P)
    gain = np.where(np.isnan(table.draws), 0.0, table.draws * table.data_draws) / c
    low, high = _ends(gain)
    worst, loss = _ends(wasted[1]), _ends(np.where(np.isfinite(losses[1]), losses[1], np.inf))
    return pd.DataFrame({
        "P": table.P.astype(int), "eff": table.eff * table.data, "gain": table.eff * table.data / c, "gain_low": low,
        "gain_high": high, "loss": losses[0][0], "loss_low": loss[0], "loss_high": loss[1], "regret": wasted[0][0],
        "regret_low": worst[0], "regret_high": worst[1], "best": best, "interpolated": ~table.trained,
    })  # fmt: skip


def _wasted(
    q: Question, p: Mapping[str, Array], P: Array, s: list[Array], star: Array, value: Array
) -> Array:
    take = np.arange(len(star))
    own = tuple(v[take, star][:, None] for v in s)
    return waste(q, p, P[star][:, None], (own[0], own[1]), np.where(np.isinf(value), np.nan, value))


def _tradeoff(fit: Fit, q: Question, table: Widths) -> "pd.DataFrame":
    """N* and D* at each whole width, and relative to those at 16 bits, for the same budget."""
    import pandas as pd

    point = {k: np.array([[v]]) for k, v in fit.params.items()}
    every = {k: v[:, None] for k, v in fit.samples.items()}
    free = replace(q, fixed={})
    (N, D, _), (N_draws, D_draws, _) = (
        solve(free, p, table.P, s) for p, s in ((point, table.point_scales), (every, table.scales))
    )
    out: dict[str, Any] = {"P": table.P.astype(int)}
    for name, value, draws in (("N", N, N_draws), ("D", D, D_draws)):
        low, high = _ends(draws)
        out |= {name: value[0], f"{name}_low": low, f"{name}_high": high}
    grown = {"N": (N, N_draws), "D": (D, D_draws), "N/D": (N / D, N_draws / D_draws)}
    for name, (value, draws) in grown.items():
        low, high = _ends(draws / draws[:, -1:])
        column = f"{name} of 16"
        out |= {column: (value / value[:, -1:])[0], f"{column} low": low, f"{column} high": high}
    return pd.DataFrame(out)


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


def _head(fit: Fit) -> tuple[float, float]:
    """a, b of N_head = a N^b over the runs."""
    rows: Any = fit.rows
    if "N_head" not in rows or rows["N_head"].isna().any():
        raise ValueError(
            "a cost model that counts the head needs the column N_head of every run; these rows lack it"
        )
    N, head = (np.log(rows[c].to_numpy(float)) for c in ("N", "N_head"))
    if np.ptp(N) == 0:
        return float(np.exp(head.mean())), 0.0
    b, a = np.polyfit(N, head, 1)
    return float(np.exp(a)), float(b)


def _group(fit: Fit) -> float:
    """The values per scale of most runs, for laws that read them."""
    if "G" not in fit.rows:
        return np.nan
    known = fit.rows["G"].dropna()
    return float(known.mode().iloc[0]) if len(known) else np.nan


def _ends(draws: Array) -> Array:
    """95% interval over draws, (2, W); NaN, where a draw has no value, is beyond every number."""
    return np.quantile(np.where(np.isnan(draws), np.inf, draws), ENDS, axis=0, method="nearest")


def _part(p: Mapping[str, Array], thin: slice) -> dict[str, Array]:
    return {k: v[thin] for k, v in p.items()}


__all__ = ["Plan", "choose", "merit", "plan", "quantiles", "question"]
