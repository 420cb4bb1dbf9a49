"""δ, the loss that rounding a finished run adds, and its noise: each fitted given the other."""

from collections.abc import Callable

import numpy as np

from precisionlaws.fitting.objective import Block, block, check_count, on_effective
from precisionlaws.fitting.rows import Rows
from precisionlaws.fitting.solve import Solution, minimise, search
from precisionlaws.laws import Law
from precisionlaws.laws.base import Array

THRESHOLD = 1.345  # Huber's, in units of sd (95% efficient under Gaussian noise)
PASSES = 5


def fit_delta(
    law: Law,
    rows: Rows,
    base: Block,
    first: Solution,
    threshold: float,
    find: Callable[[Block, float], Solution],
) -> tuple[Block, Solution, dict[str, float]]:
    """The block of δ, its minimum by `find`, and its noise, sd² = σ0² + (r δ̂)²: of the fitted δ̂, so that no row is chosen by its outcome.

    base, first: the losses and their minimum, whose scales δ on N_eff takes over.
    """
    seen = rows.delta["delta_ptq"].to_numpy(float)
    size = np.abs(seen)
    # Where a law says exactly 0, as Eq. 9 does at P_w = P_post.
    least = 1e-7 * float(size.max()) + 1e-300
    # Only the first pass weighs by the seen δ.
    sd = np.maximum(np.sqrt(np.median(size) ** 2 * 0.01 + (0.3 * size) ** 2), least)
    noise = {"sigma0": 0.0, "r": 0.0}
    held = {}
    if on_effective(law):
        law.check(base.natural(first.u[:1]), law.read(rows.delta))
        scales = {q.name for term in law.scales for q in term.params(dict(base.x))}
        held = {
            q.name: float(v)
            for q, v in zip(base.params, first.u[0], strict=True)
            if q.name in scales
        }
    c = base.centre
    pair = block("delta", law, rows.delta, c, sd, held)
    check_count(pair)
    u = search(pair, threshold).u[:1]
    for _ in range(PASSES):
        fitted = pair.predict(u)[0] * sd
        noise = noise_of(seen - fitted, fitted)
        sd = np.maximum(np.hypot(noise["sigma0"], noise["r"] * fitted), least)
        pair = block("delta", law, rows.delta, c, sd, held)
        u = minimise(pair, u, threshold).u
    return pair, find(pair, threshold), noise


def noise_of(residual: Array, fitted: Array) -> dict[str, float]:
    """σ0 and r of greatest Gaussian likelihood, on a grid fine enough for weights."""
    top = float(np.abs(residual).max()) + 1e-12
    s0, r = np.meshgrid(np.geomspace(1e-5, 1, 61) * top, np.geomspace(1e-3, 2.0, 61))
    var = s0[..., None] ** 2 + (r[..., None] * fitted) ** 2
    cost = (residual**2 / var + np.log(var)).sum(-1)
    best = np.unravel_index(np.argmin(cost), cost.shape)
    return {"sigma0": float(s0[best]), "r": float(r[best])}
