"""What sweeps set out to do, kept in the store: from it any machine can say what is left.

<store>/studies/<name>-<8 hex>.json     one immutable file per study and overrides; delete it to forget it
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
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


def record(store: Store, name: str, overrides: Sequence[str], points: Iterable[Point]) -> None:
    """Keep what is to be done; the same plan twice is one file."""
    jobs = [asdict(job) for unit in units(points) for job in jobs_of(unit)]
    text = json.dumps({"schema": SCHEMA, "study": name, "overrides": list(overrides), "jobs": jobs})
    write(store.study(f"{name}-{digest(text)[:8]}"), text + "\n", replace=False)


def jobs_of(unit: Unit) -> list[Job]:
    """The unit's cost by its model, spread over steps and evaluations."""
    first = unit.runs[0]
    steps = unit.tokens / first.batch
    evaluations = sum(1 + len(p) + bool(p) for p in unit.ptqs)
    step_seconds = (unit.seconds - evaluations * unit.eval_seconds) / steps
    return [
        Job(
            run_id(run), unit.name, run.lr_schedule.decay_start(run.steps), run.steps, run.batch,
            tuple(map(eval_id, ptqs)), step_seconds, unit.eval_seconds,
        )
        for run, ptqs in zip(unit.runs, unit.ptqs, strict=True)
    ]  # fmt: skip


def plans(store: Store) -> list[Plan]:
    """Every recorded plan. Raises: ConfigError naming a damaged file."""
    names = sorted(listed(store.root / "studies"))
    return [read(store, n) for n in names if n.endswith(".json") and not n.startswith(".")]


def read(store: Store, name: str) -> Plan:
    path = store.root / "studies" / name
    node: Any = read_row(path)
    try:
        jobs = tuple(Job(**j | {"points": tuple(j["points"])}) for j in node["jobs"])
        return Plan(str(node["study"]), tuple(map(str, node["overrides"])), jobs)
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no recorded study ({error}); remove it") from None
