"""Is it the minimum, and what do the data not determine?

An optimiser's own "success" proves nothing: on 4,500 published starts all report success and 7% are at
the minimum. The certificate is computed at the answer: Newton decrement from the exact Hessian, its
eigenvalues, and how many independent starts arrived there.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precisionlaws.fitting.objective import Block
from precisionlaws.fitting.solve import NOTHING, Solution, derivatives
from precisionlaws.laws.base import ROLES, Array, widths

if TYPE_CHECKING:
    from precisionlaws.fitting.fit import Fit

COLLINEAR = 0.01  # 1 − r² of log N and log D below which neither speaks for itself
WIDE = 2.0  # an exponent whose 95% interval spans this ratio is called not identified
EACH = 4  # losses for each parameter of the base below which no interval is to be believed
SAME = 1e-6  # relative: two values are one minimum


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """Evidence of one block's minimum; `ok` is the verdict."""

    decrement: float  # gᵀH⁻¹g / F, Newton decrement relative to the objective
    gradient: float  # largest |g_i| / √(H_ii F)
    eigenvalues: tuple[
        float, ...
    ]  # of the Hessian scaled to unit diagonal, over the free parameters
    bounds: tuple[str, ...]  # parameters at a bound
    starts: int
    agreeing: int  # starts that ended at the minimum
    minima: int  # distinct values at which starts ended
    ok: bool
    least: str = ""  # the combination of parameters with the smallest eigenvalue, in words

    @property
    def condition(self) -> float:
        """Condition number of the scaled Hessian."""
        return (
            self.eigenvalues[-1] / self.eigenvalues[0]
            if self.eigenvalues and self.eigenvalues[0] > 0
            else np.inf
        )


def certify(block: Block, found: Solution, delta: float) -> Certificate:
    """Evidence that `found.u[0]` is the minimum."""
    u, n = found.u[:1], len(block.y)
    F, g, H, _ = (a[0] for a in derivatives(block, u, delta, np.ones((1, n)), True))
    floor = NOTHING * n
    low, high = u[0] <= block.lower, u[0] >= block.upper
    free = ~((low & (g >= 0)) | (high & (g <= 0)))
    d = np.abs(np.diag(H)[free])
    # A parameter without any effect has a curvature of rounding errors, which must not be scaled up.
    s = 1 / np.sqrt(np.maximum(d, 1e-14 * d.max(initial=0.0) + 1e-300))
    scaled = H[np.ix_(free, free)] * s[:, None] * s
    ev, V = np.linalg.eigh(scaled) if free.any() else (np.ones(0), np.ones((0, 0)))
    t = V.T @ (g[free] * s)
    decrement = float((t * t / np.maximum(np.abs(ev), 1e-12)).sum() / (F + floor))
    near = found.value <= F + SAME * F + floor
    ends = np.sort(found.value[found.converged])
    minima = int(1 + (np.diff(ends) > SAME * ends[1:] + floor).sum()) if len(ends) else 0
    return Certificate(
        decrement=decrement, gradient=float(np.abs(g[free] * s).max(initial=0.0) / np.sqrt(F + floor)),
        eigenvalues=tuple(map(float, ev)), starts=len(found.value), agreeing=int(near.sum()), minima=minima,
        bounds=tuple(q.name for q, a, b in zip(block.params, low, high, strict=True) if (a or b) and q.name not in block.held),
        least=_least([q.name for q, f in zip(block.params, free, strict=True) if f], ev, V),
        ok=bool(np.isfinite(F) and decrement <= 1e-10 and ev.min(initial=1.0) > -1e-9 and near.sum() >= 2),
    )  # fmt: skip


def _least(names: list[str], ev: Array, V: Array) -> str:
    """The two parameters that compensate each other best, each at the centre of the data."""
    if len(names) < 2:
        return ""
    inverse = (V / np.maximum(ev, 1e-15)) @ V.T
    i, j = np.argsort(-np.abs(V[:, 0]))[:2]
    if abs(V[j, 0]) < 0.3:
        return names[i]
    r = inverse[i, j] / np.sqrt(inverse[i, i] * inverse[j, j])
    return f"{names[i]} {'up' if r > 0 else 'down'} with {names[j]} up (correlation {r:.3f})"


def one_cluster(block: Block, u: Array, cluster: Array) -> tuple[str, ...]:
    """Parameters that the rows of a single cluster speak of: no other cluster can tell their error."""
    J = block.jacobian(u[None])[1][0]
    touched = np.abs(J) > 1e-12 * np.abs(J).max(1, keepdims=True)
    few = (j for j in block.own if not touched[j].any() or np.ptp(cluster[touched[j]]) == 0)
    return tuple(block.params[j].name for j in few)


def design_gaps(block: Block) -> list[str]:
    """What the design itself cannot separate, before any noise."""
    out = [*open_base(block), *_rising(block)] if block.kind == "loss" else []
    for term in block.law.scales if block.kind == "loss" else ():
        out += term.notes(dict(block.x)) if hasattr(term, "notes") else ()
    return out


def open_base(block: Block) -> list[str]:
    """Why no losses at these N and D would determine the base: too few values, runs or ratios of them."""
    return [*_few_values(block), *_few(block), *_one_ratio(block)]


def _few_values(block: Block) -> list[str]:
    out, names = [], {q.name for q in block.params}
    for column, exponent in (("N", "alpha"), ("D", "beta")):
        k = len(np.unique(block.x[column]))
        if k < 3 and {exponent, "E"} <= names:
            out.append(
                f"{column} takes {k} value(s): {exponent} and E are not separable, which needs 3"
            )
    return out


def _rising(block: Block) -> list[str]:
    """A wrong column, such as an accuracy."""
    x = np.stack([np.ones(len(block.y)), np.log(block.x["N"]), np.log(block.x["D"])], 1)
    slopes = np.linalg.lstsq(x, block.y, rcond=None)[0][1:]
    moving = [len(np.unique(block.x[c])) > 1 for c in "ND"]
    if not any(moving) or any(s < 0 for s, m in zip(slopes, moving, strict=True) if m):
        return []
    return ["the losses fall neither with N nor with D: is `loss` the right column?"]


def _few(block: Block) -> list[str]:
    """Sixteen runs for five parameters: Huber fits to those of OLMo's ladder end in five distinct minima."""
    base = len(block.law.base.params(dict(block.x)))
    n = len(block.y) - (len(block.own) - base)
    if n >= EACH * base:
        return []
    return [
        f"not identified: {n} losses for the {base} parameters of the base, and four for each is little; "
        "its coefficients and their intervals would move with any one run"
    ]


def _one_ratio(block: Block) -> list[str]:
    n, d = np.log(block.x["N"]), np.log(block.x["D"])
    if min(len(np.unique(n)), len(np.unique(d))) < 3:
        return []
    r = float(np.corrcoef(n, d)[0, 1])
    if 1 - r * r > COLLINEAR:
        return []
    ratio = np.exp(d - n) * block.centre["D"] / block.centre["N"]
    span = f"{ratio.min():.3g}" + (
        f" to {ratio.max():.3g}" if ratio.max() > 1.02 * ratio.min() else ""
    )
    return [
        f"not identified: N and D move together (D/N = {span}, correlation {r:.4f}), so what N explains is not told from "
        "what D explains; train some sizes at other D/N"
    ]


def measured(x: dict[str, Array]) -> dict[str, tuple[float, ...]]:
    """Widths below 16 by role, for the roles that vary."""
    found = {role: widths(x, f"P_{role}") for role in ROLES}
    return {role: P for role, P in found.items() if P}


def unidentified(fit: "Fit", block: Block) -> tuple[str, ...]:
    """Parameters that nothing should rest on: open ones, the coefficients that go with them, or all of the base by design."""
    base = {q.name for q in block.law.base.params(dict(block.x))}
    out = (base if open_base(block) else set(open_ones(fit))) | inseparable(fit)
    along = {q.name for q in fit.law.params for _, exponent, _ in q.centre if exponent in out}
    return tuple(q.name for q in fit.law.params if q.name in out | along)


def inseparable(fit: "Fit") -> set[str]:
    """Efficiencies of roles that are never trained apart: only their product is known."""
    names = {f"eff_{r}[{P:g}]": (r, P) for r, widths in fit.measured.items() for P in widths}
    rows = {
        name: (fit.rows[f"P_{r}"] == P).to_numpy()
        for name, (r, P) in names.items()
        if name in fit.params
    }
    return {
        a
        for a in rows
        for b in rows
        if a.split("[")[0] != b.split("[")[0] and (rows[a] == rows[b]).all()
    }


def open_ones(fit: "Fit") -> dict[str, tuple[float, float]]:
    """E and exponents that the data leave open, with what fits."""
    out = {}
    for q in fit.law.params:
        low, high = fit.interval(q.name)
        if q.name == "E":
            wide = low <= 0 or high - low >= 0.5 * q.upper
        else:
            wide = q.unit == "" and q.link == "log" and high > WIDE * low
        if wide and q.name not in fit.one_cluster:
            out[q.name] = low, high
    return out


def marked(fit: "Fit", name: str) -> bool:
    """Whether a printed quantity rests on what the data leave open."""
    along = {"N_opt_exponent": {"alpha", "beta"}, "D/N_opt": {"alpha", "beta"}}
    return name in fit.unidentified or (name in along and along[name] <= set(fit.unidentified))
