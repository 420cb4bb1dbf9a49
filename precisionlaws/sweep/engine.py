"""Run a study, or go on with it: hand units to workers until every point is in the store."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from precisionlaws.claims import Watcher
from precisionlaws.config import ConfigError, plain
from precisionlaws.run import run_id
from precisionlaws.store import Store
from precisionlaws.sweep.launchers.local import Local, Pool
from precisionlaws.sweep.memory import check, memory
from precisionlaws.sweep.points import Study
from precisionlaws.sweep.recorded import record
from precisionlaws.sweep.schedule import Elsewhere, Progress, Unit, progress, units

POLL_SECONDS = 1.0


class View(Protocol):
    """Whoever shows the sweep. plan: the key under which the store has it (recorded.py)."""

    def begin(self, todo: list[Unit], workers: int, store: Store, plan: str) -> None: ...
    def event(self, worker: int, unit: Unit, message: dict[str, Any]) -> None: ...
    def tick(self) -> None: ...
    def end(self) -> None: ...


@dataclass
class Outcome:
    """What a sweep left behind."""

    before: Progress
    failed: dict[str, str] = field(default_factory=dict)  # run id -> error
    skipped: dict[str, str] = field(default_factory=dict)  # failed before, not retried
    stopped: bool = False  # by too many failures


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
    if isinstance(study.launcher, Local):  # elsewhere, other machines' memory counts
        check(memory(todo, study.exec, study.launcher.count(study.exec.threads)))
    if study.exec.device == "cuda":
        from precisionlaws.training.facts import device_of

        device_of("cuda")  # here, where it is one line, and not in every worker
    store.check_writable()
    plan = record(store, study.name, study.overrides, before.here(study.points))
    pool = study.launcher.pool(store, study.exec.threads, len(todo))  # type: ignore[attr-defined]
    dispatcher = Dispatcher(study, store, pool, view, list(todo), outcome, max_failures, elsewhere)
    view.begin(todo, len(pool.workers), store, plan.key)
    try:
        while dispatcher.busy():
            dispatcher.turn()
    except TooManyFailures:
        outcome.stopped = True
    finally:
        pool.close()
        view.end()
    return outcome


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
        for index in self.pool.workers:
            if index not in self.active:
                self.assign(index)
        for index, message in self.pool.events(POLL_SECONDS):
            self.handle(index, message)
        self.view.tick()

    def assign(self, index: int) -> None:
        """The first waiting unit that nobody else holds; units that others finished are dropped."""
        for unit in list(self.waiting):
            claims = [self.store.claim(m.name) for m in unit.members]
            held, stale = self.watcher.any_held(claims)
            if held:
                if self.complete(unit):
                    self.waiting.remove(unit)
                continue
            self.waiting.remove(unit)
            if self.complete(unit):
                continue
            self.active[index] = unit
            exec = replace(self.study.exec, pack=unit.pack)
            self.pool.send(index, unit.message() | {"exec": plain(exec), "stale": stale})
            return

    def complete(self, unit: Unit) -> bool:
        names = {run_id(r) for r in unit.runs}
        points = [p for p in self.study.points if p.run_id in names]
        return not progress(self.store, points, self.elsewhere).missing(points)

    def handle(self, index: int, message: dict[str, Any]) -> None:
        unit = self.active.get(index)
        event = message["event"]
        if unit is not None:
            self.view.event(index, unit, message)
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
