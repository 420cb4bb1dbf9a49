"""What is minimised: Σ w_i huber_δ(y_i − f_i(u)), with f and its Jacobian for many u at once.

A fit has one or two blocks. The loss block holds the base and its scales, y = log loss. The delta
block holds the penalties, y = δ/sd: paired differences, never the total loss, whose noise is many
times larger. u is the unconstrained form of the parameters (`Param.link`), N and D are in units of
their geometric means, and derivatives of a law that gives none come from a complex step, exact to
rounding; those of a scale need only the distinct bit widths, not every row.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from precisionlaws.laws.base import BITS, Array, Law, Param

STEP = 1e-30  # of the complex step: no difference is taken, so no cancellation


@dataclass(frozen=True, kw_only=True)
class Block:
    """One objective over its own parameters and rows; arrays are (B, p) in u and (B, n) in f."""

    kind: str  # loss | delta
    law: Law
    params: tuple[Param, ...]
    x: Mapping[str, Array]  # N and D in units of `centre`
    y: Array
    centre: Mapping[str, float]
    distinct: Mapping[str, Array]  # distinct combinations of widths
    index: Array  # row → combination
    sd: Array | None = None  # delta block: noise of each δ, nats

    @property
    def lower(self) -> Array:
        return np.array([np.log(q.lower) if q.link != "identity" else q.lower for q in self.params])

    @property
    def upper(self) -> Array:
        return np.array([np.log(q.upper) if q.link != "identity" else q.upper for q in self.params])

    def values(self, u: Array) -> dict[str, Any]:
        """Parameters in centred units, each (B, 1)."""
        out: dict[str, Any] = {}
        for j, q in enumerate(self.params):
            v = u[:, j : j + 1]
            out[q.name] = v if q.link == "identity" else np.exp(v)
            if q.link == "below":
                out[q.name] = q.at / out[q.of] - out[q.name]
        return out

    def natural(self, u: Array) -> dict[str, Array]:
        """Parameters in the law's own units, each (B,)."""
        v = self.values(u)
        for q in self.params:
            for column, exponent, sign in q.centre:
                v[q.name] = v[q.name] * self.centre[column] ** (sign * v[exponent])
        return {name: value[:, 0] for name, value in v.items()}

    def predict(self, u: Array) -> Array:
        """f (B, n)."""
        with np.errstate(all="ignore"):
            v = self.values(u)
            if self.kind == "delta":
                return self._penalty(v)
            N, D = (self.x[on] * self._scale(v, on) for on in ("N", "D"))
            return np.log(self.law.base.loss(v, N, D)) + np.zeros((len(u), 1))

    def jacobian(self, u: Array) -> tuple[Array, Array]:
        """f (B, n) and df/du (B, p, n)."""
        with np.errstate(all="ignore"):
            if self.kind == "delta" or not hasattr(self.law.base, "grad"):
                return self.predict(u), _complex_step(self.predict, u)
            v = self.values(u)
            N, D = (self.x[on] * self._scale(v, on) for on in ("N", "D"))
            grad = self.law.base.grad(v, N, D)
            total = grad["loss"] + np.zeros((len(u), 1))
            J = np.zeros((len(u), len(self.params), total.shape[1]))
            scales = [j for j, q in enumerate(self.params) if q.name not in grad]
            for j, q in enumerate(self.params):
                if q.name in grad:
                    J[:, j] = grad[q.name] * (v[q.name] if q.link == "log" else 1.0) / total
            for on in ("N", "D") if scales else ():
                if any(on == term.ON for term in self.law.scales):
                    steps = _complex_step(
                        lambda z, on=on: np.log(self._distinct_scale(self.values(z), on)), u, scales
                    )
                    J[:, scales] += steps[:, :, self.index] * (grad[on] / total)[:, None, :]
            return np.log(total), J

    def _scale(self, v: Mapping[str, Any], on: str) -> Any:
        if not any(on == term.ON for term in self.law.scales):
            return 1.0
        return self._distinct_scale(v, on)[:, self.index]

    def _distinct_scale(self, v: Mapping[str, Any], on: str) -> Array:
        # Outside its domain a law has no value; NaN makes the solver turn back there.
        s = self.law.scale(v, self.distinct, on) * np.ones_like(self.distinct["P_w"])
        return np.where(np.real(s) > 0, s, np.nan) + np.zeros((len(next(iter(v.values()))), 1))

    def _penalty(self, v: Mapping[str, Any]) -> Any:
        total: Any = 0.0
        for term in self.law.penalties:
            total = total + term.penalty(v, self.x["N"], self.x["D"], self.x)
        return total / self.sd


def block(
    kind: str, law: Law, table: Any, centre: Mapping[str, float], sd: Array | None = None
) -> Block:
    """The loss or the delta block of a bound law over the rows of a table."""
    modules = law.penalties if kind == "delta" else (law.base, *law.scales)
    x = {c: np.asarray(table[c], float) for c in ("N", "D", *BITS)}
    own = {
        q.name for m in modules for q in m.params({**x, "loss": np.asarray(table["loss"], float)})
    }
    combos, index = np.unique(np.stack([x[c] for c in BITS], 1), axis=0, return_inverse=True)
    y = (
        np.log(np.asarray(table["loss"], float))
        if sd is None
        else np.asarray(table["delta_ptq"], float) / sd
    )
    return Block(
        kind=kind, law=law, params=tuple(q for q in law.params if q.name in own), y=y, sd=sd, centre=centre,
        x={**x, "N": x["N"] / centre["N"], "D": x["D"] / centre["D"]},
        distinct={c: combos[:, i] for i, c in enumerate(BITS)}, index=np.ravel(index),
    )  # fmt: skip


def huber(r: Array, W: Array, delta: float) -> Array:
    """Σ w huber_δ(r) over the last axis; δ = ∞ is half the sum of squares."""
    psi = np.clip(r, -delta, delta)
    return (W * psi * (r - 0.5 * psi)).sum(-1)


def _complex_step(fn: Callable[[Array], Any], u: Array, which: list[int] | None = None) -> Array:
    """d fn / d u_j for each j of `which`, (B, len(which), n) (Squire & Trapp 1998)."""
    out = []
    for j in range(u.shape[1]) if which is None else which:
        z = u.astype(complex)
        z[:, j] += 1j * STEP
        out.append(np.imag(fn(z)) / STEP)
    return np.stack(out, 1)
