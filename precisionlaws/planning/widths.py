"""Efficiency against bits, eff(P): what multiplies N when every quantized role has P bits.

A law with a formula in P gives it at any width. A form-free law gives it at the widths that were
trained: made monotone in bits (isotonic regression), 1 at 16 bits, and between two trained widths
taken as linear in 2^−P, the step of an integer format; such widths are flagged as interpolated.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from precisionlaws.fitting import Fit
from precisionlaws.laws import OFF, Law
from precisionlaws.laws.base import ROLES, Array


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
    for role in roles:
        known = fit.measured[role]
        point, cloud = _monotone(fit, role, known, on)
        eff, draws = eff * _between(P, known, point[None])[0], draws * _between(P, known, cloud)
    kappa = {b: f"kappa[{''.join(f'{role}{b:g}' for role in roles)}]" for b in P}
    joint = tuple(float(b) for b, name in kappa.items() if on == "N" and name in fit.params)
    if joint:  # what all roles together are worth over the product of their parts
        both = [fit.quantity(kappa[b]) for b in joint]
        at = np.maximum(P, joint[0])
        eff = np.minimum(eff * _between(at, joint, np.array([[v for v, _ in both]]))[0], 1.0)
        draws = np.minimum(draws * _between(at, joint, np.stack([d for _, d in both], 1)), 1.0)
    return eff, draws


def _jointly(fit: Fit, roles: Mapping[str, tuple[float, ...]], b: float) -> bool:
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


def isotonic(y: Array, weight: Array) -> Array:
    """Nearest nondecreasing rows to the rows of y (min-max form of the pool-adjacent-violators fit)."""
    W = y.shape[1]
    total, mass = np.cumsum(y * weight, 1), np.cumsum(weight)
    start, before = np.concatenate([np.zeros((len(y), 1)), total], 1), np.concatenate([[0.0], mass])
    out = np.empty_like(y)
    for i in range(W):
        means = [
            [(total[:, k] - start[:, j]) / (mass[k] - before[j]) for k in range(i, W)]
            for j in range(i + 1)
        ]
        out[:, i] = np.max([np.min(row, axis=0) for row in means], axis=0)
    return out


def _monotone(fit: Fit, role: str, known: tuple[float, ...], on: str) -> tuple[Array, Array]:
    stem, ends = ("eff", "()") if on == "N" else ("effD", "[]")
    both = [fit.quantity(f"{stem}_{role}{ends[0]}{b:g}{ends[1]}") for b in known]
    point, draws = np.array([v for v, _ in both]), np.stack([d for _, d in both], 1)
    q = np.quantile(draws, [0.16, 0.84], axis=0)
    weight = (
        1 / np.maximum((q[1] - q[0]) / 2, 1e-9) ** 2
    )  # of the draws' bulk: their tails are Student's
    return np.minimum(isotonic(point[None], weight)[0], 1.0), np.minimum(
        isotonic(draws, weight), 1.0
    )


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
