"""The answer in three sentences: bits, rounding, and what to train, each with its intervals and its doubt."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from precisionlaws.fitting import Fit
from precisionlaws.laws import OFF
from precisionlaws.planning import Plan
from precisionlaws.planning.critical import critical_D
from precisionlaws.planning.plan import quantiles
from precisionlaws.plots.fit import NAMES
from precisionlaws.plots.pages.findings import Findings, trained_low
from precisionlaws.plots.pages.html import amount, between, bits, number

VAGUE = 100.0  # ratio of the ends beyond which an interval says nothing


def answer(found: Findings) -> list[str]:
    """At most three sentences."""
    if not found.fits:
        return ["No law could be fitted to these runs, so there is no answer yet; the reasons are below."]  # fmt: skip
    return [s for s in (widths(found), rounding(found) or worth(found), budget(found)) if s]


def widths(found: Findings) -> str:
    """Which width a FLOP buys most at."""
    plan = found.form_free
    if plan is None and any(f.measured for f in found.fits):
        return "The fits of runs below 16 bits allow no plan, so the bits to train at are open; the reasons are below."
    if plan is None and trained_low(found.frame):
        return "The runs below 16 bits could not be fitted together, so nothing is said of the bits to train at; the reasons are below."
    if plan is None:
        return "All runs are at 16 bits: nothing is learnt here of the bits to train at."
    r: Any = plan.regret
    best = r.loc[(r["P"] - plan.P).abs().idxmin()]
    reach = plan.interval("P")
    measured = next(f for f in found.fits if f.law.full_name == plan.law).measured
    roles = listed([NAMES[role] for role in measured])
    cost = f"under the cost model “{plan.cost}”"
    if plan.P >= OFF:
        return f"No width below 16 bits pays in {roles} {cost} (95% interval of the best width: {between(*reach, bits)} bits)."
    spans = "no other width is best at 95%" if reach[0] == reach[1] else f"the best width lies between {bits(reach[0])} and {bits(reach[1])} bits at 95%"  # fmt: skip
    guess = " (interpolated: not trained in every role)" if best["interpolated"] else ""
    fine = listed([str(P) for P in plan.p_set])
    waste = f"{fine} bits waste at most 5% of the budget"
    if not plan.separable:
        return f"For {number(plan.flops, 2)} FLOP {cost}, {roles} at {bits(plan.P)} bits{guess} have the least loss; {spans}, and {waste}."
    ends = between(best["gain_low"], best["gain_high"])
    gain = f"{number(best['gain'])} times what it buys at 16 bits"
    if best["gain_low"] <= 1:
        return (
            f"The best estimate is to train {roles} at {bits(plan.P)} bits{guess}, where a FLOP buys {gain} {cost}, but the 95% interval "
            f"({ends}) holds no gain at all; {spans}, and {waste}."
        )
    return f"Train {roles} at {bits(plan.P)} bits{guess}: a FLOP then buys {gain} (95%: {ends}) {cost}; {spans}, and {waste}."


def rounding(found: Findings) -> str:
    """What PTQ costs and whether it grows with D."""
    one = found.rounded
    if one is None or "gamma_D" not in one.params:
        return ""
    P = float(np.min(one.delta_rows["P_post"]))
    at = {c: float(np.exp(np.mean(np.log(one.delta_rows[c].to_numpy(float))))) for c in ("N", "D")}
    x = one.law.read({**{c: np.array(v) for c, v in at.items()}, "P_post": np.array(P)})
    delta, draws = (np.asarray(one.law.penalty(p, x, one.law.paired)) for p in (one.params, one.samples))  # fmt: skip
    said = f"Rounding finished weights to {bits(P)} bits adds {number(float(delta))} nats (95%: {between(*quantiles(np.ravel(draws), 0.95))}) at N = {amount(at['N'])} and D = {amount(at['D'])}"
    low, high = one.interval("gamma_D")
    power = f"D to the power {number(one.params['gamma_D'], 2)} ({between(low, high, lambda v: number(v, 2))})"
    if low <= 0 <= high:
        return f"{said}; whether that grows with training is not told: {power}."
    return f"{said}; that {'grows' if low > 0 else 'falls'} as {power}{_turn(one, at['N'], P) if low > 0 else ''}."


def _turn(one: Fit, N: float, P: float) -> str:
    """The tokens beyond which more training hurts."""
    with np.errstate(all="ignore"):
        D, draws = (critical_D(one.law, p, {"N": N, "P_post": P}) for p in (one.params, one.samples))  # fmt: skip
    if not np.isfinite(D):
        return ""
    top = float(np.max(one.delta_rows["D"]))
    far = ", an extrapolation" if float(D) > top else ""
    return f", and beyond {amount(float(D))} tokens ({between(*quantiles(np.ravel(draws), 0.95), amount)}{far}) more training makes the rounded model worse"


def worth(found: Findings) -> str:
    """What roles at their smallest common width are worth, where nothing was rounded."""
    one = next((f for f in found.fits if f.measured and f.law.on("N")), None)
    if one is None:
        return ""
    parts = []
    for role, P in one.measured.items():
        b = 4.0 if 4.0 in P else min(P)
        name = f"eff_{role}({b:g})"
        low, high = one.interval(name)
        share = f"{number(one.quantity(name)[0], 2)} ({between(low, high, lambda v: number(v, 2))})"
        parts.append(f"{share} with {NAMES[role]} at {b:g} bits")
    return f"Of its N parameters a model is worth {listed(parts)}, with 95% intervals."


def budget(found: Findings) -> str:
    """What to train."""
    plan = next(iter(found.plans), None)
    if plan is None:
        return "What to train for a larger budget cannot be said from these runs: the reasons are below."  # fmt: skip
    times = plan.flops / found.largest if found.largest else np.nan
    scale = f", {number(times, 2)} times the largest run" if abs(times - 1) > 0.01 else ", that of the largest run"  # fmt: skip
    ends = {k: plan.interval(k) for k in ("N", "D", "loss")}
    vague = [k for k in ("N", "D") if not ends[k][1] < VAGUE * ends[k][0]]
    told = [f"{k} = {amount(getattr(plan, k))} ({between(*ends[k], amount)})" for k in ends if k != "loss" and k not in vague]  # fmt: skip
    open_ = f"; {listed(vague)} cannot be told from these runs" if vague else ""
    lead = found.lead
    if lead and (far := _far(lead, plan)):
        open_ += f"; {far}"
    if lead and lead.unidentified:
        open_ += f"; {listed([*lead.unidentified])} are not identified, so take it as a direction, not as a number"
    what = f"train {' on '.join(told)} and expect" if told else "expect"
    return (
        f"For {number(plan.flops, 2)} FLOP{scale}, {what} {number(plan.loss)} nats per token "
        f"(95%: {between(*ends['loss'])}){open_}."
    )


def _far(fit: Fit, plan: Plan) -> str:
    """How far beyond the runs the plan lies."""
    rows: Any = fit.rows
    decades = {k: float(np.log10(getattr(plan, k) / rows[k].max())) for k in ("N", "D")}
    beyond = [f"{number(v, 2)} decades in {k}" for k, v in decades.items() if v > 0.06]
    return f"that extrapolates by {listed(beyond)}" if beyond else ""


def listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
