"""Points -> units of work, and what they will cost.

A unit is one trunk with its branches and their PTQ points: what one worker executes in one go.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from precisionlaws.config import ConfigError, plain
from precisionlaws.costs import cpu_seconds
from precisionlaws.models.count import training_flops
from precisionlaws.ptq.base import Ptq
from precisionlaws.run import RunConfig, trunk_id
from precisionlaws.store import Store, listed, load, read_json
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

    @cached_property
    def flops(self) -> float:
        run = self.runs[0]
        return training_flops(run.model, run.size, run.data.vocab, run.data.context, self.tokens)

    @cached_property
    def seconds(self) -> float:
        """Estimated, on one core."""
        evaluations = sum(1 + len(p) + bool(p) for p in self.ptqs)
        steps, per_token = self.tokens / self.runs[0].batch, self.flops / self.tokens
        return cpu_seconds(self.flops, steps, 0, per_token) + evaluations * self.eval_seconds

    @property
    def eval_seconds(self) -> float:
        """Estimated, of one evaluation on one core."""
        return cpu_seconds(0, 0, self.runs[0].data.eval_tokens, self.flops / self.tokens)

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
    trunks: dict[str, list[str]] = {}
    for name, run in runs.items():
        trunks.setdefault(trunk_id(run), []).append(name)
    made = []
    for trunk, names in trunks.items():
        ordered = sorted(names, key=lambda n: runs[n].steps)
        asked = (tuple(ptqs.get(n, ())) for n in ordered)
        made.append(Unit(trunk, tuple(runs[n] for n in ordered), tuple(asked)))
    return sorted(made, key=lambda u: (-u.seconds, u.name))


Key = tuple[str, str]  # run_id, eval_id


@dataclass(frozen=True)
class Elsewhere:
    """Points that another store or a shipped table has."""

    done: frozenset[Key] = frozenset()
    diverged: frozenset[str] = frozenset()  # run ids


@dataclass(frozen=True)
class Progress:
    """Which points of a study a store holds: read once by listing directories."""

    done: frozenset[Key]
    diverged: frozenset[str]  # run ids
    failed: dict[str, str]  # run id -> last error
    elsewhere: frozenset[Key] = frozenset()  # done, but not in this store
    lost: frozenset[Key] = (
        frozenset()
    )  # PTQ of runs done elsewhere: there is no checkpoint to quantize

    def missing(self, points: Sequence[Point]) -> list[Point]:
        """Points still to be computed; a diverged run has no PTQ points."""
        have = self.done | self.lost
        return [
            p for p in points if (p.run_id, p.eval_id) not in have and p.run_id not in self.diverged
        ]

    def here(self, points: Iterable[Point]) -> list[Point]:
        """Points that this store has or will have."""
        return [p for p in points if (p.run_id, p.eval_id) not in self.elsewhere | self.lost]


def progress(store: Store, points: Iterable[Point], elsewhere: Elsewhere | None = None) -> Progress:
    asked: dict[str, set[str]] = {}
    for p in points:
        asked.setdefault(p.run_id, set()).add(p.eval_id)
    done, diverged, failed = set(), set(), {}
    others = elsewhere or Elsewhere()
    for name in asked.keys() & listed(store.root / "runs"):
        files = listed(store.run(name))
        if "result.json" in files:
            done.add((name, "final"))
            if read_json(store.result(name)).get("status") == "diverged":
                diverged.add(name)
        if "points" in files:
            done |= {(name, f.removesuffix(".json")) for f in listed(store.run(name) / "points")}
        missing = {(name, e) for e in asked[name]} - done - others.done
        owed = missing and name not in diverged | others.diverged
        if (
            owed and "error.json" in files
        ):  # an error that a later success has outlived is no failure
            failed[name] = str(read_json(store.run(name) / "error.json").get("error"))
    keys = {(name, e) for name, evals in asked.items() for e in evals}
    theirs = keys & others.done - done
    trained = {name for name, e in theirs if e == "final"}
    lost = {k for k in keys - done - theirs if k[0] in trained - others.diverged}
    return Progress(
        frozenset(done | theirs), frozenset(diverged | (others.diverged & asked.keys())), failed,
        frozenset(theirs), frozenset(lost),
    )  # fmt: skip


def elsewhere(path: str | Path) -> Elsewhere:
    """The points of a frame: `runs export` wrote it, or it is a store.

    Raises: ConfigError when it does not name runs.
    """
    frame = load(path)
    if "run_id" not in frame:
        raise ConfigError(f"{path} has no column 'run_id': --done takes a table of `runs export`")
    keys = frozenset(zip(frame.run_id.astype(str), frame.eval_id.astype(str), strict=True))
    final = frame[(frame.eval_id == "final") & (frame.status == "diverged")]
    return Elsewhere(keys, frozenset(final.run_id.astype(str)))
