"""What is minimised: Σ w_i huber_δ(y_i − f_i(u)), with f and its Jacobian for many u at once.

A fit has one or two blocks. The loss block holds the base, its scales and what training at low
precision adds, y = log loss. The delta block holds what rounding costs, y = δ/sd: paired differences,
never the total loss, whose noise is many times larger. Where rounding acts on N_eff, the delta block
carries the scales too, each held at its value in the loss block. u is the unconstrained form of the parameters (`Param.link`), N and D are in units of
their geometric means, and derivatives of a law that gives none come from a complex step, exact to
rounding; those of a scale need only the distinct bit widths, not every row.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from precisionlaws.laws.base import BITS, Array, Law, Param

STEP = 1e-30  # of the complex step: no difference is taken, so no cancellation
REPEATED = 0.7  # of the rows: with more that differ, sums over rows that repeat gain nothing


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
    held: Mapping[str, float] = field(default_factory=dict)  # parameters that do not move, as u

    @cached_property
    def logs(self) -> dict[str, Array]:
        """log N and log D."""
        return {on: np.log(self.x[on]) for on in ("N", "D")}

    @cached_property
    def repeats(self) -> "Repeats | None":
        """Rows with the same fitted values, such as the seeds of a design; None where few repeat."""
        code, first = np.zeros(len(self.y), int), np.arange(len(self.y))
        for v in (*(v for k, v in self.x.items() if k != "loss"), self.sd):
            if v is not None and np.ndim(v):
                more = np.ravel(np.unique(v, return_inverse=True)[1])
                _, first, code = np.unique(
                    code * (more.max() + 1) + more, return_index=True, return_inverse=True
                )
                code = np.ravel(code)
        if len(first) > REPEATED * len(self.y):
            return None
        order = np.argsort(code, kind="stable")
        return Repeats(
            block=self.part(first), of=code, order=order,
            start=np.searchsorted(code[order], np.arange(len(first))),
        )  # fmt: skip

    def part(self, rows: Array) -> "Block":
        """The same objective over some of the rows."""
        x = {k: v[rows] if np.ndim(v) else v for k, v in self.x.items()}
        sd = None if self.sd is None else self.sd[rows]
        return replace(self, x=x, y=self.y[rows], index=self.index[rows], sd=sd)

    @cached_property
    def lower(self) -> Array:
        return self._bound("lower")

    @cached_property
    def upper(self) -> Array:
        return self._bound("upper")

    @property
    def own(self) -> tuple[int, ...]:
        """Places of the parameters that this block determines."""
        return tuple(j for j, q in enumerate(self.params) if q.name not in self.held)

    def _bound(self, end: str) -> Array:
        ends = [
            self.held.get(
                q.name, getattr(q, end) if q.link == "identity" else np.log(getattr(q, end))
            )
            for q in self.params
        ]
        return np.array(ends)

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
                power = v[exponent] if exponent else 1.0
                v[q.name] = v[q.name] * self.centre[column] ** (sign * power)
        return {name: value[:, 0] for name, value in v.items() if name not in self.held}

    def predict(self, u: Array) -> Array:
        """f (B, n)."""
        with np.errstate(all="ignore"):
            v = self.values(u)
            if self.kind == "delta":
                return self._penalty(v)
            if not self.law.added and hasattr(self.law.base, "grad"):
                return np.log(
                    self.law.base.grad(v, *map(partial(self._log, v), ("N", "D")))["loss"]
                )
            N, D = (self.x[on] * self._scale(v, on) for on in ("N", "D"))
            total = self.law.base.loss(v, N, D) + self._sum(self.law.added, v)
            return np.log(total) + np.zeros((len(u), 1))

    def fitted(self, u: Array) -> Array:
        """`predict`, made once for rows that repeat."""
        same = self.repeats
        return same.block.predict(u)[:, same.of] if same else self.predict(u)

    def jacobian(self, u: Array) -> tuple[Array, Array]:
        """f (B, n) and df/du (B, p, n)."""
        with np.errstate(all="ignore"):
            if self.kind == "delta" or self.law.added or not hasattr(self.law.base, "grad"):
                J = np.zeros((len(u), len(self.params), len(self.y)))
                J[:, self.own] = _complex_step(self.predict, u, self.own)
                return self.predict(u), J
            v = self.values(u)
            grad = self.law.base.grad(v, *(self._log(v, on) for on in ("N", "D")))
            inverse = 1 / grad["loss"]
            J = np.empty((len(u), len(self.params), inverse.shape[1]))
            for j, q in enumerate(self.params):
                np.multiply(grad.get(q.name, 0.0), inverse, out=J[:, j])
            scales = [j for j, q in enumerate(self.params) if q.name not in grad]
            for on in ("N", "D") if scales else ():
                if any(on == term.ON for term in self.law.scales):
                    steps = self._scale_slopes(u, v, on, scales)
                    J[:, scales] += steps[:, :, self.index] * (grad[on]() * inverse)[:, None, :]
            return np.log(grad["loss"]), J

    def _log(self, v: Mapping[str, Any], on: str) -> Array:
        """log of N or D, scaled."""
        if not any(on == term.ON for term in self.law.scales):
            return self.logs[on]
        return self.logs[on] + np.log(self._distinct_scale(v, on))[:, self.index]

    def _scale_slopes(self, u: Array, v: Mapping[str, Any], on: str, scales: list[int]) -> Array:
        """d ln scale / d u_j of each distinct combination of widths, (B, len(scales), combinations)."""
        terms = self.law.on(on)
        if not all(hasattr(term, "slopes") for term in terms):
            return _complex_step(
                lambda z: np.log(self._distinct_scale(self.values(z), on)), u, scales
            )
        given = {k: s for term in terms for k, s in term.slopes(v, self.distinct).items()}
        shape = (len(u), len(self.distinct["P_w"]))
        names = [self.params[j].name for j in scales]
        return np.stack([np.broadcast_to(given.get(name, 0.0), shape) for name in names], 1)

    def _scale(self, v: Mapping[str, Any], on: str) -> Any:
        if not any(on == term.ON for term in self.law.scales):
            return 1.0
        return self._distinct_scale(v, on)[:, self.index]

    def _distinct_scale(self, v: Mapping[str, Any], on: str) -> Array:
        # Outside its domain a law has no value; NaN makes the solver turn back there.
        s = self.law.scale(v, self.distinct, on) * np.ones_like(self.distinct["P_w"])
        return np.where(np.real(s) > 0, s, np.nan) + np.zeros((len(next(iter(v.values()))), 1))

    def _penalty(self, v: Mapping[str, Any]) -> Any:
        return self._sum(self.law.paired, v) / self.sd

    def _sum(self, terms: tuple[Any, ...], v: Mapping[str, Any]) -> Any:
        """Nats that these penalties add."""
        at = [self.x["N"], self.x["D"]]
        if terms and self.law.penalties_on == "effective":
            at = [self.x[on] * self._scale(v, on) for on in ("N", "D")]
        total: Any = 0.0
        for term in terms:
            total = total + term.penalty(v, *at, self.x)
        return total


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """A block of distinct rows, and which of them each row of the whole is."""

    block: Block
    of: Array  # (n,)
    order: Array  # (n,) rows, those of one place together
    start: Array  # (m,) where each place starts in `order`

    def total(self, a: Array) -> Array:
        """Sums (..., m) over the rows (..., n) of each place."""
        return np.add.reduceat(a[..., self.order], self.start, axis=-1)


def on_effective(law: Law) -> bool:
    """Rounding acts on N_eff, so that δ depends on what the losses say of the scales."""
    return bool(law.paired and law.scales and law.penalties_on == "effective")


def block(
    kind: str,
    law: Law,
    table: Any,
    centre: Mapping[str, float],
    sd: Array | None = None,
    held: Mapping[str, float] | None = None,
) -> Block:
    """The loss or the delta block of a bound law over the rows of a table.

    held: parameters of scales and their u, for a delta block on N_eff.
    """
    modules = (law.base, *law.scales, *law.added) if kind == "loss" else law.paired
    x = law.read(table, "loss", *BITS)
    own = {q.name for m in modules for q in m.params(x)} | set(held or {})
    combos, index = np.unique(np.stack([x[c] for c in BITS], 1), axis=0, return_inverse=True)
    y = np.log(x["loss"]) if sd is None else np.asarray(table["delta_ptq"], float) / sd
    return Block(
        kind=kind, law=law, params=tuple(q for q in law.params if q.name in own), y=y, sd=sd, centre=centre,
        x={**x, "N": x["N"] / centre["N"], "D": x["D"] / centre["D"]}, held=dict(held or {}),
        distinct={c: combos[:, i] for i, c in enumerate(BITS)}, index=np.ravel(index),
    )  # fmt: skip


def check_count(b: Block) -> None:
    if len(b.y) < len(b.own):
        what = "losses" if b.kind == "loss" else "paired δ"
        names = ", ".join(b.params[j].name for j in b.own)
        raise ValueError(
            f"{len(b.y)} {what} cannot determine {len(b.own)} parameters ({names}); train more runs or take a smaller law"
        )


def huber(r: Array, W: Array, delta: float) -> Array:
    """Σ w huber_δ(r) over the last axis; δ = ∞ is half the sum of squares."""
    psi = np.clip(r, -delta, delta)
    return np.einsum("...n,...n->...", W * psi, r - 0.5 * psi)


def _complex_step(fn: Callable[[Array], Any], u: Array, which: Sequence[int]) -> Array:
    """d fn / d u_j for each j of `which`, (B, len(which), n) (Squire & Trapp 1998)."""
    out = []
    for j in which:
        z = u.astype(complex)
        z[:, j] += 1j * STEP
        out.append(np.imag(fn(z)) / STEP)
    return np.stack(out, 1)
