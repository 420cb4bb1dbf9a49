"""The printed report of a plan."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from precisionlaws.planning.plan import Plan

UNITS = {"N": "parameters", "D": "tokens", "P": "bits", "loss": "nats/token"}


def summary(plan: "Plan", level: float = 0.95) -> str:
    """The optimum with intervals, widths by regret, critical D, warnings."""
    held = "".join(f", {k} = {v:.6g} fixed" for k, v in plan.fixed.items())
    lines = [f"{plan.law}: {plan.flops:.3g} FLOP, cost {plan.cost}{held}"]
    for name, unit in UNITS.items():
        low, high = plan.interval(name, level)
        lines.append(
            f"  {name:<5}{getattr(plan, name):>12.5g}   {level:.0%} {low:.4g} to {high:.4g}  {unit}"
        )
    if len(plan.regret) > 1:
        lines += ["", *_widths(plan)]
    if len(plan.critical):
        lines += ["", *_critical(plan)]
    return "\n".join([*lines, *(f"warning: {w}" for w in plan.warnings)])


def _widths(plan: "Plan") -> list[str]:
    lines = ["bits     eff   eff/c         95%        wasted compute         95%   best in"]
    for r in _rows(plan.regret):
        mark = " (interpolated)" if r.interpolated else ""
        lines.append(
            f"{r.P:>4}  {r.eff:6.3f}  {r.gain:6.2f}  {r.gain_low:5.2f} to {r.gain_high:5.2f}  {r.regret:16.1%}"
            f"  {r.regret_low:6.1%} to {r.regret_high:6.1%}  {r.best:5.0%}{mark}"
        )
    return [*lines, f"within 5% of the best: {', '.join(map(str, plan.p_set))} bits"]


def _critical(plan: "Plan") -> list[str]:
    lines = ["after rounding to   δ at (N, D)          95%           D_crit          95%"]
    for r in _rows(plan.critical):
        mark = " (extrapolated)" if r.extrapolated else ""
        lines.append(
            f"{r.P_post:>12g} bits  {r.delta:10.4g}  {r.delta_low:9.3g} to {r.delta_high:9.3g}"
            f"  {r.D_crit:10.3g}  {r.D_crit_low:9.3g} to {r.D_crit_high:9.3g}{mark}"
        )
    return lines


def _rows(table: Any) -> Any:
    """Rows with their columns as attributes."""
    return table.itertuples()
