"""The printed report of a fit."""

from typing import TYPE_CHECKING

from precisionlaws.fitting import sensitivity
from precisionlaws.fitting.derived import EFFICIENCY, blocks
from precisionlaws.fitting.diagnose import Certificate, marked
from precisionlaws.fitting.interaction import sentence
from precisionlaws.fitting.order import detectable, order

if TYPE_CHECKING:
    from precisionlaws.fitting.fit import Fit


def summary(fit: "Fit", level: float = 0.95) -> str:
    """What was fitted, what the data determine best, roles compared, evidence, warnings."""
    lines = [f"{fit.law.full_name}   {fit.law.source}"]
    for o in (fit.objective, fit.penalty_objective):
        if o is not None:
            lines.append(f"  {o.text} = {o.value:.12g}   n = {o.n}")
    profiled = "; intervals of parameters also hold their profiles" if fit.profiles else ""
    lines.append(f"  {fit.clusters} clusters; {fit.intervals}{profiled}")
    lines.append(f"  {_noise(fit)}")
    lines += [f"  left out: {n} rows, {why}" for why, n in fit.left_out]
    lines += ["", *table(fit, level), ""]
    said = order(fit) if fit.law.on("N") else []
    if fit.interaction is not None:
        said.append(sentence(fit.interaction))
    lines += [*said, ""] if said else []
    lines.append(f"certificate: {evidence(fit.certificate)}")
    if fit.penalty_certificate is not None:
        lines.append(f"certificate of δ: {evidence(fit.penalty_certificate)}")
    if fit.certificate.least:
        lines.append(f"least determined, about the centre of the data: {fit.certificate.least}")
    if fit.sensitivity:
        lines += [
            "",
            *sensitivity.table(fit.sensitivity, headline(fit), lambda p, q: fit.value(q, p)),
            "",
        ]
    lines += [f"warning: {w}" for w in fit.warnings]
    return "\n".join(lines)


def _noise(fit: "Fit") -> str:
    said = (
        f"residual sd: families {fit.residual['family_sd']:.2%}, runs {fit.residual['run_sd']:.2%}"
    )
    if not fit.misfit:
        return said
    count = f"{fit.misfit['predictions']:.0f} predictions from {fit.misfit['origins']:.0f} origins"
    return f"{said}; misfit sd {fit.misfit['sd']:.2%} at e times the data's size ({count})"


def table(fit: "Fit", level: float) -> list[str]:
    """Quantities in blocks, best determined first: of bits, of the base, exponents, raw coefficients.

    detectable: the least shortfall of an efficiency from 1 that such a study finds (80% power at 5%).
    """
    head = ("", "estimate", f"{level:.0%} low", "high", "detectable", "unit")
    groups = [[_row(fit, name, unit, level) for name, unit in rows] for rows in blocks(fit) if rows]
    every = [head, *(row for rows in groups for row in rows)]
    if not any(row[4] for row in every[1:]):
        every = [(*row[:4], "", row[5]) for row in every]
    size = [max(len(r[i]) for r in every) for i in range(len(head))]
    text = [
        "  ".join(_cell(r, i, size) for i in range(len(head)) if size[i]).rstrip() for r in every
    ]
    out, at = text[:1], 1
    for rows in groups:
        out += [*([""] if at > 1 else []), *text[at : at + len(rows)]]
        at += len(rows)
    return out


def _row(fit: "Fit", name: str, unit: str, level: float) -> tuple[str, ...]:
    low, high = fit.interval(name, level)
    least, open_ = "", marked(fit, name)
    if unit in EFFICIENCY and name not in fit.one_cluster and not open_:
        found = detectable(fit, name)
        least = f"{found:.2g}" if found < 1 else "> 1"
    if open_:
        unit = f"{unit}  not identified".lstrip()
    return (name, *(f"{v:.5g}" for v in (fit.quantity(name)[0], low, high)), least, unit)


def headline(fit: "Fit") -> list[str]:
    """What the sensitivity table shows: efficiencies, exponents and E."""
    bits, base, shape, coefficients = blocks(fit)
    names = [
        name for name, unit in (*bits, *base) if unit in EFFICIENCY or name == "N_opt_exponent"
    ]
    shown = [
        *names,
        *(name for name, unit in shape if unit == ""),
        *(n for n, _ in coefficients if n == "E"),
    ]
    known = fit.sensitivity[0].params
    return [name for name in shown if name in known or name not in fit.params]


def _cell(row: tuple[str, ...], i: int, size: list[int]) -> str:
    return row[i].rjust(size[i]) if i in (1, 2, 3, 4) else row[i].ljust(size[i])


def evidence(c: Certificate) -> str:
    verdict = "at a minimum" if c.ok else "NOT at a minimum"
    least = c.eigenvalues[0] if c.eigenvalues else 1.0
    bounds = f"; at a bound: {', '.join(c.bounds)}" if c.bounds else ""
    return (
        f"{verdict}; Newton decrement/F {c.decrement:.1e}, smallest scaled eigenvalue {least:.1e}, "
        f"{c.agreeing} of {c.starts} starts agree, {c.minima} distinct minima{bounds}"
    )
