"""Run a study, or go on with it: hand units to workers until every point is in the store."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from precisionlaws.claims import Watcher
from precisionlaws.config import ConfigError, plain
from precisionlaws.run import run_id
from precisionlaws.store import Store
from precisionlaws.sweep.memory import check, memory
from precisionlaws.sweep.points import Point, Study
from precisionlaws.sweep.recorded import files, record
from precisionlaws.sweep.schedule import Elsewhere, Progress, Unit, progress, units

POLL_SECONDS = 1.0


class View(Protocol):
    """Whoever shows the sweep. plan: the key under which the store has it (recorded.py)."""

    def begin(self, todo: list[Unit], workers: int, store: Store, plan: str) -> None: ...
    def event(self, worker: int, unit: Unit, message: dict[str, Any]) -> None: ...
    def tick(self) -> None: ...
    def tell(self, text: str) -> None: ...
    def end(self) -> None: ...


class Pool(Protocol):
    """Whoever executes units, at any number of places. `events` waits for the first message, not for ever."""

    @property
    def workers(self) -> Mapping[int, Any]: ...
    def follows(self, unit: Unit) -> bool: ...  # whoever holds it is a job of its own
    def send(self, index: int, message: dict[str, Any]) -> None: ...
    def events(self, seconds: float) -> Iterator[tuple[int, dict[str, Any]]]: ...
    def close(self, stopped: bool = False) -> None: ...


@dataclass
class Outcome:
    """What a sweep left behind."""

    before: Progress
    failed: dict[str, str] = field(default_factory=dict)  # run id -> error
    skipped: dict[str, str] = field(default_factory=dict)  # failed before, not retried
    stopped: bool = False  # by too many failures


class Refused(Exception):
    """A queue does not take the work; the message is in its own words. Nothing is left in it."""


class TooManyFailures(Exception):
    """As many runs failed as were allowed to."""


def run_study(
    study: Study,
    store: Store,
    view: View,
    *,
    retry: bool = False,
    max_failures: int | None = None,
    elsewhere: Elsewhere | None = None,
) -> Outcome:
    """Compute every missing point. A failed unit does not end the others, `max_failures` failed runs do.

    Raises: KeyboardInterrupt after the workers have saved their state; ConfigError when the store is not
    writable.
    """
    before = progress(store, study.points, elsewhere)
    outcome = Outcome(before, skipped={} if retry else dict(before.failed))
    left = [p for p in before.missing(study.points) if p.run_id not in outcome.skipped]
    todo = units(left, study.exec, study.points, store)
    if not todo:
        return outcome
    if study.launcher.HERE:
        check_machine(study, todo)
    store.check_writable()
    study.launcher.ready()
    earlier = files(store)
    plan = record(store, study.name, study.overrides, before.here(study.points), study.budget)
    pool: Pool = study.launcher.pool(store, study.exec, todo, study.name)  # type: ignore[attr-defined]
    dispatcher = Dispatcher(study, store, pool, view, list(todo), outcome, max_failures, elsewhere)
    view.begin(todo, len(pool.workers), store, plan.key)
    try:
        while dispatcher.busy():
            dispatcher.turn()
    except TooManyFailures:
        outcome.stopped = True
    except Refused:
        if f"{plan.key}.json" not in earlier:  # nothing was begun
            store.study(plan.key).unlink(missing_ok=True)
        raise
    finally:
        pool.close(outcome.stopped)
        view.end()
    return outcome


def check_machine(study: Study, todo: list[Unit]) -> None:
    """Raises: ConfigError when this machine has not the memory or the GPU."""
    check(memory(todo, study.exec, study.launcher.count(study.exec.threads)))  # type: ignore[attr-defined]
    if study.exec.device == "cuda":
        from precisionlaws.training.facts import device_of

        device_of("cuda")  # here, where it is one line, and not in every worker


@dataclass
class Dispatcher:
    """The state of a running sweep; everything durable is in the store."""

    study: Study
    store: Store
    pool: Pool
    view: View
    waiting: list[Unit]
    outcome: Outcome
    max_failures: int | None
    elsewhere: Elsewhere | None = None
    active: dict[int, Unit] = field(default_factory=dict)
    watcher: Watcher = field(default_factory=Watcher)

    def busy(self) -> bool:
        return bool(self.waiting or self.active)

    def turn(self) -> None:
        free = [i for i in reversed([*self.pool.workers]) if i not in self.active]
        for unit in list(self.waiting):
            if not free:
                break
            if self.assign(free[-1], unit):
                free.pop()
        for index, message in self.pool.events(POLL_SECONDS):
            self.handle(index, message)
        self.view.tick()

    def assign(self, index: int, unit: Unit) -> bool:
        """Give a unit to a worker unless somebody else holds it; one that others finished is dropped."""
        claims = [self.store.claim(m.name) for m in unit.members]
        held, stale = self.watcher.any_held(claims)
        held = held and not self.pool.follows(unit)
        complete = self.complete(unit)
        if complete or not held:
            self.waiting.remove(unit)
        if complete or held:
            return False
        self.active[index] = unit
        exec = replace(self.study.exec, pack=unit.pack)
        self.pool.send(index, unit.message() | {"exec": plain(exec), "stale": stale})
        return True

    def complete(self, unit: Unit) -> bool:
        points = [p for run in unit.runs for p in self.points[run_id(run)]]
        return not progress(self.store, points, self.elsewhere).missing(points)

    @cached_property
    def points(self) -> dict[str, list[Point]]:
        """Those of each run."""
        found: dict[str, list[Point]] = {}
        for point in self.study.points:
            found.setdefault(point.run_id, []).append(point)
        return found

    def handle(self, index: int, message: dict[str, Any]) -> None:
        unit = self.active.get(index)
        event = message["event"]
        if unit is not None:
            self.view.event(index, unit, message)
        elif event == "note":
            self.view.tell(message["text"])
        left = event == "died" and message["code"] == 0  # in order, as SIGTERM asks
        if (event in ("busy", "stopped") or left) and unit is not None:
            self.waiting.append(unit)
        if event == "failed" and message.get("fatal"):
            raise ConfigError(
                f"the store cannot be written: {message['error']}; what is finished is safe: "
                "make room and run the same command again"
            )
        if event == "failed":
            self.fail(message["runs"], message["error"])
        if event == "died" and not left and unit is not None:
            lost = [run_id(r) for r in unit.runs if not self.store.has(run_id(r))]
            self.fail(lost, message["error"] + last_words(self.store.log(unit.name)))
        if event in ("done", "failed", "busy", "died", "stopped"):
            self.active.pop(index, None)

    def fail(self, runs: list[str], error: str) -> None:
        self.outcome.failed |= dict.fromkeys(runs, error)
        if self.max_failures is not None and len(self.outcome.failed) >= self.max_failures:
            raise TooManyFailures


def last_words(log: Path) -> str:
    """The last line that a unit printed before its worker died, and where the others are; '' if none."""
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return f": {lines[-1]} ({log})" if lines else ""
