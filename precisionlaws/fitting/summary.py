"""The printed report of a fit."""

from typing import TYPE_CHECKING

from precisionlaws.fitting import sensitivity
from precisionlaws.fitting.diagnose import Certificate

if TYPE_CHECKING:
    from precisionlaws.fitting.fit import Fit


def summary(fit: "Fit", level: float = 0.95) -> str:
    """Law, objective, coefficients with intervals, certificate, warnings."""
    lines = [f"{fit.law.full_name}   {fit.law.source}"]
    for o in (fit.objective, fit.penalty_objective):
        if o is not None:
            lines.append(f"  {o.text} = {o.value:.12g}   n = {o.n}")
    lines.append(f"  {fit.clusters} clusters; {fit.intervals}")
    lines += [f"  left out: {n} rows, {why}" for why, n in fit.left_out]
    lines += ["", *table(fit, level), ""]
    lines.append(f"certificate: {_evidence(fit.certificate)}")
    if fit.penalty_certificate is not None:
        lines.append(f"certificate of δ: {_evidence(fit.penalty_certificate)}")
    if fit.sensitivity:
        lines += [
            "",
            *sensitivity.table(fit.sensitivity, headline(fit), lambda p, q: fit.value(q, p)),
            "",
        ]
    lines += [f"warning: {w}" for w in fit.warnings]
    return "\n".join(lines)


def table(fit: "Fit", level: float) -> list[str]:
    """Parameters, then derived quantities."""
    head = ("parameter", "estimate", f"{level:.0%} low", "high", "unit")
    rows = [(q.name, q.unit) for q in fit.law.params]
    rows += [(name, unit) for name, unit in derived(fit) if name not in fit.params]
    body = []
    for name, unit in rows:
        low, high = fit.interval(name, level)
        body.append((name, *(f"{v:.5g}" for v in (fit.quantity(name)[0], low, high)), unit))
    size = [max(len(r[i]) for r in (head, *body)) for i in range(len(head))]
    return ["  ".join(_cell(r, i, size) for i in range(len(head))).rstrip() for r in (head, *body)]


def headline(fit: "Fit") -> list[str]:
    """What the sensitivity table shows: exponents, E, and efficiencies."""
    base = [q.name for q in fit.law.params if q.unit == "" or q.name == "E"]
    base = [name for name in base if name in fit.sensitivity[0].params]
    free = [q.name for q in fit.law.params if q.unit in ("N_eff/N", "D_eff/D")]
    return [*base, *free, *(name for name, _ in derived(fit))]


def derived(fit: "Fit") -> list[tuple[str, str]]:
    """Names and units of what follows from the parameters."""
    out = [("N_opt_exponent", "N* ~ FLOP^x")] if {"alpha", "beta"} <= set(fit.params) else []
    if fit.law.on("N"):
        out += [
            (f"eff_{r}({P:g})", "N_eff/N")
            for r, widths in fit.measured.items()
            for P in widths
            if f"eff_{r}[{P:g}]" not in fit.params
        ]
    return out


def _cell(row: tuple[str, ...], i: int, size: list[int]) -> str:
    return row[i].rjust(size[i]) if i in (1, 2, 3) else row[i].ljust(size[i])


def _evidence(c: Certificate) -> str:
    verdict = "at a minimum" if c.ok else "NOT at a minimum"
    least = c.eigenvalues[0] if c.eigenvalues else 1.0
    bounds = f"; at a bound: {', '.join(c.bounds)}" if c.bounds else ""
    return (
        f"{verdict}; Newton decrement/F {c.decrement:.1e}, smallest scaled eigenvalue {least:.1e}, "
        f"{c.agreeing} of {c.starts} starts agree, {c.minima} distinct minima{bounds}"
    )
