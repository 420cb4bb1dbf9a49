"""How a store is getting on, from the store alone: any launcher, any machine, nothing to connect to.

What was planned is in studies/, what is finished in runs/, and who works in claims/: each lease is rewritten
every few seconds with the step, the loss and the pace of its holder. Folders are listed anew at each look;
runs that are finished are not looked into again.
"""

import heapq
import json
import math
import os
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from precisionlaws.claims import Watcher, lost
from precisionlaws.config import ConfigError, nearest
from precisionlaws.costs import duration
from precisionlaws.store import Store, listed, read_json
from precisionlaws.sweep.recorded import Job, Plan, files, read

STATES = ("done", "running", "stalled", "failed", "to go")
LAST = 5  # losses and errors shown
TIMED = 5.0  # seconds of training before its pace means something


@dataclass(frozen=True)
class Claim:
    """A lease, as it was found."""

    unit: str
    alive: bool
    note: dict[str, Any]  # host, pid, and once it trains: run, step, steps, loss, tokens, seconds

    @property
    def pace(self) -> float:
        """Tokens per second; 0 while unknown."""
        seconds = self.note.get("seconds", 0.0)
        return self.note["tokens"] / seconds if self.alive and seconds > TIMED else 0.0


@dataclass(frozen=True)
class Row:
    """A study, or all runs of no study: its runs by state, each in exactly one, and its points."""

    study: str
    states: dict[str, int]
    points: tuple[int, int]  # in the store, planned
    pace: float  # tokens per second
    left: float  # seconds; NaN while unknown


@dataclass(frozen=True)
class Look:
    """What one look at a store found."""

    rows: list[Row]
    claims: list[Claim]
    losses: list[tuple[str, float | None]]  # last finished first; None: diverged
    errors: list[tuple[str, str]]

    @property
    def over(self) -> bool:
        """Nothing is left that anybody works on or will."""
        return not any(r.states[s] for r in self.rows for s in ("running", "stalled", "to go"))

    @property
    def failed(self) -> bool:
        return any(r.states["failed"] for r in self.rows)


@dataclass
class Watch:
    """Looks at a store again and again; remembers what cannot change."""

    store: Store
    study: str | None = None  # only this one: its name, or the key of one plan
    slower: float = (
        math.nan
    )  # seconds per estimated second, where a worker has no pace of its own yet
    watcher: Watcher = field(default_factory=Watcher)
    studies: dict[str, list[Plan]] = field(
        default_factory=dict
    )  # by the listing they were read from
    finished: set[str] = field(default_factory=set)  # runs of which nothing is owed
    have: dict[str, set[str]] = field(default_factory=dict)  # run with a result -> its PTQ points
    dated: dict[str, float] = field(default_factory=dict)  # run with a result -> its mtime
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)  # results that were read

    def look(self) -> Look:
        """Raises: ConfigError for a study that the store does not know."""
        found, jobs = self.plans(), {}
        for plan in found:
            for job in plan.jobs:
                jobs.setdefault(job.run, []).append(job)
        claims = list(self.claims())
        names = {n for n in listed(self.store.root / "runs") if not n.startswith(".")}
        self.forget(names)
        states = dict.fromkeys(jobs, "to go")
        states |= {n: self.state(n, jobs.get(n, [])) for n in names}
        working = at_work(claims, found, self.finished)
        states |= {n: w for n, w in working.items() if states.get(n, "done") != "done"}
        tables = [(title(plan), plan.jobs) for plan in found]
        other = [Job(n, "", 0, 0, 0, (), 0.0, 0.0) for n in sorted(names - jobs.keys())]
        if self.study is None and (other or not tables):
            tables.append(("other runs" if tables else "runs", tuple(other)))
        return Look(
            [self.row(name, part, states, claims) for name, part in tables],
            sorted(claims, key=lambda c: (not c.alive, c.unit)),
            self.losses(jobs.keys() if self.study else names),
            self.errors([n for n, s in states.items() if s == "failed"]),
        )

    def plans(self) -> list[Plan]:
        names = files(self.store)
        if f"{self.study}.json" in names:  # the others may be damaged
            names = [f"{self.study}.json"]
        if (key := "/".join(names)) not in self.studies:
            self.studies = {key: [read(self.store, n) for n in names]}
        found = self.studies[key]
        if self.study is None:
            return found
        chosen = [p for p in found if self.study in (p.name, p.key)]
        if not chosen:
            raise ConfigError(
                f"no study {self.study!r} was started in this store{nearest(self.study, {p.name for p in found})}"
            )
        return chosen

    def claims(self) -> Iterator[Claim]:
        folder = self.store.root / "claims"
        for name in listed(folder):
            if name.endswith(".json") and not name.startswith("."):
                with suppress(OSError, ValueError):  # released meanwhile
                    content = (folder / name).read_text()
                    held, _ = self.watcher.held(folder / name)
                    node = json.loads(content)
                    yield Claim(name.removesuffix(".json"), held and not lost(content), node)

    def forget(self, names: set[str]) -> None:
        """Runs that were removed."""
        self.finished &= names
        for known in (self.have, self.dated, self.rows):
            for name in known.keys() - names:
                del known[name]

    def state(self, name: str, jobs: list[Job]) -> str:
        """Leases aside: done, failed or to go."""
        if name in self.finished:
            return "done"
        files = listed(f"{self.store.root}/runs/{name}")
        if "result.json" in files:
            if name not in self.dated:
                with suppress(FileNotFoundError):
                    self.dated[name] = os.stat(self.store.result(name)).st_mtime
            found = self.points(name, files)
            owed = {e for job in jobs for e in job.points} - found
            self.have[name] = found
            if not owed or self.result(name).get("status") == "diverged":
                self.finished.add(name)
                return "done"
        return "failed" if "error.json" in files else "to go"

    def points(self, name: str, files: set[str]) -> set[str]:
        if "points" not in files:
            return set()
        found = listed(f"{self.store.root}/runs/{name}/points")
        return {f.removesuffix(".json") for f in found if not f.startswith(".")}

    def result(self, name: str) -> dict[str, Any]:
        if name not in self.rows:
            self.rows[name] = read_json(self.store.result(name))
        return self.rows[name]

    def row(
        self, name: str, jobs: Sequence[Job], states: dict[str, str], claims: Sequence[Claim]
    ) -> Row:
        here, units = {j.run: j for j in jobs}, groupby(jobs, lambda j: j.unit)
        names = {j.unit for j in jobs}
        mine = [c for c in claims if c.note.get("run", c.unit) in here.keys() | names]
        speed = self.speed(mine, here)
        cost = sum(self.cost(list(unit), states, mine) for _, unit in units)
        planned = sum(1 + len(j.points) for j in jobs) if jobs and jobs[0].unit else 0
        return Row(
            name,
            {s: 0 for s in STATES} | Counter(states[run] for run in here),
            (sum(map(self.done, jobs)), planned),
            sum(c.pace for c in mine),
            0.0 if not cost else cost / speed if speed else math.nan,
        )

    def done(self, job: Job) -> int:
        """How many of its points are there; of a run that no plan asks for, all. Another plan's do not count."""
        if job.run not in self.have:
            return 0
        have = self.have[job.run]
        return 1 + (len(have.intersection(job.points)) if job.unit else len(have))

    def speed(self, claims: Sequence[Claim], jobs: Mapping[str, Job]) -> float:
        """Estimated seconds that are worked off in a second; who has no pace yet has that of the others.

        NaN where nobody has one."""
        paces = [c.pace * jobs[c.note["run"]].second_per_token for c in claims if c.pace]
        waiting = sum(c.alive and not c.pace for c in claims)
        typical = sum(paces) / len(paces) if paces else 1 / self.slower
        return sum(paces) + waiting * typical if waiting else sum(paces)

    def cost(self, unit: list[Job], states: dict[str, str], claims: Sequence[Claim]) -> float:
        """What is left of one unit, in seconds of the core that its plan had in mind."""
        todo = [j for j in unit if states[j.run] not in ("done", "failed")]
        train = [j for j in todo if j.run not in self.have]
        evaluations = sum(1 + len(j.points) - self.done(j) for j in todo)
        trunk = max((j.branch for j in unit if j.run in self.have), default=0)
        steps = max((j.branch - trunk for j in train), default=0)
        steps = max(0, steps) + sum(j.steps - j.branch for j in train)
        # Members of a pack hold leases of their own, which all name the run that leads.
        at = [c.note["step"] for c in claims if c.unit == unit[0].unit and "step" in c.note and c.note["run"] not in self.have]  # fmt: skip
        steps -= max(0, max(at, default=0) - trunk)
        return max(0, steps) * unit[0].step_seconds + max(0, evaluations) * unit[0].eval_seconds

    def losses(self, names: Iterable[str]) -> list[tuple[str, float | None]]:
        """The last results by the file server's clock."""
        dated = ((self.dated[n], n) for n in names if n in self.dated)
        return [(n, self.result(n).get("loss")) for _, n in heapq.nlargest(LAST, dated)]

    def errors(self, names: Iterable[str]) -> list[tuple[str, str]]:
        """The last failures of runs that still owe something."""
        found = []
        for name in names:
            path = self.store.run(name) / "error.json"
            with suppress(FileNotFoundError, ConfigError):  # retried meanwhile
                found.append((os.stat(path).st_mtime, name, path))
        last = heapq.nlargest(LAST, found)
        return [(n, str(read_json(p).get("error"))) for _, n, p in last]


def at_work(
    claims: Iterable[Claim], found: Iterable[Plan], finished: Container[str]
) -> dict[str, str]:
    """Run -> running or stalled. A lease that names no run of its unit, because it has just begun or its trunk
    is in a pack that another leads, is at the first unfinished one."""
    units: dict[str, list[str]] = {}
    for plan in found:
        for job in plan.jobs:
            units.setdefault(job.unit, []).append(job.run)
    working = {}
    for claim in claims:
        mine = units.get(claim.unit, [])
        run = claim.note.get("run")
        if run is None or (mine and run not in mine):
            run = next((r for r in mine if r not in finished), None)
        if run is not None:
            working[run] = "running" if claim.alive else "stalled"
    return working


def title(plan: Plan) -> str:
    return " ".join((plan.name, *plan.overrides))


def table(look: Look) -> list[str]:
    """Lines for a terminal."""
    heads = ("study", *STATES, "points", "tokens/s", "left")
    cells = [heads, *((r.study, *map(str, r.states.values()), *figures(r)) for r in look.rows)]
    widths = [max(len(c[i]) for c in cells) for i in range(len(heads))]
    lines = ["  ".join(f"{t:<{w}}" if i == 0 else f"{t:>{w}}" for i, (t, w) in enumerate(zip(c, widths, strict=True))) for c in cells]  # fmt: skip
    lines += [f"  {worker(c)}" for c in look.claims]
    for name, items in (("last losses", look.losses), ("last errors", look.errors)):
        if items:
            lines += [name, *(f"  {run}  {told(value)}" for run, value in items)]
    return lines


def figures(row: Row) -> tuple[str, str, str]:
    done, planned = row.points
    return (
        f"{done:,}/{planned:,}" if planned else f"{done:,}",
        f"{row.pace:,.0f}" if row.pace else "-",
        duration(row.left) if row.left > 0 else "-" if row.left == 0 else "?",
    )


def told(value: object) -> str:
    return (
        "diverged" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
    )


def worker(claim: Claim) -> str:
    """One lease in words."""
    note = claim.note
    parts = ["running" if claim.alive else "stalled", str(note.get("run", claim.unit))]
    if "doing" in note:
        parts.append(str(note["doing"]))
    elif "step" in note:
        parts.append(f"step {note['step']:,}/{note['steps']:,} {note['step'] / note['steps']:.0%}")
        if note.get("loss") is not None:
            parts.append(f"loss {note['loss']:.4f}")
    if claim.pace:
        parts.append(f"{claim.pace:,.0f} tokens/s")
    return "  ".join((*parts, f"{note.get('host')}:{note.get('pid')}"))


def summary(row: Row) -> str:
    """A study in one plain line."""
    runs = sum(row.states.values())
    states = [f"{row.states[s]} {s}" for s in STATES[1:] if row.states[s]]
    points, pace, left = figures(row)
    parts = [f"{row.study}: {row.states['done']} of {runs} runs done", *states, f"{points} points"]
    parts += [f"{pace} tokens/s"] * bool(row.pace) + [f"about {left} left"] * (row.left > 0)
    return ", ".join(parts)
