"""The same objective by scipy, from the same starts: a second opinion on the batched solver.

L-BFGS-B with the exact gradient inside the same box, one start after another, through the same
decreasing Huber thresholds. Nothing is shared with the batched solver but the objective.
"""

import numpy as np

from precisionlaws.fitting.objective import Block
from precisionlaws.fitting.solve import Solution, derivatives, starts, thresholds
from precisionlaws.laws.base import Array

HIGHER = 1e-9  # relative: what is above by more than this did not reach the same minimum
OUTSIDE = 1e10  # the objective where a law has no value: the line search turns back


def search(block: Block, delta: float) -> Solution:
    """All starts, best first; `converged` is scipy's own word."""
    ends = [_descend(block, u, delta) for u in starts(block)]
    ends.sort(key=lambda end: end[1])
    u, value, success = zip(*ends, strict=True)
    return Solution(
        u=np.array(u), value=np.array(value), converged=np.array(success), decrement=np.full(len(u), np.nan)
    )  # fmt: skip


def _descend(block: Block, u: Array, delta: float) -> tuple[Array, float, bool]:
    from scipy import optimize

    W, bounds = np.ones((1, len(block.y))), list(zip(block.lower, block.upper, strict=True))
    value, success = np.inf, False
    for d in (*thresholds(block, delta), delta):

        def both(v: Array, d: float = d) -> tuple[float, Array]:
            F, g = (a[0] for a in derivatives(block, v[None], d, W, False)[:2])
            fine = np.isfinite(F) and np.isfinite(g).all()
            return (float(F), g) if fine else (OUTSIDE, np.zeros_like(v))

        # A small objective stalls tolerances that are relative to 1: scipy is given it in units of its start.
        unit = max(both(u)[0], 1e-300)
        found = optimize.minimize(
            lambda v, both=both, unit=unit: tuple(a / unit for a in both(v)),
            u, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 3000, "maxfun": 6000, "ftol": 1e-15, "gtol": 1e-12},
        )  # fmt: skip
        u, value, success = np.asarray(found.x), float(found.fun) * unit, bool(found.success)
    return u, value, success


def above(what: str, theirs: Solution, ours: Solution) -> list[str]:
    """A sentence if scipy stopped above the batched solver, or found something below it."""
    a, b = float(theirs.value[0]), float(ours.value[0])
    if abs(a - b) <= HIGHER * max(a, b) + 1e-300:
        return []
    if a > b:
        return [f"{what}: scipy ends {a / b - 1:.1e} above the minimum of the batched solver"]
    return [
        f"{what}: scipy ends {1 - a / b:.1e} BELOW the batched solver: please report these data"
    ]
