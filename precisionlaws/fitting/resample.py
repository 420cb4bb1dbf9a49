"""Uncertainty: draws of the parameters, by a method that holds when runs of one family share noise.

family   clusters of (architecture, size, data, seed), whose members share initialization and batches.
         Up to 20 clusters: CR3, the delete-one-cluster jackknife, with t_{G−1} (MacKinnon, Nielsen &
         Webb 2023). More: bootstrap of clusters, spread by √(G/(G−1))·t/z, without which it is too narrow.
run      bootstrap of runs: right only if runs are independent.
wald     sandwich of the objective's curvature: right only if rows are independent.

With so many rows that refits would take minutes, one Newton step from the minimum stands for each refit
of the jackknife, of families or of runs, and its covariance for the draws.

Draws are joint over all blocks, so that any function of the parameters can be pushed through them. A
jackknife draw is a random combination of the refits' deviations, taken in the fitted values, which the
data determine, and then turned into the parameters that make those values: a straight line in parameters
would leave the curved valley along which, say, E and α compensate each other, and predict losses that
no refit ever did.

Where rounding acts on N_eff, the second block holds the scales that the first determines: each of its
refits and draws holds those of the same refit or draw of the first.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from precisionlaws.fitting.objective import Block
from precisionlaws.fitting.solve import Solution, derivatives, minimise
from precisionlaws.laws.base import Array

FEW = 20  # clusters: below, jackknife; above, bootstrap
LANDING = 6  # Newton steps from a combination of parameters to the combination of fitted values
LANDED = 1e-3  # Newton decrement relative to the squared distance that no parameters can close
GOOD = 1e-4  # Newton decrement relative to the objective: a refit is done, statistically
MOST = 20_000_000  # draws × rows that are refitted
SMALL = (
    1000  # clusters: above, leaving one out changes the curvature by less than intervals are worth
)
METHODS = ("family", "run", "wald")


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Draws of u for each block, and how they were made."""

    u: tuple[Array, ...]  # (R, p) each
    method: str
    clusters: int
    converged: float  # share of the refits


@dataclass(frozen=True, kw_only=True)
class Solved:
    """A block at its minimum, with the cluster of each of its rows."""

    block: Block
    u: Array  # (p,)
    delta: float
    cluster: Array  # (n,) of int
    run: Array  # (n,) of int


def draw(solved: tuple[Solved, ...], method: str, resamples: int, seed: int) -> Draws:
    """`resamples` draws around the minima."""
    if method not in METHODS:
        raise ValueError(f"intervals must be one of {', '.join(METHODS)}, got {method!r}")
    rng = np.random.default_rng(seed)
    if method == "wald":
        return _wald(solved, resamples, rng)
    if resamples * max(len(s.run) for s in solved) > MOST:
        return _one_step(solved, method, resamples, rng)
    if method == "run":
        return _bootstrap(solved, [s.run for s in solved], resamples, rng, inflate=False)
    labels = [s.cluster for s in solved]
    G = len(np.unique(np.concatenate(labels)))
    if G == 1:
        draws = _bootstrap(solved, [s.run for s in solved], resamples, rng, inflate=False)
        return Draws(
            u=draws.u,
            method=f"{draws.method} (one family: nothing to resample)",
            clusters=1,
            converged=draws.converged,
        )
    if G <= FEW:
        return _jackknife(solved, labels, resamples, rng)
    return _bootstrap(solved, labels, resamples, rng, inflate=True)


def _jackknife(
    solved: tuple[Solved, ...], labels: list[Array], resamples: int, rng: np.random.Generator
) -> Draws:
    names = np.unique(np.concatenate(labels))
    G, half = len(names), (resamples + 1) // 2
    z = rng.standard_normal((half, G)) / np.sqrt(rng.chisquare(G - 1, (half, 1)) / (G - 1))
    z = np.concatenate([z, -z])[:resamples] * np.sqrt(
        (G - 1) / G
    )  # ± pairs: less Monte Carlo noise
    out, ok, refits = [], [], []
    for s, label in zip(solved, labels, strict=True):
        W = (label[None, :] != names[:, None]).astype(float)
        refit = _refit(s, W, _box(s.block, solved[0].block, refits, G))
        same = s.block.repeats
        few, many = (same.block, np.bincount(same.of)) if same else (s.block, None)
        fitted = few.predict(s.u[None])
        y = fitted + z @ (few.predict(refit.u) - fitted)
        box = _box(s.block, solved[0].block, out, resamples)
        start = s.u + z @ (refit.u - s.u)
        landed = minimise(few, start, np.inf, W=many, y=y, tol=LANDED, steps=LANDING, **box)
        out.append(landed.u)
        refits.append(refit.u)
        ok.append(refit.decrement < GOOD)
    method = f"delete-one-family jackknife (CR3), t with {G - 1} degrees of freedom"
    return Draws(u=tuple(out), method=method, clusters=G, converged=float(np.mean(ok)))


def _refit(s: Solved, W: Array, box: dict[str, Any]) -> Solution:
    """Minima under the weights W (G, n), by the exact Hessian where Gauss-Newton does not arrive."""
    near = minimise(s.block, np.repeat(s.u[None], len(W), 0), s.delta, W=W, tol=1e-8, **box)
    if near.converged.all():
        return near
    far = ~near.converged
    ends = {name: bound[far] for name, bound in box.items()}
    again = minimise(s.block, near.u[far], s.delta, W=W[far], exact=True, tol=1e-8, **ends)
    merged = {name: getattr(near, name).copy() for name in Solution.__dataclass_fields__}
    for name, value in merged.items():
        value[far] = getattr(again, name)
    return Solution(**merged)


def _bootstrap(
    solved: tuple[Solved, ...],
    labels: list[Array],
    resamples: int,
    rng: np.random.Generator,
    *,
    inflate: bool,
) -> Draws:
    names = np.unique(np.concatenate(labels))
    G = len(names)
    counts = rng.multinomial(G, np.full(G, 1 / G), resamples).astype(float)
    out, ok, refits, factor = [], [], [], 1.0
    if inflate:
        from scipy import stats

        factor = float(np.sqrt(G / (G - 1)) * stats.t.ppf(0.975, G - 1) / stats.norm.ppf(0.975))
    for s, label in zip(solved, labels, strict=True):
        refit = minimise(
            s.block,
            np.repeat(s.u[None], resamples, 0),
            s.delta,
            W=counts[:, np.searchsorted(names, label)],
            tol=1e-10,
            **_box(s.block, solved[0].block, refits, resamples),
        )
        refits.append(refit.u)
        out.append(_inside(s.block, s.u + factor * (refit.u - s.u)))
        ok.append(refit.decrement < GOOD)
    method = f"bootstrap of {G} {'families, widened by √(G/(G−1))·t/z' if inflate else 'runs'}"
    return Draws(u=tuple(out), method=method, clusters=G, converged=float(np.mean(ok)))


def _one_step(
    solved: tuple[Solved, ...], unit: str, resamples: int, rng: np.random.Generator
) -> Draws:
    labels = [s.cluster if unit == "family" else s.run for s in solved]
    names = np.unique(np.concatenate(labels))
    if len(names) == 1:
        labels = [s.run for s in solved]
        names = np.unique(np.concatenate(labels))
    G = len(names)
    out: list[Array] = []
    for s, label in zip(solved, labels, strict=True):
        free, H, scores = _scores(s, np.searchsorted(names, label), G)
        steps = np.zeros((G, len(s.u)))
        steps[:, free] = -np.linalg.solve(H, scores[..., None])[..., 0]
        cov = steps.T @ steps * (G - 1) / G
        out.append(_gaussian(s, cov, G - 1, resamples, rng, solved[0].block, out))
    method = (
        f"one-step jackknife of {G:,} {'families' if unit == 'family' else 'runs'} (CR3): {len(solved[0].run):,} rows are "
        f"too many for {resamples:,} refits"
    )
    return Draws(u=tuple(out), method=method, clusters=G, converged=1.0)


def _scores(s: Solved, label: Array, G: int) -> tuple[Array, Array, Array]:
    """Free parameters, and without each cluster: curvature (G or 1, p, p) and gradient (G, p)."""
    J = s.block.jacobian(s.u[None])[1][0]
    r = s.block.y - s.block.predict(s.u[None])[0]
    psi = np.clip(r, -s.delta, s.delta)
    free = np.flatnonzero((s.u > s.block.lower) & (s.u < s.block.upper))
    W = np.ones((1, len(r)))
    H = derivatives(s.block, s.u[None], s.delta, W, True)[2][:, free[:, None], free]
    H = H + 1e-10 * np.eye(len(free)) * np.abs(np.einsum("bii->bi", H))[:, None, :]
    J = J[free]
    scores = np.stack([np.bincount(label, row * psi, G) for row in J], 1)
    if G <= SMALL:
        inside = (psi == r).astype(float)
        own = [[np.bincount(label, a * b * inside, G) for b in J] for a in J]
        H = H - np.array(own).transpose(2, 0, 1)
    return free, H, scores


def _gaussian(
    s: Solved,
    cov: Array,
    freedom: int,
    resamples: int,
    rng: np.random.Generator,
    first: Block,
    done: list[Array],
) -> Array:
    """Draws of Student's t with this covariance, inside the bounds."""
    ev, V = np.linalg.eigh(cov)
    z = rng.standard_normal((resamples, len(s.u)))
    z /= np.sqrt(rng.chisquare(freedom, (resamples, 1)) / freedom)
    own = s.u + (z * np.sqrt(np.maximum(ev, 0))) @ V.T
    if s.block.held:  # what the first block's error does to the second's minimum
        start = np.repeat(s.u[None], resamples, 0)
        own = (
            own + minimise(s.block, start, s.delta, **_box(s.block, first, done, resamples)).u - s.u
        )
    return _inside(s.block, own)


def _wald(solved: tuple[Solved, ...], resamples: int, rng: np.random.Generator) -> Draws:
    out = []
    for s in solved:
        n, p = len(s.block.y), len(s.u)
        _, J = s.block.jacobian(s.u[None])
        W = np.ones((1, n))
        H = derivatives(s.block, s.u[None], s.delta, W, True)[2][0]
        psi = np.clip(s.block.y - s.block.predict(s.u[None])[0], -s.delta, s.delta)
        free = (s.u > s.block.lower) & (s.u < s.block.upper)
        p = int(free.sum())
        meat = (J[0] * psi**2) @ J[0].T * n / max(n - p, 1)
        cov = np.zeros((len(s.u), len(s.u)))
        bread = np.linalg.pinv(H[np.ix_(free, free)], hermitian=True)
        cov[np.ix_(free, free)] = bread @ meat[np.ix_(free, free)] @ bread
        out.append(_gaussian(s, cov, max(n - p, 1), resamples, rng, solved[0].block, out))
    return Draws(
        u=tuple(out),
        method="sandwich of independent rows (Wald)",
        clusters=len(solved[0].run),
        converged=1.0,
    )


def _box(block: Block, first: Block, done: list[Array], members: int) -> dict[str, Any]:
    """Bounds of each member: a held parameter stands where the same member of the first block has it."""
    if not block.held:
        return {}
    lo, hi = (np.repeat(end[None], members, 0) for end in (block.lower, block.upper))
    place = {q.name: j for j, q in enumerate(first.params)}
    for j, q in enumerate(block.params):
        if q.name in block.held:
            lo[:, j] = hi[:, j] = done[0][:, place[q.name]]
    return {"lower": lo, "upper": hi}


def _inside(block: Block, u: Array) -> Array:
    return np.where(
        [q.name in block.held for q in block.params], u, np.clip(u, block.lower, block.upper)
    )
