"""Is it the minimum, and what do the data not determine?

An optimiser's own "success" proves nothing: on 4,500 published starts all report success and 7% are at
the minimum. The certificate is computed at the answer: Newton decrement from the exact Hessian, its
eigenvalues, and how many independent starts arrived there.
"""

from dataclasses import dataclass

import numpy as np

from precisionlaws.fitting.objective import Block
from precisionlaws.fitting.solve import NOTHING, Solution, derivatives, minimise
from precisionlaws.laws.base import ROLES, Array, widths

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
        ok=bool(np.isfinite(F) and decrement <= 1e-10 and ev.min(initial=1.0) > -1e-9 and near.sum() >= 2),
    )  # fmt: skip


def profile(block: Block, u: Array, name: str, grid: Array, delta: float) -> Array:
    """The least objective with one parameter held at each value of `grid` (in the space of the search)."""
    j = [q.name for q in block.params].index(name)
    start = np.repeat(u[None], len(grid), 0)
    start[:, j] = grid
    lo, hi = (np.repeat(b[None], len(grid), 0) for b in (block.lower, block.upper))
    lo[:, j] = hi[:, j] = grid
    return minimise(block, start, delta, lower=lo, upper=hi, tol=1e-8).value


def likelihood_ratio(block: Block, u: Array, values: Array, delta: float) -> Array:
    """2 ΔF rescaled to a χ²₁ for a robust objective (Heritier & Ronchetti 1994), rows independent."""
    n, p = len(block.y), len(u)
    r = block.y - block.predict(u[None])[0]
    psi = np.clip(r, -delta, delta)
    spread, slope = (psi**2).sum() / max(n - p, 1), max(float(np.mean(psi == r)), 1 / n)
    F = float((psi * (r - 0.5 * psi)).sum())
    return 2 * (values - F) * slope / max(spread, 1e-300)


def flat_range(
    block: Block, u: Array, name: str, delta: float, points: int = 41
) -> tuple[float, float]:
    """Values of an `identity` parameter that the data do not reject at 95%."""
    j = [q.name for q in block.params].index(name)
    grid = np.unique(np.append(np.linspace(block.lower[j], block.upper[j], points), u[j]))
    keep = likelihood_ratio(block, u, profile(block, u, name, grid, delta), delta) <= 3.84
    keep |= grid == u[j]
    return float(grid[keep].min()), float(grid[keep].max())


def one_cluster(block: Block, u: Array, cluster: Array) -> tuple[str, ...]:
    """Parameters that the rows of a single cluster speak of: no other cluster can tell their error."""
    J = block.jacobian(u[None])[1][0]
    touched = np.abs(J) > 1e-12 * np.abs(J).max(1, keepdims=True)
    few = (j for j in block.own if not touched[j].any() or np.ptp(cluster[touched[j]]) == 0)
    return tuple(block.params[j].name for j in few)


def design_gaps(block: Block) -> list[str]:
    """What the design itself cannot separate, before any noise."""
    out = []
    names = {q.name for q in block.params}
    for column, exponent in (("N", "alpha"), ("D", "beta")):
        k = len(np.unique(block.x[column]))
        if k < 3 and block.kind == "loss" and {exponent, "E"} <= names:
            out.append(
                f"{column} takes {k} value(s): {exponent} and E are not separable, which needs 3"
            )
    for term in block.law.scales if block.kind == "loss" else ():
        out += term.notes(dict(block.x)) if hasattr(term, "notes") else ()
    return out


def measured(x: dict[str, Array]) -> dict[str, tuple[float, ...]]:
    """Widths below 16 by role, for the roles that vary."""
    found = {role: widths(x, f"P_{role}") for role in ROLES}
    return {role: P for role, P in found.items() if P}
