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
    """eff at whole widths from the smallest that all quantized roles were trained at, to 16."""

    P: Array  # (W,) bits
    eff: Array  # (W,)
    draws: Array  # (R, W)
    trained: Array  # (W,) all roles were trained at this width
    roles: tuple[str, ...]


def widths(fit: Fit) -> Widths:
    """The efficiencies a fit implies."""
    roles, R = fit.measured, len(next(iter(fit.samples.values())))
    if not fit.law.scales or not roles:
        return Widths(
            P=np.array([OFF]),
            eff=np.ones(1),
            draws=np.ones((R, 1)),
            trained=np.array([True]),
            roles=(),
        )
    P = np.arange(np.ceil(max(min(b) for b in roles.values())), OFF + 1)
    trained = np.array([all(b in known or b >= OFF for known in roles.values()) for b in P])
    if continuous(fit.law):
        eff, draws = (
            efficiency(fit.law, p, P, tuple(roles))
            for p in (_columns(fit.params), _columns(fit.samples))
        )
        eff = eff[0]
    else:
        eff, draws = np.ones(len(P)), np.ones((R, len(P)))
        for role, known in roles.items():
            point, cloud = _monotone(fit, role, known)
            eff, draws = eff * _between(P, known, point[None])[0], draws * _between(P, known, cloud)
        kappa = {b: f"kappa[{''.join(f'{role}{b:g}' for role in roles)}]" for b in P}
        joint = tuple(float(b) for b, name in kappa.items() if name in fit.params)
        if joint:  # what all roles together are worth over the product of their parts
            both = [fit.quantity(kappa[b]) for b in joint]
            at = np.maximum(P, joint[0])
            eff = np.minimum(eff * _between(at, joint, np.array([[v for v, _ in both]]))[0], 1.0)
            draws = np.minimum(draws * _between(at, joint, np.stack([d for _, d in both], 1)), 1.0)
    return Widths(P=P, eff=eff, draws=draws, trained=trained, roles=tuple(roles))


def continuous(law: Law) -> bool:
    """Every scale of the law is a formula in P."""
    return bool(law.scales) and all(term.CONTINUOUS for term in law.scales)


def efficiency(law: Law, params: Mapping[str, Any], P: Any, roles: tuple[str, ...]) -> Array:
    """Scale of N with the given roles at P bits; NaN where the law is undefined."""
    x = {f"P_{role}": P if role in roles else np.array(OFF) for role in ROLES}
    with np.errstate(all="ignore"):
        s = law.scale(params, x) + 0.0 * P
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


def _monotone(fit: Fit, role: str, known: tuple[float, ...]) -> tuple[Array, Array]:
    both = [fit.quantity(f"eff_{role}({b:g})") for b in known]
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
