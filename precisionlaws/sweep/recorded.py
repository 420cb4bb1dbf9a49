"""What sweeps set out to do, kept in the store: from it any machine can say what is left.

<store>/studies/<name>-<8 hex>.json     one immutable file per study and work; delete it to forget it
"""

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from precisionlaws.config import ConfigError, digest
from precisionlaws.ptq.base import eval_id
from precisionlaws.run import run_id
from precisionlaws.store import SCHEMA, Store, listed, read_row, write
from precisionlaws.sweep.points import Point
from precisionlaws.sweep.schedule import Unit, units


@dataclass(frozen=True)
class Job:
    """One run of a plan, and what it is thought to cost on one core."""

    run: str
    unit: str
    branch: int  # step where it leaves its trunk
    steps: int
    batch: int  # tokens per step
    points: tuple[str, ...]  # eval_ids besides final
    step_seconds: float
    eval_seconds: float  # of one evaluation

    @property
    def second_per_token(self) -> float:
        return self.step_seconds / self.batch if self.batch else 0.0


@dataclass(frozen=True)
class Plan:
    """A study as it was started."""

    name: str
    overrides: tuple[str, ...]
    jobs: tuple[Job, ...]  # runs of one unit stand together, by steps
    key: str = ""  # names its file
    budget: str = ""  # of a study that was trimmed: names what it was trimmed by

    @property
    def work(self) -> set[tuple[str, tuple[str, ...]]]:
        """Runs and their points: what makes a plan the same plan, whatever it is thought to cost."""
        return {(j.run, tuple(sorted(j.points))) for j in self.jobs}


def record(
    store: Store, name: str, overrides: Sequence[str], points: Iterable[Point], budget: str = ""
) -> Plan:
    """Keep what is to be done; the same work under the same name is one file, that of the first time."""
    jobs = tuple(job for unit in units(points) for job in jobs_of(unit))
    plan = Plan(name, tuple(overrides), jobs, budget=budget)
    for file in files(store):
        with suppress(ConfigError):  # damaged: `runs verify` and `jobs watch` say so
            other = read(store, file)
            if (other.name, other.work, other.budget) == (name, plan.work, budget):
                return other
    node = {"schema": SCHEMA, "study": name, "overrides": plan.overrides, "jobs": [*map(asdict, jobs)]}  # fmt: skip
    text = json.dumps(node | ({"budget": budget} if budget else {}))
    key = f"{name}-{digest(text)[:8]}"
    write(store.study(key), text + "\n", replace=False)
    return replace(plan, key=key)


def jobs_of(unit: Unit) -> list[Job]:
    return [
        Job(
            run_id(run), unit.name, run.lr_schedule.decay_start(run.steps), run.steps, run.batch,
            tuple(map(eval_id, ptqs)), unit.step_seconds, unit.eval_seconds,
        )
        for run, ptqs in zip(unit.runs, unit.ptqs, strict=True)
    ]  # fmt: skip


def budget_name(seconds: float, priors: Sequence[str], points: Iterable[Point]) -> str:
    """What a cut of these points by --budget and --prior is found again by."""
    keys = sorted((p.run_id, p.eval_id) for p in points)
    return f"{seconds:g}s-{digest(json.dumps([list(priors), keys]))}"


def cut_before(store: Store, name: str, overrides: Sequence[str], budget: str) -> Plan | None:
    """The plan of the same command, if it was begun: a sweep that goes on does the same, however long it has
    taken so far and whatever is known by now of the speed of this machine."""
    for file in files(store):
        with suppress(ConfigError):
            plan = read(store, file)
            if (plan.name, plan.overrides, plan.budget) == (name, tuple(overrides), budget):
                return plan
    return None


def plans(store: Store) -> list[Plan]:
    """Every recorded plan. Raises: ConfigError naming a damaged file."""
    return [read(store, name) for name in files(store)]


def files(store: Store) -> list[str]:
    names = sorted(listed(store.root / "studies"))
    return [n for n in names if n.endswith(".json") and not n.startswith(".")]


def read(store: Store, name: str) -> Plan:
    path = store.root / "studies" / name
    node: Any = read_row(path)
    try:
        jobs = tuple(Job(**j | {"points": tuple(j["points"])}) for j in node["jobs"])
        overrides = tuple(map(str, node["overrides"]))
        key, budget = name.removesuffix(".json"), str(node.get("budget", ""))
        return Plan(str(node["study"]), overrides, jobs, key, budget)
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no recorded study ({error}); remove it") from None
