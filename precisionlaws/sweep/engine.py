"""Run a study, or go on with it: hand units to workers until every point is in the store."""

from dataclasses import dataclass, field
from typing import Any, Protocol

from precisionlaws.claims import Watcher
from precisionlaws.config import ConfigError, plain
from precisionlaws.run import run_id
from precisionlaws.store import Store
from precisionlaws.sweep.launchers.local import Pool
from precisionlaws.sweep.points import Study
from precisionlaws.sweep.schedule import Progress, Unit, progress, units

POLL_SECONDS = 1.0


class View(Protocol):
    """Whoever shows the sweep."""

    def begin(self, todo: list[Unit], workers: int) -> None: ...
    def event(self, worker: int, unit: Unit, message: dict[str, Any]) -> None: ...
    def tick(self) -> None: ...
    def end(self) -> None: ...


@dataclass
class Outcome:
    """What a sweep left behind."""

    before: Progress
    failed: dict[str, str] = field(default_factory=dict)  # run id -> error
    skipped: dict[str, str] = field(default_factory=dict)  # failed before, not retried


class FailFast(Exception):
    """--fail-fast and something failed."""


def run_study(
    study: Study, store: Store, view: View, *, retry: bool = False, fail_fast: bool = False
) -> Outcome:
    """Compute every missing point. A failed unit does not end the others (unless `fail_fast`).

    Raises: KeyboardInterrupt after the workers have saved their state; ConfigError when the store is not
    writable.
    """
    before = progress(store, study.points)
    outcome = Outcome(before, skipped={} if retry else dict(before.failed))
    todo = units(p for p in before.missing(study.points) if p.run_id not in outcome.skipped)
    if not todo:
        return outcome
    if study.exec.device == "cuda":
        from precisionlaws.training.facts import device_of

        device_of("cuda")  # here, where it is one line, and not in every worker
    store.check_writable()
    pool = study.launcher.pool(store, study.exec.threads, len(todo))  # type: ignore[attr-defined]
    dispatcher = Dispatcher(study, store, pool, view, list(todo), outcome, fail_fast)
    view.begin(todo, len(pool.workers))
    try:
        while dispatcher.busy():
            dispatcher.turn()
    except FailFast:
        pass
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
    fail_fast: bool
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
            held, stale = self.watcher.held(self.store.claim(unit.name))
            if held:
                if self.complete(unit):
                    self.waiting.remove(unit)
                continue
            self.waiting.remove(unit)
            if self.complete(unit):
                continue
            self.active[index] = unit
            self.pool.send(index, unit.message() | {"exec": plain(self.study.exec), "stale": stale})
            return

    def complete(self, unit: Unit) -> bool:
        names = {run_id(r) for r in unit.runs}
        points = [p for p in self.study.points if p.run_id in names]
        return not progress(self.store, points).missing(points)

    def handle(self, index: int, message: dict[str, Any]) -> None:
        unit = self.active.get(index)
        event = message["event"]
        if unit is not None:
            self.view.event(index, unit, message)
        if event == "busy" and unit is not None:
            self.waiting.append(unit)
        if event == "failed" and message.get("fatal"):
            raise ConfigError(
                f"the store cannot be written: {message['error']}; what is finished is safe: "
                "make room and run the same command again"
            )
        if event == "failed":
            self.fail(message["runs"], message["error"])
        if event == "died" and unit is not None:
            lost = [run_id(r) for r in unit.runs if not self.store.has(run_id(r))]
            self.fail(lost, message["error"])
        if event in ("done", "failed", "busy", "died", "stopped"):
            self.active.pop(index, None)

    def fail(self, runs: list[str], error: str) -> None:
        self.outcome.failed |= dict.fromkeys(runs, error)
        if self.fail_fast:
            raise FailFast
