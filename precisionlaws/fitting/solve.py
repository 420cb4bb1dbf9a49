"""One batched solver for every law: screening, then damped Newton inside a box.

`minimise` moves all members of a batch (starts, resamples, profile points) at once. A step solves the
Gauss-Newton system, or with `exact` the Newton system with |eigenvalues|; bounds are an active set; a
member that leaves the law's domain gets NaN and turns back. `search` finds the minimum from scratch:
coefficients in which a law is linear are solved for at each of many points of the others (variable
projection), the best starts then descend through decreasing Huber thresholds.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from precisionlaws.fitting.objective import Block, huber
from precisionlaws.laws.base import Array

STARTS = 16
PATIENCE = 500  # Gauss-Newton steps: the valley of E and α is long and curved
SCREENED = 768
THIN = 20_000  # rows: with more, starts descend on so many of them
POLISHED = 3  # places that then descend on all
RESCALE = 4  # steps between two scalings: the damping makes up for one that lags
MET = 1e-4  # two starts this close, in u and relatively in value, are at one place
NOTHING = 1e-12  # objective per row below which nothing is left to explain: residuals of 1e-6
FLOATS = 120_000  # floats of one Jacobian chunk: what stays in the L2 cache


@dataclass(frozen=True, kw_only=True)
class Solution:
    """Minima of a batch."""

    u: Array  # (B, p)
    value: Array  # (B,)
    converged: Array  # (B,) Newton decrement below tolerance
    decrement: Array  # (B,) relative to the value


def joint(parts: Sequence[Solution]) -> Solution:
    """Several batches as one."""
    names = Solution.__dataclass_fields__
    return Solution(**{k: np.concatenate([getattr(part, k) for part in parts]) for k in names})


def minimise(
    block: Block,
    u: Array,
    delta: float,
    *,
    W: Array | None = None,
    y: Array | None = None,
    lower: Array | None = None,
    upper: Array | None = None,
    exact: bool = False,
    tol: float = 1e-10,
    steps: int = 80,
) -> Solution:
    """Local minima from the rows of `u`; W and y (the block's, unless given) are (n,) or (B, n), bounds (p,) or (B, p)."""
    B, p = u.shape
    y = block.y if y is None else y
    W = np.ones(len(block.y)) if W is None else W
    lo = np.broadcast_to(block.lower if lower is None else lower, (B, p))
    hi = np.broadcast_to(block.upper if upper is None else upper, (B, p))
    u = np.clip(u, lo, hi)
    out = Solution(
        u=u.copy(),
        value=np.full(B, np.inf),
        converged=np.zeros(B, bool),
        decrement=np.full(B, np.inf),
    )
    live, damping = np.arange(B), np.full(B, 1e-3)
    rounding = 1e-30 * len(block.y) * max(1.0, float(np.abs(block.y).max()) ** 2)
    F, g, H, diag = _evaluate(block, u, delta, W, y, live, exact, True)
    for it in range(steps):
        step, decrement = _step(u, g, H, diag, damping, lo, hi, exact)
        trial = np.clip(u + step, lo, hi)
        small = (decrement <= tol * F + rounding) & (damping < 1)
        last = small | (damping > 1e10) | (it == steps - 1)
        if last.any():  # of the place of a last step only the value is wanted
            at = live[last]
            value = _values(block, trial[last], delta, W, y, at)
            better = value <= F[last]
            out.u[at] = np.where(better[:, None], trial[last], u[last])
            out.value[at] = np.where(better, value, F[last])
            out.converged[at] = small[last]
            out.decrement[at] = decrement[last] / (out.value[at] + NOTHING * len(block.y))
            go = ~last
            if not go.any():
                break
            live, u, trial, F, g, H, diag, damping, lo, hi = (
                a[go] for a in (live, u, trial, F, g, H, diag, damping, lo, hi)
            )
        F2, g2, H2, diag2 = _evaluate(block, trial, delta, W, y, live, exact, it % RESCALE == 0)
        moved = trial - u
        with np.errstate(all="ignore"):
            bend = np.matmul(H, moved[..., None])[..., 0]
            gain = (F - F2) / -(moved * (g + 0.5 * bend)).sum(1)
        better = np.isfinite(F2) & (F2 <= F) & np.isfinite(H2).all((1, 2))
        damping = np.select(
            [~better, gain > 0.6, gain < 0.2],
            [np.maximum(damping, 1e-4) * 8, damping * 0.1, damping * 3],
            damping,
        )
        damping = np.where(damping < 1e-9, 0.0, damping)
        u, g, diag = (
            np.where(better[:, None], new, old)
            for new, old in ((trial, u), (g2, g), (diag if diag2 is None else diag2, diag))
        )
        F, H = np.where(better, F2, F), np.where(better[:, None, None], H2, H)
    return out


def _evaluate(
    block: Block,
    u: Array,
    delta: float,
    W: Array,
    y: Array,
    members: Array,
    exact: bool,
    scaling: bool,
) -> list[Any]:
    """`derivatives` of some members of the batch, as many at once as the cache holds."""
    parts = [
        derivatives(block, u[own], delta, w, exact, v, scaling)
        for own, w, v in _parts(block, u, W, y, members)
    ]
    return [None if a[0] is None else np.concatenate(a) for a in zip(*parts, strict=True)]


def _values(block: Block, u: Array, delta: float, W: Array, y: Array, members: Array) -> Array:
    """The objective alone, infinite outside the law's domain."""
    with np.errstate(all="ignore"):
        parts = [
            huber(v - block.fitted(u[own]), w, delta)
            for own, w, v in _parts(block, u, W, y, members)
        ]
    value = np.concatenate(parts)
    return np.where(np.isfinite(value), value, np.inf)


def _parts(
    block: Block, u: Array, W: Array, y: Array, members: Array
) -> Iterator[tuple[slice, Array, Array]]:
    """Members in parts that the cache holds, with the weights and the y of each."""
    few = block.repeats.block if block.repeats else block
    size = max(1, FLOATS // (u.shape[1] * len(few.y)))
    for i in range(0, len(u), size):
        own = slice(i, i + size)
        w, v = (a[members[own]] if a.ndim > 1 and len(a) > 1 else a for a in (W, y))
        yield own, w, v


def _step(
    u: Array, g: Array, H: Array, diag: Array, damping: Array, lo: Array, hi: Array, exact: bool
) -> tuple[Array, Array]:
    """A damped step (B, p) and the Newton decrement (B,), both over the parameters that are free to move."""
    p = u.shape[1]
    held = ((u <= lo) & (g > 0)) | ((u >= hi) & (g < 0)) | (lo == hi)
    d = np.maximum(diag, 1e-12 * diag.max(1, keepdims=True)) + 1e-300
    d = np.fmax(d, np.einsum("bii->bi", H))  # where the scaling lags behind
    s = np.where(held, 0.0, 1 / np.sqrt(d))
    scaled = H * s[:, :, None] * s[:, None, :]
    scaled[:, range(p), range(p)] += held
    gs = g * s
    scaled = np.where(np.isfinite(scaled), scaled, 0.0)
    gs = np.where(np.isfinite(gs), gs, 0.0)
    if exact:
        ev, V = np.linalg.eigh(scaled)
        ev = np.maximum(np.abs(ev), 1e-12)
        t = np.einsum("bij,bi->bj", V, gs)
        decrement = (t * t / ev).sum(1)
        step = -np.einsum("bij,bj->bi", V, t / (ev + damping[:, None])) * s
    else:
        scaled[:, range(p), range(p)] += damping[:, None] + 1e-12
        step = -np.linalg.solve(scaled, gs[..., None])[..., 0] * s
        decrement = -(g * step).sum(1)
    longest = np.abs(step).max(1)
    return step * np.minimum(1, 1.5 / np.maximum(longest, 1e-300))[:, None], decrement


def derivatives(
    block: Block,
    u: Array,
    delta: float,
    W: Array,
    exact: bool,
    y: Array | None = None,
    scaling: bool = True,
) -> tuple[Array, Array, Array, Any]:
    """Objective, gradient, (Gauss-)Newton Hessian, and the diagonal that scales a step (None without `scaling`)."""
    same = block.repeats
    few, total = (same.block, same.total) if same else (block, _as_is)
    f, J = few.jacobian(u)
    with np.errstate(all="ignore"):
        r = (block.y if y is None else y) - (f[:, same.of] if same else f)
        psi = np.clip(r, -delta, delta)
        weighted = W * psi
        F = _dot(weighted, r) - 0.5 * _dot(weighted, psi)
        pulled = total(weighted)
        g = -np.matmul(J, pulled[..., None])[..., 0]
        H = np.matmul(J * total(W * (psi == r))[:, None, :], J.transpose(0, 2, 1))
        diag = None
        if scaling:
            # Rows beyond δ have no curvature of their own; their majoriser keeps the scaling sane.
            pull = W * np.minimum(1.0, delta / np.maximum(np.abs(r), 1e-300))
            diag = np.matmul(J * J, total(pull)[..., None])[..., 0]
    if exact:
        H = H - curvature(few, u, pulled)
    F = np.where(np.isfinite(F), F, np.inf)
    return F, g, H, diag


def _as_is(a: Array) -> Array:
    return a


def _dot(a: Array, b: Array) -> Array:
    """Σ a b over the last axis."""
    return np.einsum("...n,...n->...", a, b)


def curvature(block: Block, u: Array, c: Array, h: float = 1e-5) -> Array:
    """Σ_i c_i ∇²f_i (B, p, p), by central differences of the exact Jacobian."""
    B, p = u.shape
    out = np.empty((B, p, p))
    size = max(1, FLOATS // (2 * B * p * len(block.y)))
    for j in range(0, p, size):
        e = h * np.eye(p)[j : j + size]
        moved = np.stack([u[:, None] + e, u[:, None] - e], 1)  # (B, 2, size, p)
        J = block.jacobian(moved.reshape(-1, p))[1].reshape(*moved.shape, -1)
        c_ = c[:, None, :, None]
        out[:, j : j + size] = np.matmul(J[:, 0] - J[:, 1], c_)[..., 0] / (2 * h)
    return 0.5 * (out + out.transpose(0, 2, 1))


def search(block: Block, delta: float, W: Array | None = None) -> Solution:
    """All starts, best first; `converged` holds at the Newton decrement of the exact Hessian."""
    if len(block.y) > THIN:
        return _search_thinned(block, delta, W)
    return descend(block, starts(block, W), delta, W)


def descend(block: Block, u: Array, delta: float, W: Array | None = None) -> Solution:
    """Where these starts end by way of coarser thresholds, best first."""
    end = np.arange(len(u))  # start -> its place in u
    for d in thresholds(block, delta):
        u, end = merged(minimise(block, u, d, W=W, tol=1e-6, steps=40), end)
    u, end = merged(minimise(block, u, delta, W=W, tol=1e-9, steps=PATIENCE), end)
    found = minimise(block, u, delta, W=W, exact=True, tol=1e-13, steps=120)
    order = end[np.argsort(found.value[end], kind="stable")]
    return Solution(**{name: getattr(found, name)[order] for name in Solution.__dataclass_fields__})


def _search_thinned(block: Block, delta: float, W: Array | None) -> Solution:
    """Starts descend on some rows; the best places they reach descend on all."""
    rows = thinned(block)
    few = search(block.part(rows), delta, None if W is None else W[rows])
    u, end = merged(few, np.arange(len(few.u)))
    best = minimise(block, u[:POLISHED], delta, W=W, tol=1e-9, steps=PATIENCE)
    best = minimise(block, best.u, delta, W=W, exact=True, tol=1e-13, steps=120)
    rest = minimise(block, u[POLISHED:], delta, W=W, steps=1) if len(u) > POLISHED else None
    whole = joint([best] if rest is None else [best, rest])
    found = {k: v[end] for k, v in vars(whole).items()}
    order = np.argsort(found["value"], kind="stable")
    return Solution(**{name: a[order] for name, a in found.items()})


def thinned(block: Block) -> Array:
    """THIN rows at most, as many of each combination of widths as there are, up to an equal share."""
    order = np.random.default_rng(0).permutation(len(block.y))
    order = order[np.argsort(block.index[order], kind="stable")]
    first = np.searchsorted(block.index[order], np.arange(block.index.max() + 1))
    rank = np.arange(len(order)) - first[block.index[order]]
    return np.sort(order[rank < max(THIN // len(first), 1)])


def merged(found: Solution, end: Array) -> tuple[Array, Array]:
    """Starts that have met go on as one: the distinct places, and which of them each start is at."""
    places: list[int] = []
    at = np.full(len(found.u), -1)
    for i in np.argsort(found.value, kind="stable"):
        if at[i] >= 0:
            continue
        with np.errstate(invalid="ignore"):  # a start without a value is alone
            close = np.abs(found.value - found.value[i]) <= MET * np.abs(found.value[i])
        close &= (np.abs(found.u - found.u[i]).max(1) < MET) & (at < 0)
        close[i] = True
        at[close] = len(places)
        places.append(int(i))
    return found.u[places], at[end]


def starts(block: Block, W: Array | None = None) -> Array:
    """The best points of the screening, (STARTS, p)."""
    W = np.ones(len(block.y)) if W is None else W
    u = screen(block, W)
    first = _values(block, u, _coarse(block), W, block.y, np.arange(len(u)))
    return u[np.argsort(first, kind="stable")[:STARTS]]


def _chunks(block: Block) -> list[slice]:
    """The screened points in parts that the cache holds."""
    size = max(1, FLOATS // (5 * len(block.y)))
    return [slice(i, i + size) for i in range(0, SCREENED, size)]


def screen(block: Block, W: Array) -> Array:
    """Starts: a low-discrepancy set over the nonlinear parameters, the linear ones solved for."""
    names = [q.name for q in block.params]
    modules = block.law.paired if block.kind == "delta" else (block.law.base,)
    linear = [j for j, name in enumerate(names) if any(name in m.LINEAR for m in modules)]
    u = np.empty((SCREENED, len(names)))
    points = kronecker(SCREENED, len(names))
    for j, q in enumerate(block.params):
        ends = np.array(q.start) if q.link == "identity" else np.log(q.start)
        u[:, j] = ends[0] + points[:, j] * (ends[1] - ends[0])
    u = np.where([name in block.held for name in names], block.lower, u)
    y = np.exp(block.y) if block.kind == "loss" else block.y
    c = np.concatenate([_linear(block, u[s], linear, y, W) for s in _chunks(block)])
    solved = {block.params[j].name: c[:, k] for k, j in enumerate(linear)}
    if block.kind == "loss" and hasattr(block.law.base, "rescale"):
        with np.errstate(all="ignore"):
            values = {name: v[:, 0] for name, v in block.values(u).items()}
            solved.update(block.law.base.rescale(values, np.maximum(c[:, -1], 1e-6)))
    for j, q in enumerate(block.params):
        if q.name not in solved:
            continue
        floor = 1e-4 * float(np.abs(y).max()) if j in linear and q.link == "log" else q.lower
        v = np.clip(np.nan_to_num(solved[q.name]), max(q.lower, floor), q.upper)
        u[:, j] = np.log(v) if q.link == "log" else v
    return np.clip(u, block.lower, block.upper)


def _linear(block: Block, u: Array, linear: list[int], y: Array, W: Array) -> Array:
    """Least-squares coefficients (B, K) of what `_basis` gives, of relative error for losses."""
    basis = _basis(block, u, linear)  # (B, K, n)
    w = W / y**2 if block.kind == "loss" else W
    with np.errstate(all="ignore"):
        weighted = basis * w
        G = np.matmul(weighted, basis.transpose(0, 2, 1))
        h = np.matmul(weighted, y)
        d = np.sqrt(np.einsum("bkk->bk", G)) + 1e-300
        G = np.nan_to_num(G / d[:, :, None] / d[:, None, :]) + 1e-9 * np.eye(basis.shape[1])
        return np.linalg.solve(G, np.nan_to_num(h / d)[..., None])[..., 0] / d


def _basis(block: Block, u: Array, linear: list[int]) -> Array:
    """What multiplies each linear coefficient, and last the rest if the base can rescale it, (B, K, n)."""
    out, rest = [], []
    with np.errstate(all="ignore"):
        v = block.values(u)
        none = {**v, **{block.params[j].name: np.zeros((len(u), 1)) for j in linear}}
        base, zeros = block.law.base, np.zeros((len(u), len(block.y)))
        if block.kind == "loss" and hasattr(base, "rescale"):
            rest = [_raw(block)(none) + zeros]
        elif block.kind == "loss" and hasattr(base, "basis"):
            unit = base.basis(v, *(block.x[on] * block._scale(v, on) for on in ("N", "D")))
            out = np.empty((len(u), len(linear), len(block.y)))
            for i, k in enumerate(linear):
                out[:, i] = unit[block.params[k].name]
            return out
        for k in linear:
            unit = {**none, block.params[k].name: np.ones((len(u), 1))}
            out.append(_raw(block)(unit) + zeros - (rest[0] if rest else 0))
    return np.stack([*out, *rest], 1)


def _raw(block: Block) -> Callable[[dict[str, Array]], Array]:
    if block.kind == "delta":
        return block._penalty
    return lambda v: block.law.base.loss(
        v, block.x["N"] * block._scale(v, "N"), block.x["D"] * block._scale(v, "D")
    )


def kronecker(n: int, dims: int) -> Array:
    """n points spread evenly over the unit cube (Roberts' R_d sequence): the same on every machine."""
    phi = 2.0
    for _ in range(60):
        phi = (1 + phi) ** (1 / (dims + 1))
    return (0.5 + np.outer(np.arange(1, n + 1), phi ** -np.arange(1.0, dims + 1))) % 1.0


def thresholds(block: Block, delta: float) -> list[float]:
    """Huber thresholds from a coarse one down towards δ: each minimum is a start for the next."""
    if not np.isfinite(delta):
        return []
    coarse = _coarse(block)
    steps = int(np.ceil(np.log(max(coarse / delta, 1.0)) / np.log(6.0)))
    return [coarse * (delta / coarse) ** (i / max(steps, 1)) for i in range(steps)]


def _coarse(block: Block) -> float:
    return 3.0 * float(np.std(block.y)) + 3e-2 if block.kind == "delta" else 3e-2
