"""What a study would tell before it is run: expected intervals of coefficients, and the worth of each run.

Around the parameters of a prior the losses are linear in them, so a design alone gives the covariance of
what `fit` would find (`sandwich`). Intervals are Student's with one degree of freedom less than there are
families, as those of `fit`.

Not counted: that the law may be wrong, that refits end at bounds, and, where rounding acts on N_eff, the
error that δ inherits from the scales.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from precisionlaws.fitting.objective import Block, block
from precisionlaws.fitting.paired import THRESHOLD
from precisionlaws.laws.base import OFF, ROLES, Array, Params, widths
from precisionlaws.planning.costs import relative_cost
from precisionlaws.planning.optimum import best_width
from precisionlaws.planning.prior import Prior, noise_sd, speakable
from precisionlaws.planning.sandwich import Sums, Table, sandwich, student
from precisionlaws.planning.widths import continuous, efficiency

HUBER = 1e-3  # default threshold of `fit`, in log loss
MOST_SEEDS = 1_000_000
STEP = 1e-5  # of central differences, in u


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Value in the prior, and the 95% interval that the design would give; infinite if it identifies nothing."""

    name: str
    value: float
    low: float
    high: float

    @property
    def half(self) -> float:
        return (self.high - self.low) / 2


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A parameter or what follows from it, with its gradient in u of one block; `log`: positive, so taken as log."""

    name: str
    kind: str  # of the block
    value: float
    log: bool
    gradient: Array  # (p,)

    def interval(self, reach: float) -> tuple[float, float]:
        """From the half width on its own scale."""
        if not np.isfinite(reach):
            return (0.0, np.inf) if self.log else (-np.inf, np.inf)
        if self.log:
            return self.value * float(np.exp(-reach)), self.value * float(np.exp(min(reach, 700)))
        return self.value - reach, self.value + reach


class Design:
    """A prior and the points of a study: expected intervals, and the worth of each run."""

    def __init__(self, prior: Prior, table: Table) -> None:
        """table: run_id, family, N, D, P_w, P_a, P_kv, P_post, seed of each point, and its settings."""
        self.prior = prior
        known = speakable(prior.law, prior.params, one_setting(table, prior))
        self.left_out = len(table) - len(known)
        self.rows = known
        self.sums: dict[str, Sums] = {}
        self.quantities: list[Quantity] = []
        self.held: list[str] = []  # parameters at a bound of the prior
        for kind in prior.blocks:
            part = known[(known["P_post"] < OFF) == (kind == "delta")]
            part = part.reset_index(drop=True)
            if len(part):
                b, u = self._block(kind, part)
                threshold = THRESHOLD if kind == "delta" else HUBER
                J = b.jacobian(u[None])[1][0][free(b, u)].T
                self.held += [b.params[j].name for j in b.own if j not in free(b, u)]
                self.sums[kind] = Sums(J, part, prior.noise[kind], threshold)
                self.quantities += quantities(prior, kind, b, u)
        self.family_of = dict(zip(known["run_id"], known["family"], strict=True))
        self.members: dict[str, int] = {}
        for family in self.family_of.values():
            self.members[family] = self.members.get(family, 0) + 1
        self.seeds = known["seed"].nunique() if "seed" in known else 1
        self.of_kind = {k: np.array([q.kind == k for q in self.quantities]) for k in self.sums}
        self.gradients = {
            kind: np.stack([q.gradient for q in self.quantities if q.kind == kind])
            for kind in self.sums
        }

    def _block(self, kind: str, part: Table) -> tuple[Block, Array]:
        from dataclasses import replace

        prior, sd = self.prior, None
        of_prior = prior.blocks[kind]
        if kind == "delta":
            x = prior.law.read(part, "P_post")
            sd = noise_sd(np.asarray(prior.law.penalty(prior.params, x, prior.law.paired)), prior.delta_sd)  # fmt: skip
            part = part.assign(delta_ptq=0.0)
        b = block(kind, prior.law, part, prior.centre, sd, of_prior.held)
        return replace(b, params=of_prior.params), prior.u[kind]

    @property
    def families(self) -> int:
        return sum(n > 0 for n in self.members.values())

    def expected(self, seeds: int | None = None) -> list[Expected]:
        """Every quantity's interval; seeds: if the design had so many instead of its own."""
        scale = 1.0 if seeds is None else self.seeds / seeds
        reach = student(self.families / scale) * np.sqrt(scale * self.variance())
        return [
            Expected(name=q.name, value=q.value, low=low, high=high)
            for q, r in zip(self.quantities, reach, strict=True)
            for low, high in (q.interval(float(r)),)
        ]

    def seeds_for(self, name: str, half: float) -> int | None:
        """The fewest seeds with which the interval of a quantity reaches this half width; None if none does.

        Raises: ValueError for an unknown quantity or a target that is not positive.
        """
        names = [q.name for q in self.quantities]
        if name not in names:
            raise ValueError(f"no quantity {name!r} in this study; there are {', '.join(names)}")
        if not (np.isfinite(half) and half > 0):
            raise ValueError(f"the target of {name} must be a positive half width, got {half:g}")
        i = names.index(name)
        q, variance = self.quantities[i], self.variance()[i]

        def reached(seeds: int) -> bool:
            scale = self.seeds / seeds
            reach = student(self.families / scale) * np.sqrt(scale * variance)
            low, high = q.interval(float(reach))
            return high - low <= 2 * half

        low, high = 0, 1
        while not reached(high):
            low, high = high, 2 * high
            if high > MOST_SEEDS:
                return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if reached(middle) else (middle, high)
        return high

    def variance(self, runs: Iterable[str] = (), sign: float = -1.0) -> Array:
        """Of each quantity on its own scale, (Q,), without some runs (-1), or with them besides (1);
        infinite where it is not identified."""
        runs, out = tuple(runs), np.full(len(self.quantities), np.inf)
        for kind, sums in self.sums.items():
            out[self.of_kind[kind]] = sandwich(*sums.moved(runs, sign), self.gradients[kind])
        return out

    def half_widths(self, runs: Iterable[str] = (), sign: float = -1.0) -> Array:
        """Half widths of the 95% intervals on each quantity's own scale, if these runs were not trained (-1),
        or trained besides (1)."""
        runs = tuple(dict.fromkeys(runs))
        moved = Counter(self.family_of[r] for r in runs if r in self.family_of)
        change = sum((m + sign * n > 0) - (m > 0) for m, n in ((self.members[f], n) for f, n in moved.items()))  # fmt: skip
        return student(self.families + change) * np.sqrt(self.variance(runs, sign))

    def change(self, runs: Iterable[str], sign: float) -> None:
        """Take runs away (-1) or give them back (1)."""
        runs = tuple(dict.fromkeys(runs))
        for sums in self.sums.values():
            sums.change(runs, sign)
        for run in runs:
            if run in self.family_of:
                self.members[self.family_of[run]] += int(sign)


class Worth:
    """What runs are worth to the questions of a study, over one or several priors.

    The criterion (A-optimality of what a study is asked): the mean over its stiff quantities, efficiencies,
    P*, γ_D and the exponent of N*, of the squared half width of the expected interval relative to that of the
    whole grid. It is 1 for the whole grid, and infinite as soon as one of them is no longer identified.
    """

    def __init__(self, designs: Sequence[Design]) -> None:
        self.designs = list(designs)
        self.stiff, self.whole = [], []
        for d in designs:
            half = d.half_widths()
            seen = np.isfinite(half) & (half > 0)
            chosen = seen & np.array([is_stiff(q.name) for q in d.quantities])
            self.stiff.append(chosen if chosen.any() else seen)
            self.whole.append(half)
        if not any(s.any() for s in self.stiff):
            raise ValueError(
                "this study identifies nothing that could be weighed: train more N and D"
            )

    def criterion(self, without: Iterable[str] = (), back: Iterable[str] = ()) -> float:
        """If some runs were dropped, or (not both) taken back."""
        without, back = tuple(without), tuple(back)
        assert not (without and back)
        runs, sign, parts = without or back, 1.0 if back else -1.0, []
        for d, stiff, whole in zip(self.designs, self.stiff, self.whole, strict=True):
            parts.append((d.half_widths(runs, sign)[stiff] / whole[stiff]) ** 2)
        return float(np.concatenate(parts).mean())

    def drop(self, runs: Iterable[str]) -> None:
        for d in self.designs:
            d.change(runs, -1.0)

    def restore(self, runs: Iterable[str]) -> None:
        for d in self.designs:
            d.change(runs, 1.0)


def is_stiff(name: str) -> bool:
    return name.startswith("eff_") or name in ("P*", "gamma_D", "N_opt_exponent")


def free(b: Block, u: Array) -> list[int]:
    """Places of the parameters that a block determines and that are not at a bound, where refits stay too."""
    return [j for j in b.own if b.lower[j] < u[j] < b.upper[j]]


def quantities(prior: Prior, kind: str, b: Block, u: Array) -> list[Quantity]:
    """A block's parameters, and of the loss block also efficiencies, the exponent of N* and P*."""
    own = [b.params[j] for j in free(b, u)]
    makers = {q.name: (lambda p, n=q.name: p[n], q.link == "log") for q in own}
    if kind == "loss":
        makers |= _derived(prior, {r: P for r in ROLES if (P := widths(dict(b.x), f"P_{r}"))})
    U = np.repeat(u[None], 2 * len(own), 0)
    for i, j in enumerate(free(b, u)):
        U[2 * i, j] += STEP
        U[2 * i + 1, j] -= STEP
    here, moved = b.natural(u[None]), b.natural(U)
    out = []
    for name, (make, log) in makers.items():
        value = float(np.ravel(make(here))[0])
        at = np.ravel(make(moved))
        with np.errstate(all="ignore"):
            steps = np.log(at[0::2] / at[1::2]) if log else at[0::2] - at[1::2]
        out.append(
            Quantity(name=name, kind=kind, value=value, log=log, gradient=steps / (2 * STEP))
        )
    return out


def _derived(
    prior: Prior, measured: Mapping[str, tuple[float, ...]]
) -> dict[str, tuple[Any, bool]]:
    """Name → (function of parameters, whether it is positive); measured: widths of the design by role."""
    names = {q.name for q in prior.law.params}
    makers: dict[str, tuple[Any, bool]] = {}
    if {"alpha", "beta"} <= names:
        makers["N_opt_exponent"] = (lambda p: p["beta"] / (p["alpha"] + p["beta"]), False)
    if not prior.law.on("N"):
        return makers
    for role, P in measured.items():
        for b in (b for b in P if f"eff_{role}[{b:g}]" not in names):
            makers[f"eff_{role}({b:g})"] = (
                lambda p, b=b, role=role: efficiency(prior.law, p, np.array(b), (role,)), True,
            )  # fmt: skip
    if continuous(prior.law) and measured and not (prior.law.added or prior.law.on("D")):
        low = float(np.ceil(max(min(P) for P in measured.values())))
        cost = relative_cost("paper")

        def star(p: Params) -> Array:
            return best_width(prior.law, p, 1.0, cost, low, tuple(measured), {})

        makers["P*"] = (star, False)
    return makers


def one_setting(table: Table, prior: Prior) -> Table:
    """Of points that no one law describes (scale granularities, PTQ methods) the most frequent kind.

    `fit` refuses to mix them and asks for one; a plan must not count them as replicates of each other.
    """
    read = {s for t in prior.law.terms for s in getattr(t, "SETTINGS", ())}
    places = {"P_w": "quant.weights", "P_a": "quant.activations", "P_kv": "quant.kv", "P_post": "ptq"}  # fmt: skip
    for column, place in places.items():
        names = [
            c
            for c in map(str, table.columns)
            if (c == place or c.startswith(f"{place}."))
            and c.rpartition(".")[2] not in {"bits", *read}
        ]
        low = table[column] < OFF
        if not names or not low.any():
            continue
        kind = table.groupby(names, sort=False, dropna=False).ngroup()
        table = table[~low | (kind == kind[low].value_counts(sort=False).idxmax())]
    return table
