"""Points -> units of work, and what they will cost.

A unit is one trunk with its branches and their PTQ points: what one worker executes in one go.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from precisionlaws.config import plain
from precisionlaws.costs import cpu_seconds
from precisionlaws.models.count import training_flops
from precisionlaws.ptq.base import Ptq
from precisionlaws.run import RunConfig, run_id, trunk_id
from precisionlaws.store import Store, listed, read_json
from precisionlaws.sweep.points import Point


@dataclass(frozen=True)
class Unit:
    """Runs of one trunk, by growing D, each with the PTQs asked of it."""

    name: str  # trunk_id
    runs: tuple[RunConfig, ...]
    ptqs: tuple[tuple[Ptq, ...], ...]

    @cached_property
    def tokens(self) -> int:
        """Tokens trained: the trunk once, to the last branch point, and every decay."""
        last = max(r.lr_schedule.decay_start(r.steps) for r in self.runs)
        decays = sum(r.steps - r.lr_schedule.decay_start(r.steps) for r in self.runs)
        return (last + decays) * self.runs[0].batch

    @property
    def tokens_alone(self) -> int:
        """Tokens if every run were trained by itself."""
        return sum(r.D for r in self.runs)

    @property
    def flops(self) -> float:
        run = self.runs[0]
        return training_flops(run.model, run.size, run.data.vocab, run.data.context, self.tokens)

    @property
    def seconds(self) -> float:
        """Estimated, on one core."""
        run = self.runs[0]
        evaluations = sum(1 + len(p) + bool(p) for p in self.ptqs)
        return cpu_seconds(
            self.flops,
            self.tokens / run.batch,
            evaluations * run.data.eval_tokens,
            self.flops / self.tokens,
        )

    def message(self) -> dict[str, Any]:
        """The unit as JSON for a worker."""
        jobs = zip(self.runs, self.ptqs, strict=True)
        return {
            "unit": self.name,
            "jobs": [{"run": plain(r), "ptqs": [plain(p) for p in ps]} for r, ps in jobs],
        }


def units(points: Iterable[Point]) -> list[Unit]:
    """Longest first: with few workers that leaves the least idle time at the end."""
    runs: dict[str, RunConfig] = {}
    ptqs: dict[str, list[Ptq]] = {}
    for point in points:
        runs.setdefault(point.run_id, point.run)
        if point.eval_id != "final":
            ptqs.setdefault(point.run_id, []).append(point.ptq)
    trunks: dict[str, list[RunConfig]] = {}
    for run in runs.values():
        trunks.setdefault(trunk_id(run), []).append(run)
    made = []
    for name, members in trunks.items():
        ordered = sorted(members, key=lambda r: r.steps)
        made.append(
            Unit(name, tuple(ordered), tuple(tuple(ptqs.get(run_id(r), ())) for r in ordered))
        )
    return sorted(made, key=lambda u: (-u.seconds, u.name))


@dataclass(frozen=True)
class Progress:
    """Which points of a study a store holds: read once by listing directories."""

    done: frozenset[tuple[str, str]]
    diverged: frozenset[str]  # run ids
    failed: dict[str, str]  # run id -> last error

    def missing(self, points: Sequence[Point]) -> list[Point]:
        """Points still to be computed; a diverged run has no PTQ points."""
        return [
            p
            for p in points
            if (p.run_id, p.eval_id) not in self.done and p.run_id not in self.diverged
        ]


def progress(store: Store, points: Iterable[Point]) -> Progress:
    asked: dict[str, set[str]] = {}
    for p in points:
        asked.setdefault(p.run_id, set()).add(p.eval_id)
    done, diverged, failed = set(), set(), {}
    for name in asked.keys() & listed(store.root / "runs"):
        files = listed(store.run(name))
        if "result.json" in files:
            done.add((name, "final"))
            if read_json(store.result(name)).get("status") == "diverged":
                diverged.add(name)
        if "points" in files:
            done |= {(name, f.removesuffix(".json")) for f in listed(store.run(name) / "points")}
        owed = any((name, e) not in done for e in asked[name]) and name not in diverged
        if (
            owed and "error.json" in files
        ):  # an error that a later success has outlived is no failure
            failed[name] = str(read_json(store.run(name) / "error.json").get("error"))
    return Progress(frozenset(done), frozenset(diverged), failed)
