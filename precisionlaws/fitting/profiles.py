"""Profile likelihoods: how much worse the fit becomes when a parameter is held at another value.

Rows of a family share their noise, so the rise is scaled to the spread that refits without each family
have (Chandler & Bate 2007), and its limit is that of F(1, G − 1) rather than χ²₁. Where an interval of
the draws follows the curvature at the minimum, a profile follows the valley itself. And where a few
refits under a threshold far below the noise hardly move by chance, and so the draws hardly spread, the
spread behind a profile is of all residuals' scores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from precisionlaws.fitting.objective import Block, huber
from precisionlaws.fitting.resample import Solved
from precisionlaws.fitting.simultaneous import blocked
from precisionlaws.fitting.solve import THIN, Solution, joint, minimise
from precisionlaws.laws.base import Array, Param

STEPS = 80
NEAR = np.array([0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0])  # standard errors to either side
WIDE = 14  # points from there to the end of what the law allows


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One parameter: values in its own units, ascending, and the rise of the objective at each."""

    values: tuple[float, ...]
    rise: tuple[float, ...]  # likelihood-ratio statistic, 0 at the minimum
    limit: float  # of `rise`, at 95%
    along: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    # coefficients that go with an exponent (A with α), in their own units, where the rest fits best

    @property
    def interval(self) -> tuple[float, float]:
        """The values that the data do not reject at 95%, between grid points by √rise; ends of the grid if none is rejected."""
        return self._ends(self.values)

    def allowed(self, name: str) -> tuple[float, float]:
        """Least and largest value of what goes along, over the values that are not rejected."""
        every = np.array(self.along[name])
        inside = every[np.array(self.rise) <= self.limit]
        ends = (*inside, *np.exp(self._ends(np.log(every))))
        return float(min(ends)), float(max(ends))

    def _ends(self, values: Sequence[float] | Array) -> tuple[float, float]:
        """`values` where the rise crosses its limit, or at the end of the grid."""
        root = np.sqrt(np.array(self.rise))
        inside = np.flatnonzero(root <= np.sqrt(self.limit))
        a, b = int(inside[0]), int(inside[-1])
        low = float(values[a]) if a == 0 else self._cross(values, root, a - 1, a)
        high = float(values[b]) if b == len(root) - 1 else self._cross(values, root, b, b + 1)
        return low, high

    @property
    def open(self) -> tuple[bool, bool]:
        """No value is rejected below; above."""
        return self.rise[0] <= self.limit, self.rise[-1] <= self.limit

    def _cross(self, values: Sequence[float] | Array, root: Array, a: int, b: int) -> float:
        t = (np.sqrt(self.limit) - root[a]) / (root[b] - root[a])
        return float(values[a] + t * (values[b] - values[a]))


def joined(found: Mapping[str, Profile], q: Param, low: float, high: float) -> tuple[float, float]:
    """An interval of a parameter that also holds what profiles allow: on a ridge or at a bound draws stay near the estimate."""
    ends = [(low, high)]
    if q.name in found:
        ends.append(found[q.name].interval)
    ends += [p.allowed(q.name) for p in found.values() if q.name in p.along]
    return min(e[0] for e in ends), max(e[1] for e in ends)


def profiles(s: Solved) -> dict[str, Profile]:
    """Profiles of a block's parameters, all points in one batch; coefficients go along with their exponents.

    Points beyond six standard errors are tried only on a side that none of the nearer ones closes.
    """
    from scipy import stats

    b = s.block
    chosen = [j for j in b.own if _asked(b.params[j])]
    if not chosen or len(b.y) > THIN:  # with more rows the draws' interval is as good
        return {}
    cluster = blocked(s.cluster)
    G = int(cluster.max()) + 1
    dof = G - 1 if G > 1 else max(len(b.y) - len(b.own), 1)
    limit = float(stats.f.ppf(0.95, 1, dof))
    naive, robust, slope, noise, C = _spreads(s, cluster)
    least = float(huber(b.y - b.predict(s.u[None]), np.ones(len(b.y)), s.delta)[0])
    near = {j: _near(b, s.u, j, np.sqrt(max(naive[j], robust[j]))) for j in chosen}
    bends: dict[int, float] = {}

    def risen(j: int, found: Solution) -> Array:
        away = found.u[:, j] - s.u[j]
        twice = 2 * np.maximum(found.value - least, 0.0)
        if j not in bends:
            bends[j] = _slope(twice, away**2, C[j, j], robust[j], slope)
        rise = twice * bends[j] / noise * naive[j] / robust[j]
        return np.where(away == 0, 0.0, np.where(np.isfinite(rise), rise, 1e300))

    found = _held(s, near, dict.fromkeys(near, s.u), C)
    rise = {j: risen(j, one) for j, one in found.items()}
    for end, reach in ((0, b.lower), (-1, b.upper)):
        open_ = [j for j in chosen if rise[j][end] <= limit and found[j].u[end, j] != reach[j]]
        far = {j: _far(found[j].u[end, j], reach[j]) for j in open_}
        more = _held(s, far, {j: found[j].u[end] for j in open_}, C)
        for j, one in more.items():
            parts = (one, found[j]) if end == 0 else (found[j], one)
            rise[j] = np.concatenate([risen(j, part) for part in parts])
            found[j] = joint(parts)
    out = {}
    for j in chosen:
        name, natural = b.params[j].name, b.natural(found[j].u)
        out[name] = Profile(
            values=tuple(map(float, natural[name])), rise=tuple(map(float, rise[j])), limit=limit,
            along={q: tuple(map(float, natural[q])) for q in _along(b, name)},
        )  # fmt: skip
    return out


def _held(
    s: Solved, grids: Mapping[int, Array], start: Mapping[int, Array], C: Array
) -> dict[int, Solution]:
    """Minima with parameter j held at each point of its grid, ascending."""
    if not grids:
        return {}
    b, held = s.block, np.concatenate(list(grids.values()))
    place = np.repeat(list(grids), [len(g) for g in grids.values()])
    u = np.concatenate([np.repeat(start[j][None], len(g), 0) for j, g in grids.items()])
    at = np.arange(len(held))
    u = u + (held - u[at, place])[:, None] * (C[place] / C[place, place][:, None])
    lo, hi = (np.repeat(end[None], len(held), 0) for end in (b.lower, b.upper))
    u[at, place] = lo[at, place] = hi[at, place] = held
    found = minimise(b, u, s.delta, lower=lo, upper=hi, tol=1e-5, steps=STEPS)
    return {j: Solution(**{k: v[place == j] for k, v in vars(found).items()}) for j in grids}


def _along(b: Block, exponent: str) -> list[str]:
    """Coefficients whose value at one parameter or token is extrapolated with this exponent."""
    names = [q.name for q in b.params if any(e == exponent for _, e, _ in q.centre)]
    return [name for name in names if name not in b.held]


def _asked(q: Param) -> bool:
    """Not of a coefficient, which goes along, nor of what is measured from another parameter."""
    return not q.centre and q.link != "below"


def _near(b: Block, u: Array, j: int, se: float) -> Array:
    """Points around the minimum; where a bound cuts a side short, it is filled evenly."""
    away, lower, upper = se * NEAR, b.lower[j], b.upper[j]
    points = [u[j] - away, u[j : j + 1], u[j] + away]
    if u[j] - away[-1] < lower:
        points.append(np.linspace(lower, u[j], len(NEAR), endpoint=False))
    if u[j] + away[-1] > upper:
        points.append(np.linspace(upper, u[j], len(NEAR), endpoint=False))
    return np.unique(np.clip(np.concatenate(points), lower, upper))


def _far(end: float, bound: float) -> Array:
    """Points between the last of the near ones and the end of what the law allows, ascending."""
    return np.sort(np.linspace(end, bound, WIDE + 1)[1:])


def _slope(twice: Array, squared: Array, C: float, variance: float, slope: float) -> float:
    """Mean ψ′ over one or two standard errors: at the minimum alone it says little of a threshold far below the noise."""
    z2 = squared / variance
    near = (z2 > 0.2) & (z2 < 5)
    if not near.any():
        return slope
    return float(np.clip(np.median(twice[near] * C / squared[near]), slope / 4, slope * 4))


def _spreads(s: Solved, cluster: Array) -> tuple[Array, Array, float, float, Array]:
    """Variances of u, rows independent and by family; mean ψ′ and ψ²; and (JᵀJ)⁻¹.

    The robust objective is treated as least squares on ψ/ψ′ (Heritier & Ronchetti 1994), whose 2 ΔF·ψ′/ψ² is χ²₁
    where rows are independent.
    """
    b, u = s.block, s.u
    n = len(b.y)
    J = b.jacobian(u[None])[1][0][list(b.own)]
    r = b.y - b.predict(u[None])[0]
    psi = np.clip(r, -s.delta, s.delta)
    slope = max(float(np.mean(psi == r)), 1 / n)
    noise = max(float((psi**2).sum()) / max(n - len(J), 1), 1e-300)
    K = J @ J.T
    d = 1 / np.sqrt(np.maximum(np.diag(K), 1e-300))

    def inverse(M: Array) -> Array:
        return np.linalg.pinv(M * d[:, None] * d, rcond=1e-12, hermitian=True) * d[:, None] * d

    C = inverse(K)
    G = int(cluster.max()) + 1
    naive = np.diag(C) * noise
    robust = naive
    if G > 1:
        parts = [J[:, cluster == g] for g in range(G)]
        moves = [inverse(K - P @ P.T) @ P @ psi[cluster == g] for g, P in enumerate(parts)]
        robust = (G - 1) / G * (np.array(moves) ** 2).sum(0)
    full = np.zeros((len(u), len(u)))
    full[np.ix_(b.own, b.own)] = C
    wide = [np.full(len(u), np.nan), np.full(len(u), np.nan)]
    for out, v in zip(wide, (naive, np.maximum(robust, 1e-300)), strict=True):
        out[list(b.own)] = v / slope**2
    return wide[0], wide[1], slope, noise, full
