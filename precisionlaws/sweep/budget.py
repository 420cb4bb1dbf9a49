"""A study that fits in a time: which runs to leave out so that its questions lose least.

Greedy, by information lost per second saved. What is left out goes in whole runs with their PTQ points,
in whole trunks, in all widths of one (size, D, seed), or in whole families: trunks are shared, so that the
last D of a trunk is dear and one on the way is nearly free. A run that others are compared to, the
unquantized one of the same family and D, goes with the last of them; at least three sizes and three D
stay, where the study has them. At the end, what still fits is taken back. Finished runs stay: they are paid.
"""

import heapq
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Protocol

from precisionlaws.config import ConfigError, flat
from precisionlaws.costs import duration
from precisionlaws.run import RunConfig, family, trunk_id
from precisionlaws.sweep.dry_run import wall
from precisionlaws.sweep.points import Point
from precisionlaws.sweep.rates import Rates
from precisionlaws.sweep.schedule import Unit

if TYPE_CHECKING:
    import pandas as pd

LEAST = 3  # sizes, and D, that a base law needs
SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


class Worth(Protocol):
    """What runs are worth; `criterion` grows as they go, to infinity where a question has no answer left."""

    def criterion(self, without: Iterable[str] = (), back: Iterable[str] = ()) -> float: ...
    def drop(self, runs: Iterable[str]) -> None: ...
    def restore(self, runs: Iterable[str]) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Trimmed:
    """Points that stay, and runs that go; seconds: estimated wall clock of what is to do, before and after."""

    kept: tuple[Point, ...]
    dropped: tuple[RunConfig, ...]
    before: float
    after: float


def budget_seconds(text: str) -> float:
    """'90s', '30min', '2h', '1.5d' → seconds.

    Raises: ConfigError for anything else.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(s|min|h|d)\s*", text)
    if match is None or float(match[1]) <= 0:
        raise ConfigError(
            f"--budget must be a positive time such as 90s, 30min, 2h or 1.5d, got {text!r}"
        )
    return float(match[1]) * SECONDS[match[2]]


def design(points: Sequence[Point]) -> "pd.DataFrame":
    """The frame that the points would become, without their losses."""
    import pandas as pd

    rows, names = [], {}
    settings: dict[int, dict[str, Any]] = {}  # runs share parts
    for p in points:
        run, quant = p.run, p.run.quant
        if id(run) not in names:
            names[id(run)] = family(run)
        for key, part in (("quant", quant), ("ptq", p.ptq)):
            if id(part) not in settings:
                settings[id(part)] = {key: part.SHORT} | flat(part, key)
        rows.append(
            {"run_id": p.run_id, "eval_id": p.eval_id, "family": names[id(run)], "N": float(run.N), "D": float(run.D),
             "P_w": float(quant.weights.bits), "P_a": float(quant.activations.bits), "P_kv": float(quant.kv.bits),
             "P_post": 16.0 if p.eval_id == "final" else float(getattr(p.ptq, "bits", 16)), "seed": run.seed,
             **settings[id(quant)], **settings[id(p.ptq)]}
        )  # fmt: skip
    return pd.DataFrame(rows)


def trim(
    points: Sequence[Point],
    done: Callable[[Point], bool],
    seconds: float,
    workers: int,
    known: Rates,
    worth: Worth,
) -> Trimmed:
    """The points of a study that fit in `seconds` of wall clock with so many workers.

    Raises: ConfigError when the smallest study that answers its questions does not fit.
    """
    grid = Grid(points, done, known)
    before = grid.wall(workers)
    if before > seconds:
        long = {trunk for trunk, cost in grid.cost.items() if cost > seconds}
        groups = grid.candidates()
        first = [g for g in groups if any(grid.trunk[n] in long for n in g)]
        if not (
            shrink(grid, worth, first, lambda: max(grid.cost.values()) <= seconds)
            and shrink(grid, worth, groups, lambda: grid.fits(workers, seconds))
        ):
            raise ConfigError(
                f"--budget {duration(seconds)} is too little for this study: cut to three sizes and three D that "
                f"answer its questions, each with its baselines, it takes about {duration(grid.wall(workers))}"
            )
        refill(grid, worth, seconds, workers)
    kept = tuple(p for p in points if p.run_id not in grid.gone)
    gone = {p.run_id: p.run for p in points if p.run_id in grid.gone}
    return Trimmed(kept=kept, dropped=tuple(gone.values()), before=before, after=grid.wall(workers))


def as_before(
    points: Sequence[Point],
    kept: Sequence[Point],
    done: Callable[[Point], bool],
    workers: int,
    known: Rates,
) -> Trimmed:
    """The cut that was made when the sweep was begun."""
    grid, stay = Grid(points, done, known), {p.run_id for p in kept}
    before = grid.wall(workers)
    grid.change([n for n in grid.todo if n not in stay], drop=True)
    gone = {p.run_id: p.run for p in points if p.run_id not in stay}
    return Trimmed(
        kept=tuple(kept), dropped=tuple(gone.values()), before=before, after=grid.wall(workers)
    )


class Grid:
    """The runs of a study, which of them are gone, and what the others cost."""

    def __init__(self, points: Sequence[Point], done: Callable[[Point], bool], known: Rates):
        self.known = known
        self.gone: set[str] = set()
        self.runs: dict[str, RunConfig] = {}
        self.todo: dict[str, list[Point]] = {}
        for p in points:
            self.runs.setdefault(p.run_id, p.run)
            if not done(p):
                self.todo.setdefault(p.run_id, []).append(p)
        self.trunk = {name: trunk_id(self.runs[name]) for name in self.todo}
        self.members: dict[str, list[str]] = {}
        for name in sorted(self.todo, key=lambda n: self.runs[n].steps):
            self.members.setdefault(self.trunk[name], []).append(name)
        self.family = {name: family(run) for name, run in self.runs.items()}
        self.plain = {name for name, run in self.runs.items() if not run.quant.roles()}
        self.cells: dict[tuple[str, int], list[str]] = {}
        for name, run in self.runs.items():
            self.cells.setdefault((self.family[name], run.D), []).append(name)
        self.there: dict[str, Counter[int]] = {"N": Counter(), "D": Counter()}
        for name in self.plain:
            for what, value in self.spread(name):
                self.there[what][value] += 1
        self.cost = {trunk: self.trunk_seconds(trunk) for trunk in self.members}
        self.total = sum(self.cost.values())

    def trunk_seconds(
        self, trunk: str, without: Iterable[str] = (), back: Iterable[str] = ()
    ) -> float:
        left = [
            n for n in self.members[trunk] if n in back or (n not in self.gone and n not in without)
        ]
        if not left:
            return 0.0
        ptqs = (tuple(p.ptq for p in self.todo[n] if p.eval_id != "final") for n in left)
        return self.known.seconds(Unit(trunk, tuple(self.runs[n] for n in left), tuple(ptqs)))

    def saved(self, runs: Sequence[str]) -> float:
        """Worker seconds that go with these runs."""
        touched, without = {self.trunk[n] for n in runs}, set(runs)
        return sum(self.cost[t] - self.trunk_seconds(t, without) for t in sorted(touched))

    def added(self, name: str) -> float:
        """Worker seconds that come back with a run."""
        trunk = self.trunk[name]
        return self.trunk_seconds(trunk, back=(name,)) - self.cost[trunk]

    def change(self, runs: Sequence[str], drop: bool) -> None:
        """Let runs go, or take them back."""
        self.gone.update(runs) if drop else self.gone.difference_update(runs)
        for name in self.plain.intersection(runs):
            for what, value in self.spread(name):
                self.there[what][value] += -1 if drop else 1
        for trunk in sorted({self.trunk[n] for n in runs}):
            before, self.cost[trunk] = self.cost[trunk], self.trunk_seconds(trunk)
            self.total += self.cost[trunk] - before

    def fits(self, workers: int, seconds: float) -> bool:
        return self.total <= seconds * workers and self.wall(workers) <= seconds

    def wall(self, workers: int) -> float:
        return wall(sorted((c for c in self.cost.values() if c > 0), reverse=True), workers)

    def candidates(self) -> list[tuple[str, ...]]:
        """Single runs, trunks, (family, D) and families, of what is to do; each once."""
        families: dict[str, list[str]] = {}
        for name in self.todo:
            families.setdefault(self.family[name], []).append(name)
        groups = [[n] for n in self.todo] + list(self.members.values())
        groups += [[n for n in c if n in self.todo] for c in self.cells.values()]
        groups += list(families.values())
        return list(dict.fromkeys(tuple(sorted(g)) for g in groups if g))

    def has_baselines(self, runs: Sequence[str]) -> bool:
        """Whether without these runs every quantized one still has its unquantized one, if it ever had."""
        for name in self.plain.intersection(runs):
            cell = self.cells[self.cell(name)]
            left = [n for n in cell if n not in self.gone and n not in runs]
            if left and self.plain.isdisjoint(left):
                return False
        return True

    def spans(self, runs: Sequence[str]) -> bool:
        """Whether three sizes and three D stay unquantized, or all where there are fewer."""
        lost = Counter(key for n in self.plain.intersection(runs) for key in self.spread(n))
        for what, there in self.there.items():
            now = [value for value, count in there.items() if count]
            if sum(lost[what, value] < there[value] for value in now) < min(LEAST, len(now)):
                return False
        return True

    def based(self, name: str) -> bool:
        """Whether a run that is gone has its baseline among those that stay."""
        plain = self.plain.intersection(self.cells[self.cell(name)])
        return name in plain or not plain or not plain <= self.gone

    def cell(self, name: str) -> tuple[str, int]:
        return self.family[name], self.runs[name].D

    def spread(self, name: str) -> tuple[tuple[str, int], tuple[str, int]]:
        return ("N", self.runs[name].N), ("D", self.runs[name].D)


def shrink(
    grid: Grid, worth: Worth, groups: Sequence[tuple[str, ...]], enough: Callable[[], bool]
) -> bool:
    """Drop what loses least per second saved until it is enough; whether it ever is.

    Losses hardly ever fall as a study shrinks, so one that was computed earlier is a lower bound: only the
    group at the top of the heap is computed anew.
    """
    heap = [(-float("inf"), order, -1, runs) for order, runs in enumerate(groups)]
    needed: dict[
        str, list[tuple[int, tuple[str, ...]]]
    ] = {}  # by family: baselines of runs that stay
    age, now = 0, worth.criterion()
    while not enough():
        if not heap:
            return False
        _, order, when, runs = heapq.heappop(heap)
        runs = tuple(n for n in runs if n not in grid.gone)
        if not runs or not grid.spans(runs):
            continue
        if not grid.has_baselines(runs):
            needed.setdefault(grid.family[runs[0]], []).append((order, runs))
        elif when < age:
            saved, loss = grid.saved(runs), worth.criterion(runs) - now
            if loss < float("inf") and saved > 0:
                heapq.heappush(heap, (rounded(loss / saved), order, age, runs))
        else:
            grid.change(runs, drop=True)
            worth.drop(runs)
            age, now = age + 1, worth.criterion()
            for family in {grid.family[n] for n in runs}:  # some may be needed no longer
                for later, group in needed.pop(family, ()):
                    heapq.heappush(heap, (-float("inf"), later, -1, group))
    return True


def rounded(x: float) -> float:
    """So that seeds tie, which differ by the rounding of sums alone, and the cut is the same everywhere."""
    return float(f"{x:.6g}")


def refill(grid: Grid, worth: Worth, seconds: float, workers: int) -> None:
    """Take back runs that still fit, the most informative per second first, until none does."""
    while True:
        now = worth.criterion()
        room = workers * seconds - grid.total
        costs = {n: grid.added(n) for n in sorted(filter(grid.based, grid.gone))}
        gains = {n: worth.criterion(back=[n]) - now for n, c in costs.items() if c <= room}
        back = 0
        for name in sorted(gains, key=lambda n: (rounded(gains[n] / costs[n]), n)):
            grid.change([name], drop=False)
            if grid.fits(workers, seconds):
                worth.restore([name])
                back += 1
            else:
                grid.change([name], drop=True)
        if not back:
            return


def words(t: Trimmed, budget: str, planned: str | None = None) -> list[str]:
    """What was dropped, by name: all runs of a config at some D, grouped over seeds.

    planned: the file of the plan that goes on.
    """
    if planned is not None:
        gone = len(t.dropped)
        return [
            f"  budget  {budget}: as when it was begun, {gone} of {gone + len({p.run_id for p in t.kept})} runs "
            f"dropped, about {duration(t.after)} to go; to plan anew remove {planned}",
            *(f"  dropped {text}" for text in names(t.dropped)),
        ]
    if not t.dropped:
        return [f"  budget  {budget}: all of it fits (about {duration(t.before)})"]
    return [
        f"  budget  {budget}: {len(t.dropped)} of {len(t.dropped) + len({p.run_id for p in t.kept})} runs dropped, "
        f"about {duration(t.before)} to {duration(t.after)}",
        *(f"  dropped {text}" for text in names(t.dropped)),
    ]


def names(runs: Sequence[RunConfig]) -> list[str]:
    """'d2w32 w4: D = 62,464, 124,928 (seeds 0, 1), 249,856 (seed 1)', a line per size and bits."""
    by: dict[str, dict[int, list[int]]] = {}
    for run in runs:
        key = f"{run.model.SHORT} d{run.size.depth}w{run.size.width} {run.quant.label()}"
        by.setdefault(key, {}).setdefault(run.D, []).append(run.seed)
    lines = []
    for key, at in sorted(by.items()):
        alike = groupby(sorted(at), lambda D: tuple(sorted(at[D])))  # noqa: B023 - used at once
        parts = (f"{', '.join(f'{D:,}' for D in some)} ({seeds(s)})" for s, some in alike)
        lines.append(f"{key}: D = {', '.join(parts)}")
    return lines


def seeds(some: Sequence[int]) -> str:
    return f"seed{'s' * (len(some) > 1)} {', '.join(map(str, some))}"
