"""What is believed before a study is run: a law, its parameters, and the noise of runs.

From a fit: its parameters, and the noise that its residuals show. By name: the constants that a law's
source published, with the noise of `NOISE`, because no source publishes any. Neither: what the demo
study gave, good enough to weigh points against each other, not to foretell a coefficient.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from precisionlaws.fitting import Fit
from precisionlaws.fitting.components import components
from precisionlaws.fitting.objective import Block, block, on_effective
from precisionlaws.fitting.rows import centre
from precisionlaws.laws import OFF, Law, law
from precisionlaws.laws.base import BITS, ROLES, Array, columns, off, widths

Table = Any  # a DataFrame


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Variances of log loss, or of δ in units of its sd: of a family, of (family, D), of one row."""

    family: float
    branch: float
    row: float

    @property
    def sd(self) -> tuple[float, float, float]:
        family, branch, row = np.sqrt([self.family, self.branch, self.row])
        return float(family), float(branch), float(row)


@dataclass(frozen=True, kw_only=True)
class Prior:
    """A bound law, its parameters and noise; u: the parameters of each block as the search has them."""

    name: str
    law: Law
    params: Mapping[str, float]
    centre: Mapping[str, float]
    blocks: Mapping[str, Block]  # by kind: over the rows that it was made of
    u: Mapping[str, Array]
    noise: Mapping[str, Noise]
    delta_sd: tuple[float, float]  # sd² = σ0² + (r δ)², nats


# Of the demo study (two seeds of 7k to 50k parameters, 62k to 500k tokens), by `components`.
NOISE = {
    "loss": Noise(family=0.005**2, branch=0.02**2, row=0.0065**2),
    "delta": Noise(family=0.0, branch=0.0, row=1.0),
}
DELTA_SD = (3e-4, 0.3)  # δ: σ0 in nats, and r
DEMO = {
    "A": 15.8, "alpha": 0.44, "B": 9.6, "beta": 0.126, "E": 0.0,
    "C_T": 0.0057, "gamma_D": 0.64, "gamma_N": 0.13, "gamma_post": 0.62,
}  # fmt: skip
DEMO_WIDTHS = {"w": (1.255, 1.182), "a": (1.004, 2.117), "kv": (1.0, 1.4)}  # γ, n of neff_kumar


def from_fit(fit: Fit, name: str) -> Prior:
    """Parameters of a fit, and the noise that its residuals show."""
    c = centre(fit.rows)
    blocks = {"loss": block("loss", fit.law, fit.rows, c)}
    u = {"loss": locate(blocks["loss"], fit.params)}
    if fit.law.paired:
        blocks["delta"], u["delta"] = _delta_block(
            fit.law, fit.params, fit.delta_rows, blocks["loss"], u["loss"], delta_sd(fit.noise)
        )
    tables = {"loss": fit.rows, "delta": fit.delta_rows}
    return Prior(
        name=name, law=fit.law, params=fit.params, centre=c, blocks=blocks, u=u,
        noise={kind: residual_noise(b, u[kind], tables[kind]) for kind, b in blocks.items()},
        delta_sd=delta_sd(fit.noise),
    )  # fmt: skip


def published(name: str, design: Table) -> Prior:
    """The constants that the source of a law printed, for the widths of a design."""
    from precisionlaws.laws import names

    chosen = law(name)
    if not chosen.published:
        known = [n for n in names() if getattr(_quiet(n), "published", None)]
        raise ValueError(
            f"{name} has no published constants to plan with; these have: {', '.join(known)}, "
            "or give a fit (precisionlaws fit -o)"
        )
    return _assumed(name, chosen, dict(chosen.published), design)


def default(design: Table) -> Prior:
    """Form-free efficiencies at the widths of a design, and PTQ, as the demo study measured them."""
    x = columns(design, BITS)
    used = [role for role in ROLES if widths(x, f"P_{role}")]
    terms = ["neff_free"] * bool(used) + ["ptq_kumar"] * bool(widths(x, "P_post"))
    params = dict(DEMO)
    for role in used:
        gamma, n = DEMO_WIDTHS[role]
        for P in widths(x, f"P_{role}"):
            params[f"eff_{role}[{P:g}]"] = float(max(-np.expm1(-P / gamma + n), 0.02))
    return _assumed("the demo's constants", law("+".join(["chinchilla", *terms])), params, design)


def _assumed(name: str, chosen: Law, params: dict[str, float], design: Table) -> Prior:
    table = speakable(chosen, params, design)
    if len(table) == 0:
        raise ValueError(f"{name} says nothing of any point of this study")
    bound = chosen.bind(_with_more_widths(table, chosen, params), table[table["P_post"] < OFF])
    bound = replace(bound, params=tuple(q for q in bound.params if q.name in params))
    params = {q.name: params[q.name] for q in bound.params}
    rows = table[table["P_post"] >= OFF]
    c = centre(rows)
    blocks = {"loss": _whole(block("loss", bound, rows, c), bound)}
    u = {"loss": locate(blocks["loss"], params)}
    delta = table[table["P_post"] < OFF]
    if bound.paired and len(delta):
        blocks["delta"], u["delta"] = _delta_block(
            bound, params, delta.assign(delta_ptq=0.0), blocks["loss"], u["loss"], DELTA_SD
        )
    return Prior(
        name=name, law=bound, params=params, centre=c, blocks=blocks, u=u,
        noise={kind: NOISE[kind] for kind in blocks}, delta_sd=DELTA_SD,
    )  # fmt: skip


def _with_more_widths(table: Table, chosen: Law, params: Mapping[str, float]) -> Table:
    """The design with each quantized role at 15 bits too, so that a formula in P keeps its offset."""
    import pandas as pd

    if not all(term.CONTINUOUS for term in chosen.scales):
        return table
    more = []
    for role in ROLES:
        low = table[table[f"P_{role}"] < OFF]
        if len(low):
            more.append(low.iloc[:1].assign(**{f"P_{role}": 15.0}))
    return pd.concat([table, *more], ignore_index=True)


def _whole(b: Block, bound: Law) -> Block:
    """The block with every parameter that the law has for its kind, not only those its own rows move."""
    paired = {q.name for m in bound.paired for q in m.params(dict(b.x))}
    return replace(b, params=tuple(q for q in bound.params if q.name not in paired))


def _delta_block(
    bound: Law, params: Mapping[str, float], rows: Table, base: Block, u: Array, sd: tuple[float, float]
) -> tuple[Block, Array]:  # fmt: skip
    held = {}
    if on_effective(bound):
        scales = {q.name for term in bound.scales for q in term.params(dict(base.x))}
        held = {q.name: float(v) for q, v in zip(base.params, u, strict=True) if q.name in scales}
    fitted = np.asarray(bound.penalty(params, bound.read(rows, *BITS), bound.paired))
    b = block("delta", bound, rows, base.centre, noise_sd(fitted, sd), held)
    return b, locate(b, params)


def speakable(chosen: Law, params: Mapping[str, float], design: Table) -> Table:
    """The rows of a design for which a law has a value at these parameters, with it as their `loss`."""
    keep, loss = np.zeros(len(design), bool), np.full(len(design), np.nan)
    if not chosen.paired:
        design = design[design["P_post"] >= OFF]
        keep, loss = keep[: len(design)], loss[: len(design)]
    design = design.reset_index(drop=True)
    groups = design.groupby(list(BITS), sort=False).indices.values()
    for at in groups:  # widths that a law does not know make it raise, or give no number
        part = design.iloc[at]
        try:
            x = chosen.read(part, *BITS)
            value = chosen.loss(params, {**x, "P_post": np.full(len(part), OFF)}) + np.zeros(
                len(part)
            )
            delta = np.asarray(chosen.penalty(params, x, chosen.paired)) + np.zeros(len(part))
        except ValueError:
            continue
        low = np.logical_or.reduce(
            [~off(part[f"P_{r}"]) & (f"P_{r}" not in chosen.columns) for r in ROLES]
        )
        keep[at] = np.isfinite(value) & (value > 0) & np.isfinite(delta) & ~low
        loss[at] = value
    return design.assign(loss=loss)[keep].reset_index(drop=True)


def locate(b: Block, params: Mapping[str, float]) -> Array:
    """Parameters in the law's own units → u, the inverse of `Block.natural`; (p,)."""
    v = dict(params)
    for q in b.params:
        if q.name in b.held:
            continue
        for column, exponent, sign in q.centre:
            v[q.name] = v[q.name] / b.centre[column] ** (sign * (v[exponent] if exponent else 1.0))
    out = []
    for q in b.params:
        if q.name in b.held:
            out.append(b.held[q.name])
        elif q.link == "below":
            out.append(np.log(q.at / v[q.of] - v[q.name]))
        else:
            out.append(v[q.name] if q.link == "identity" else np.log(v[q.name]))
    return np.array(out, float)


def residual_noise(b: Block, u: Array, rows: Table) -> Noise:
    """Variances of the residuals of a block, with what its parameters absorbed put back."""
    f, J = b.jacobian(u[None])
    free = [j for j in b.own if b.lower[j] < u[j] < b.upper[j]]
    family = rows["family"].to_numpy(str)
    branch = np.char.add(np.char.add(family, " "), rows["D"].to_numpy(float).astype(str))
    shared, of_D, row = components(b.y - f[0], J[0, free], (family, branch))
    return Noise(family=shared, branch=of_D, row=row)


def delta_sd(noise: Mapping[str, float]) -> tuple[float, float]:
    return (noise["sigma0"], noise["r"]) if noise else DELTA_SD


def noise_sd(delta: Array, sd: tuple[float, float]) -> Array:
    """Of each δ, nats; never 0, also where a law says exactly 0."""
    return np.maximum(np.hypot(sd[0], sd[1] * delta), 1e-12)


def _quiet(name: str) -> Law | None:
    try:
        return law(name)
    except ValueError:  # a term that must not stand alone
        return None
