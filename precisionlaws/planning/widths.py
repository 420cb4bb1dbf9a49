"""Efficiency against bits, eff(P): what multiplies N when every quantized role has P bits.

A law with a formula in P gives it at any width. A form-free law gives it at the widths that were
trained: made monotone in bits (isotonic regression, all roles at once in the metric of their
covariance, so that a product the data know outlives factors that they do not), at most 1, 1 at 16
bits, and between two trained widths taken as linear in 2^−P, the step of an integer format; such
widths are flagged as interpolated.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from precisionlaws.fitting import Fit
from precisionlaws.laws import OFF, Law
from precisionlaws.laws.base import ROLES, Array, columns

FREE = 1e2  # variance of ln eff in directions that the data leave open: any


@dataclass(frozen=True, kw_only=True, eq=False)
class Widths:
    """Scales at whole widths from the smallest that all quantized roles were trained at, to 16."""

    P: Array  # (W,) bits
    eff: Array  # (W,) of N
    draws: Array  # (R, W)
    data: Array  # (W,) of D
    data_draws: Array  # (R, W)
    trained: Array  # (W,) all roles were trained at this width
    roles: tuple[str, ...]

    @property
    def point_scales(self) -> tuple[Array, Array]:
        return self.eff[None], self.data[None]

    @property
    def scales(self) -> tuple[Array, Array]:
        return self.draws, self.data_draws


def widths(fit: Fit, within: tuple[str, ...] = ROLES) -> Widths:
    """The efficiencies a fit implies, when its roles that are `within` these have P bits."""
    roles = {r: P for r, P in fit.measured.items() if r in within}
    if not roles or not (fit.law.scales or fit.law.added):
        return _table(fit, np.array([OFF]), np.array([True]), ())
    P = np.arange(np.ceil(max(min(b) for b in roles.values())), OFF + 1)
    trained = np.array([all(b in known or b >= OFF for known in roles.values()) for b in P])
    if any(
        not t.CONTINUOUS for t in fit.law.added
    ):  # formats, of which only those measured are known
        together = np.array([b >= OFF or _jointly(fit, roles, b) for b in P])
        P, trained = P[together], trained[together]
    return _table(fit, P, trained, tuple(roles))


def _table(fit: Fit, P: Array, trained: Array, roles: tuple[str, ...]) -> Widths:
    (eff, draws), (data, data_draws) = (_scale(fit, P, roles, on) for on in ("N", "D"))
    return Widths(
        P=P, eff=eff, draws=draws, data=data, data_draws=data_draws, trained=trained, roles=roles
    )


def _scale(fit: Fit, P: Array, roles: tuple[str, ...], on: str) -> tuple[Array, Array]:
    """Of N or D at the widths P: (W,) and draws (R, W)."""
    terms, R = fit.law.on(on), len(next(iter(fit.samples.values())))
    if not terms or not roles:
        return np.ones(len(P)), np.ones((R, len(P)))
    if all(term.CONTINUOUS for term in terms):
        eff, draws = (
            efficiency(fit.law, p, P, roles, on)
            for p in (_columns(fit.params), _columns(fit.samples))
        )
        return eff[0] + 0.0 * P, draws + np.zeros((R, len(P)))
    eff, draws = np.ones(len(P)), np.ones((R, len(P)))
    for role, (point, cloud) in _monotone(fit, on).items():
        if role in roles:
            known = fit.measured[role]
            eff, draws = eff * _between(P, known, point[None])[0], draws * _between(P, known, cloud)
    kappa = {b: f"kappa[{''.join(f'{role}{b:g}' for role in roles)}]" for b in P}
    if on == "N" and any(name in fit.params for name in kappa.values()):
        # What all roles together are worth over the product of their parts: 1 by the law itself
        # where they were trained together and it has no factor.
        joint = tuple(
            float(b)
            for b, name in kappa.items()
            if b < OFF and (name in fit.params or _jointly(fit, roles, b))
        )
        one = (1.0, np.ones(R))
        both = [fit.quantity(kappa[b]) if kappa[b] in fit.params else one for b in joint]
        at = np.maximum(P, joint[0])
        eff = np.minimum(eff * _between(at, joint, np.array([[v for v, _ in both]]))[0], 1.0)
        draws = np.minimum(draws * _between(at, joint, np.stack([d for _, d in both], 1)), 1.0)
    return eff, draws


def _jointly(fit: Fit, roles: Collection[str], b: float) -> bool:
    """Some run has all these roles, and no other, at b bits."""
    own = [fit.rows.get(f"P_{r}", np.full(len(fit.rows), OFF)) == (b if r in roles else OFF) for r in ROLES]  # fmt: skip
    return bool(np.logical_and.reduce(own).any())


def continuous(law: Law) -> bool:
    """Everything that bits do in training is a formula in P."""
    terms = (*law.scales, *law.added)
    return bool(terms) and all(term.CONTINUOUS for term in terms)


def efficiency(
    law: Law, params: Mapping[str, Any], P: Any, roles: tuple[str, ...], on: str = "N"
) -> Array:
    """Scale of N (or D) with the given roles at P bits; NaN where the law is undefined."""
    x = {f"P_{role}": P if role in roles else np.array(OFF) for role in ROLES}
    with np.errstate(all="ignore"):
        s = law.scale(params, x, on) + 0.0 * P
        return np.where(np.real(s) > 0, s, np.nan)


def isotonic(y: Array, cov: Array, sizes: tuple[int, ...]) -> Array:
    """The rows nearest to the rows of y, (R, n), that are nondecreasing and at most 0 within each of
    the consecutive blocks of the given sizes, in the metric of the covariance `cov`, (n, n)."""
    from scipy.linalg import block_diag, cholesky, solve_triangular
    from scipy.optimize import nnls

    # A block is minus the sums of its steps from each width up to 16 bits; no step is below 0.
    steps = -block_diag(*(np.tri(n).T for n in sizes))
    root = cholesky(cov, lower=True)
    design, target = solve_triangular(root, steps, lower=True), solve_triangular(root, y.T, lower=True)  # fmt: skip
    scale = np.linalg.norm(design, axis=0)
    out = np.empty_like(y)
    for i, one in enumerate(target.T):
        out[i] = steps @ (nnls(design / scale, one)[0] / scale)
    return out


def _monotone(fit: Fit, on: str) -> dict[str, tuple[Array, Array]]:
    """Of each role of the law, the efficiency at its widths, (W,) and draws (R, W).

    Factors that no two runs tell apart are split evenly, and at random between draws, as far as
    monotony lets them: their product is what the data say.
    """
    stem, ends = ("eff", "()") if on == "N" else ("effD", "[]")
    both = [
        fit.quantity(f"{stem}_{r}{ends[0]}{b:g}{ends[1]}") for r, known in fit.measured.items() for b in known
    ]  # fmt: skip
    point, draws = np.log([v for v, _ in both]), np.log(np.stack([d for _, d in both], 1))
    free = _free(fit)
    noise = np.random.default_rng(0).standard_normal(draws.shape)
    y = np.concatenate([point[None] @ (np.eye(len(free)) - free), draws + noise @ free])
    sizes = tuple(len(known) for known in fit.measured.values())
    nearest = np.exp(isotonic(y, _bulk(draws, fit.clusters) + FREE * free, sizes))
    parts = np.split(nearest, np.cumsum(sizes)[:-1], axis=1)
    return {role: (part[0], part[1:]) for role, part in zip(fit.measured, parts, strict=True)}


def _free(fit: Fit) -> Array:
    """Projector onto the combinations of ln efficiencies that no two runs differ in, (n, n)."""
    x = columns(fit.rows, tuple(f"P_{role}" for role in ROLES))
    has = {f"{r}{b:g}": x[f"P_{r}"] == b for r, known in fit.measured.items() for b in known}
    settings = np.unique(np.stack(list(has.values()), 1), axis=0)
    labels = ["".join(name for name, on in zip(has, s, strict=True) if on) for s in settings]
    # What a setting with a factor of its own is worth says nothing of its parts.
    apart = settings[[f"kappa[{label}]" not in fit.params for label in labels]].astype(float)
    _, size, basis = np.linalg.svd(apart - apart[0])
    null = basis[np.sum(size > 1e-9) :]
    return np.asarray(null.T @ null)


def _bulk(draws: Array, clusters: int) -> Array:
    """Covariance of draws (R, n), up to a factor.

    Of the half nearest to their centre: their tails are Student's. Shrunk towards independence, as draws made
    of fewer families than they have columns leave directions empty that are by no means known.
    """
    n = draws.shape[1]
    if len(draws) < 2 * n:
        return np.eye(n)
    inner = draws
    for _ in range(3):
        inverse = np.linalg.pinv(np.atleast_2d(np.cov(inner.T)), hermitian=True)
        away = draws - np.mean(inner, 0)
        distance = np.einsum("ri,ij,rj->r", away, inverse, away)
        inner = draws[distance <= np.median(distance)]
    cov = np.atleast_2d(np.cov(inner.T))
    own = np.diag(np.maximum(np.diag(cov), 1e-12))
    share = n / (n + clusters)
    return (1 - share) * cov + share * own


def _between(P: Array, known: tuple[float, ...], eff: Array) -> Array:
    """eff (R, len(known)) at the widths P, (R, W)."""
    at = -(2.0 ** -np.array([*known, OFF]))
    value = np.concatenate([eff, np.ones((len(eff), 1))], 1)
    x = -(2.0**-P)
    i = np.clip(np.searchsorted(at, x, side="right") - 1, 0, len(known) - 1)
    t = (x - at[i]) / (at[i + 1] - at[i])
    return value[:, i] * (1 - t) + value[:, i + 1] * t


def _columns(p: Mapping[str, Any]) -> dict[str, Array]:
    return {k: np.reshape(v, (-1, 1)) for k, v in p.items()}
