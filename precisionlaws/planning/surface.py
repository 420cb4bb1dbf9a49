"""The least loss that a budget buys at each width, for any law and any cost model.

Where bits only multiply N or D and cost is 6 N D c(P), `optimum` has the answer in closed form. A head in
16 bits, tokens served, memory, and nats added by training at low precision break that: here N is found
along the budget, where every published loss is convex in log N, by bisection on a derivative that a
complex step gives to rounding; and P likewise, at the N that is best there (the envelope theorem).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from precisionlaws.laws import OFF, Law
from precisionlaws.laws.base import ROLES, Array
from precisionlaws.planning.costs import FLOPS_PER_SERVED, FLOPS_PER_TOKEN, Cost
from precisionlaws.planning.optimum import best_width, split
from precisionlaws.planning.widths import continuous

HALVINGS = 60
STEP = 1e-30j
BITS_PER_BYTE = 8.0

Params = Mapping[str, Any]
Scales = tuple[Any, Any]  # of N and of D


@dataclass(frozen=True, kw_only=True)
class Budget:
    """FLOP-equivalents of a model's training and, with `served` tokens, of its use."""

    flops: Any
    cost: Cost
    served: float = 0.0  # tokens over the life of the model
    head: tuple[float, float] = (0.0, 0.0)  # N_head = a N^b, where the cost model counts it

    @property
    def plain(self) -> bool:
        """C = 6 N D c(P)."""
        return not self.served and not self.cost.head

    def per_token(self, N: Any, P: Any) -> Any:
        """FLOP-equivalents of a trained token."""
        a, b = self.head if self.cost.head else (0.0, 0.0)
        return FLOPS_PER_TOKEN * (N * self.cost.relative(P) + a * np.exp(b * np.log(N)))

    def serving(self, N: Any, P: Any) -> Any:
        a, b = self.head if self.cost.head else (0.0, 0.0)
        size = N * self.cost.served(P) + a * np.exp(b * np.log(N))
        return FLOPS_PER_SERVED * self.served * size

    def D(self, N: Any, P: Any) -> Any:
        """Tokens that are left for N parameters; negative where serving alone costs more."""
        return (self.flops - self.serving(N, P)) / self.per_token(N, P)

    def N(self, D: Any, P: Any) -> Any:
        """Parameters that D tokens leave."""
        if self.plain:
            return self.flops / (FLOPS_PER_TOKEN * self.cost.relative(P) * D)
        shape = np.broadcast_shapes(np.shape(D), np.shape(P), np.shape(self.flops))
        low, high = np.zeros(shape), np.log(self.flops) + np.zeros(shape)
        for _ in range(HALVINGS):
            middle = 0.5 * (low + high)
            fits = self.D(np.exp(middle), P) >= D
            low, high = np.where(fits, middle, low), np.where(fits, high, middle)
        return np.exp(0.5 * (low + high))


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked: a law, a budget, which roles have P bits (from `low` on), what is held.

    `fixed` may hold N, D, and memory: the most bytes that the block weights may take.
    """

    law: Law
    budget: Budget
    roles: tuple[str, ...]
    low: float
    G: float = np.nan  # values per scale, for laws that read it
    fixed: Mapping[str, float] = field(default_factory=dict)

    @property
    def closed(self) -> bool:
        """Bits only multiply, and the budget is N·D·c(P)."""
        return self.budget.plain and not self.law.added and "memory" not in self.fixed

    @property
    def separable(self) -> bool:
        """The best width maximises eff(P)/c(P) for any base and any budget."""
        return self.closed and not self.fixed

    @property
    def smooth(self) -> bool:
        """Any real width can be chosen."""
        return self.budget.cost.smooth and continuous(self.law)

    def most_N(self, P: Any) -> Any:
        """Parameters that fit into memory at P bits."""
        stored = P if "w" in self.roles else P * 0.0 + OFF
        return BITS_PER_BYTE * self.fixed.get("memory", np.inf) / stored


def columns_at(q: Question, p: Params, P: Any) -> dict[str, Any]:
    """What the terms of the law read when the roles have P bits."""
    x: dict[str, Any] = {f"P_{r}": P if r in q.roles else OFF + 0.0 * P for r in ROLES}
    x["P_post"] = np.array(OFF)
    for term in q.law.added:
        x.update(term.at(p, x, q.G) if hasattr(term, "at") else {})
    return x


def scales_at(q: Question, p: Params, P: Any) -> Scales:
    """Scales of N and of D; NaN where undefined."""
    x = columns_at(q, p, P)
    with np.errstate(all="ignore"):
        both = [q.law.scale(p, x, on) + 0.0 * P for on in ("N", "D")]
        return both[0], both[1]


def loss(q: Question, p: Params, N: Any, D: Any, P: Any, s: Scales) -> Any:
    """Before any PTQ, nats per token; complex arguments allowed."""
    eff, data = s
    total = q.law.base.loss(p, N * eff, D * data)
    if not q.law.added:
        return total
    at = (N * eff, D * data) if q.law.penalties_on == "effective" else (N, D)
    x = columns_at(q, p, P)
    return total + sum(t.penalty(p, *at, x) for t in q.law.added)


def solve(q: Question, p: Params, P: Any, s: Scales) -> tuple[Array, Array, Array]:
    """N, D and loss of the best run at each width; arrays broadcast. NaN where a constraint cannot be met."""
    with np.errstate(all="ignore"):
        if q.closed:
            K = q.budget.flops / (FLOPS_PER_TOKEN * q.budget.cost.relative(P))
            rest = {} if len(q.fixed) == 2 else q.fixed
            if len(q.fixed) < 2:
                N, D, value = split(q.law, p, K + 0.0 * s[0], s[0], rest, s[1])
                return N, D, value
        shape = np.broadcast_shapes(np.shape(P), *map(np.shape, (*s, *p.values(), q.budget.flops)))
        if "N" in q.fixed:
            N = np.full(shape, q.fixed["N"])
        elif "D" in q.fixed:
            N = q.budget.N(q.fixed["D"], P) + np.zeros(shape)
        else:
            N = _best_N(q, p, P, s, shape)
        N = np.where(q.most_N(P) * (1 + 1e-9) >= N, N, np.nan if "N" in q.fixed else q.most_N(P))
        left = q.budget.D(N, P)
        D = np.full(shape, q.fixed["D"]) if "D" in q.fixed else left
        D = np.where((left > 0) & (left * (1 + 1e-9) >= D), D, np.nan)
        return N, D, np.real(loss(q, p, N, D, P, s))


def best_P(q: Question, p: Params) -> Array:
    """The best real-valued width in [low, 16] of each draw, (R,); NaN where none can be met."""
    if q.closed:
        c = q.budget.cost.relative
        return best_width(q.law, p, q.budget.flops, c, q.low, q.roles, q.fixed)
    p = {k: np.reshape(v, (-1, 1)) for k, v in p.items()}
    grid = np.append(np.arange(q.low, OFF, 0.5), OFF)[None]
    value = solve(q, p, grid, scales_at(q, p, grid))[2]
    value = np.where(np.isnan(value), np.inf, value)
    best = np.argmin(value, 1)
    inner = np.clip(best, 1, grid.shape[1] - 2)
    left = grid[0, inner - 1][:, None]
    right = np.minimum(grid[0, inner + 1], OFF - 1e-9)[:, None]
    for _ in range(HALVINGS):
        middle = 0.5 * (left + right)
        down = _falls(q, p, middle)
        left, right = np.where(down, middle, left), np.where(down, right, middle)
    P = 0.5 * (left + right)
    # At 16 a role is exactly off, which may beat the formula just below, as may the lowest width.
    inside = solve(q, p, P, scales_at(q, p, P))[2][:, 0]
    inside = np.where(np.isnan(inside), np.inf, inside)
    three = np.stack([inside, value[:, 0], value[:, -1]], 1)
    choice = np.choose(np.argmin(three, 1), [P[:, 0], grid[0, 0], OFF])
    return np.where(np.isinf(three.min(1)), np.nan, choice)


def waste(q: Question, p: Params, star: Any, s: Scales, value: Array) -> Array:
    """Share of the budget that each width wastes: what the best width could do without; (R, W).

    star, s: the best width of each draw, (R, 1), and its scales; value: the losses of the widths, (R, W).
    """
    low, high = np.full(value.shape, -30.0 if q.closed else -12.0), np.zeros(value.shape)
    for _ in range(50 if q.closed else 24):
        middle = 0.5 * (low + high)
        less = replace(q, budget=replace(q.budget, flops=q.budget.flops * np.exp(middle)))
        spent = solve(less, p, star, s)[2]
        worse = np.isnan(spent) | (spent > value)
        low, high = np.where(worse, middle, low), np.where(worse, high, middle)
    return np.where(np.isnan(value), 1.0, np.maximum(-np.expm1(high), 0.0))


def _falls(q: Question, p: Params, P: Array) -> Array:
    """d loss / dP < 0 at the N that is best at P, and with memory or D held at the N that follows P."""
    s = scales_at(q, p, P)
    N, D, _ = solve(q, p, P, s)
    step = P + STEP
    if "D" in q.fixed:
        slope = np.imag(q.budget.D(N, step)) / np.imag(q.budget.D(N + STEP * N, P)) * N
        N = N - STEP * slope
    else:
        if "memory" in q.fixed and "w" in q.roles and "N" not in q.fixed:
            N = np.where(q.most_N(P) * (1 - 1e-9) <= N, N * P / step, N)
        D = q.budget.D(N, step)
    with np.errstate(all="ignore"):
        return np.imag(loss(q, p, N, D, step, scales_at(q, p, step))) < 0


def _best_N(q: Question, p: Params, P: Any, s: Scales, shape: Any) -> Array:
    high = np.log(q.budget.N(1.0, P)) + np.zeros(
        shape
    )  # but for one token's worth, the whole budget
    low = np.zeros(shape)
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        N = np.exp(middle + STEP)
        down = np.imag(loss(q, p, N, q.budget.D(N, P), P, s)) < 0
        low, high = np.where(down, middle, low), np.where(down, high, middle)
    return np.exp(0.5 * (low + high))
