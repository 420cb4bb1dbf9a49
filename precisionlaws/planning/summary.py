"""The printed report of a plan."""

from typing import TYPE_CHECKING, Any

from precisionlaws.planning.costs import cost as cost_model

if TYPE_CHECKING:
    from precisionlaws.planning.plan import Plan

UNITS = {"N": "parameters", "D": "tokens", "P": "bits", "loss": "nats/token"}
HARDWARE = (4, 8, 16)


def summary(plan: "Plan", level: float = 0.95) -> str:
    """The optimum with intervals, widths by regret, what N and D do with P, critical D, warnings."""
    held = "".join(f", {k} = {v:.6g} fixed" for k, v in plan.fixed.items())
    held += f", {plan.served:.3g} tokens served" if plan.served else ""
    lines = [
        f"{plan.law}: {plan.flops:.3g} FLOP, cost {plan.cost}{held}",
        f"  {cost_model(plan.cost).says}",
    ]
    for name, unit in UNITS.items():
        low, high = plan.interval(name, level)
        lines.append(
            f"  {name:<5}{getattr(plan, name):>12.5g}   {level:.0%} {low:.4g} to {high:.4g}  {unit}"
        )
    if plan.fixed or plan.served:
        lines.append(f"  binding: {', '.join(plan.binds) or 'nothing, the budget is not spent'}")
    for table, say in ((plan.regret, _widths), (plan.tradeoff, _tradeoff)):
        lines += ["", *say(plan)] if len(table) > 1 else []
    for table, say in ((plan.critical, _critical), (plan.shipping, _shipping)):
        lines += ["", *say(plan)] if len(table) else []
    return "\n".join([*lines, *(f"warning: {w}" for w in plan.warnings)])


def _widths(plan: "Plan") -> list[str]:
    lines = [
        "bits     eff   eff/c         95%      loss        wasted compute         95%   best in"
    ]
    for r in _rows(plan.regret):
        mark = " (interpolated)" if r.interpolated else ""
        lines.append(
            f"{r.P:>4}  {r.eff:6.3f}  {r.gain:6.2f}  {r.gain_low:5.2f} to {r.gain_high:5.2f}  {r.loss:8.4f}"
            f"  {r.regret:16.1%}  {r.regret_low:6.1%} to {r.regret_high:6.1%}  {r.best:5.0%}{mark}"
        )
    lines.append(f"within 5% of the best: {', '.join(map(str, plan.p_set))} bits")
    if not plan.separable:
        lines.append("the best width hangs on the budget here: eff/c alone does not decide it")
    return [*lines, *hardware(plan)]


def hardware(plan: "Plan") -> list[str]:
    """The regret of the widths that integer hardware has."""
    known = [r for r in _rows(plan.regret) if r.P in HARDWARE]
    least = min((r.regret for r in known), default=1.0)
    said = [
        f"{r.P} bits {1 - (1 - r.regret) / (1 - least):.1%}" if r.regret < 1 else f"{r.P} bits all"
        for r in known
        if least < 1
    ]
    return [f"of 4, 8 and 16 bits, compute wasted against the best of them: {', '.join(said)}"] if len(said) > 1 else []  # fmt: skip


def _tradeoff(plan: "Plan") -> list[str]:
    """N* and D* at fixed compute; whether fewer bits grow the model before the data."""
    lines = ["bits        N*   of 16 bits              95%        D*   of 16 bits              95%"]
    for r in plan.tradeoff.to_dict("records"):
        parts = [f"{r['P']:>4}"]
        for k in ("N", "D"):
            low, high = (r[f"{k} of 16 {end}"] for end in ("low", "high"))
            parts.append(f"{r[k]:8.3g}  {r[f'{k} of 16']:10.2f}  {low:6.2f} to {high:6.2f}")
        lines.append("  ".join(parts))
    return [*lines, grown(plan)]


def grown(plan: "Plan") -> str:
    """Does N*/D* grow as bits go, at the smallest width and fixed compute?"""
    r = plan.tradeoff.to_dict("records")[0]
    low, high = r["N/D of 16 low"], r["N/D of 16 high"]
    verdict = "shown" if low > 1 else "refuted" if high < 1 else "left open"
    return (
        f"fewer bits grow the model before the data: {verdict} "
        f"(N*/D* at {r['P']} bits is {r['N/D of 16']:.2f} times that at 16, 95% {low:.2f} to {high:.2f})"
    )


def _critical(plan: "Plan") -> list[str]:
    lines = ["after rounding to   δ at (N, D)          95%           D_crit          95%"]
    for r in _rows(plan.critical):
        mark = " (extrapolated)" if r.extrapolated else ""
        lines.append(
            f"{r.P_post:>12g} bits  {r.delta:10.4g}  {r.delta_low:9.3g} to {r.delta_high:9.3g}"
            f"  {r.D_crit:10.3g}  {r.D_crit_low:9.3g} to {r.D_crit_high:9.3g}{mark}"
        )
    return lines


def _shipping(plan: "Plan") -> list[str]:
    lines = [f"trained at 16 bits and rounded into {plan.fixed['memory']:.4g} bytes:",
             "        bits         N         D      loss          95%"]  # fmt: skip
    for r in _rows(plan.shipping):
        lines.append(
            f"{r.P_post:>12g}  {r.N:8.3g}  {r.D:8.3g}  {r.loss:8.4f}  {r.loss_low:.4f} to {r.loss_high:.4f}"
        )
    return lines


def _rows(table: Any) -> Any:
    """Rows with their columns as attributes."""
    return table.itertuples()
