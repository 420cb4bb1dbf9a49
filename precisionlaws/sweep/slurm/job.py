"""What one job of an array does: its units, by workers of its own, until they are done or it must go."""

import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from precisionlaws.claims import LEASE_SECONDS
from precisionlaws.config import build
from precisionlaws.ptq.base import eval_id
from precisionlaws.run import Exec, run_id
from precisionlaws.store import Store, listed, write
from precisionlaws.sweep.engine import Dispatcher, Outcome, Refused
from precisionlaws.sweep.launchers.local import Local, Pool
from precisionlaws.sweep.points import Point, Study, nothing
from precisionlaws.sweep.schedule import Unit, progress, unit_of
from precisionlaws.sweep.slurm import queue
from precisionlaws.sweep.slurm.batches import progress_of

# With units that others hold: by then a dead holder is known to be dead.
PATIENCE = 3 * LEASE_SECONDS
STARTS = 4  # of a job without a step forward before it is given up


@dataclass
class Log:
    """Says in the job's log what happens; the first line of a run says where it goes on from."""

    units: list[Unit] = field(default_factory=list)
    before: list[object] = field(default_factory=list)  # how far each was

    def begin(self, todo: list[Unit], workers: int, store: Store, plan: str = "") -> None:
        self.units, self.before = [*todo], [progress_of(store, u) for u in todo]
        say(f"{len(todo)} units on {workers} workers")

    def forward(self, store: Store) -> bool:
        """Whether anything has reached the store since."""
        return [progress_of(store, u) for u in self.units] != self.before

    def event(self, worker: int, unit: Unit, message: dict[str, Any]) -> None:
        kind = message["event"]
        if kind == "at":
            say(f"{unit.name}: {message['run']} step {message['step']}/{message['steps']}")
        elif kind == "note":
            say(message["text"])
        elif kind in ("failed", "died"):
            say(f"{unit.name} failed: {message['error']}")
        elif kind == "done":
            say(f"{unit.name} done")

    def tell(self, text: str) -> None:
        say(text)

    def tick(self) -> None: ...

    def end(self) -> None: ...


def say(text: str) -> None:
    print(time.strftime("%Y-%m-%d %H:%M:%S"), text, flush=True)


def work(store: Store, messages: Sequence[dict[str, Any]], log: Log) -> Outcome:
    """Everything that is missing of these units.

    Raises: KeyboardInterrupt after the workers have saved their state.
    """
    todo = [unit_of(m) for m in messages]
    exec: Exec = build(messages[0]["exec"], Exec)  # type: ignore[assignment]
    points = [p for u, m in zip(todo, messages, strict=True) for p in points_of(u, m)]
    now = progress(store, points)
    missing = {p.run_id for p in now.missing(points)}
    todo = [u for u in todo if missing & {run_id(r) for r in u.runs}]
    outcome = Outcome(now)
    if not todo:
        say("everything is done already")
        return outcome
    count = min(int(messages[0]["workers"]), len(todo))
    study = Study(name="job", points=tuple(points), exec=exec, launcher=Local(workers=count))
    pool = Pool(store, exec.threads, count, gpus(int(messages[0]["gpus"])))
    dispatcher = Dispatcher(study, store, pool, log, todo, outcome, None)
    log.begin(todo, count, store)
    idle = time.monotonic()
    try:
        while dispatcher.busy() and time.monotonic() - idle < PATIENCE:
            dispatcher.turn()
            if dispatcher.active:
                idle = time.monotonic()
    finally:
        pool.close()
    if dispatcher.busy():
        say("others work on what is left")
    return outcome


def points_of(unit: Unit, message: dict[str, Any]) -> list[Point]:
    runs = {run_id(r): (r, {eval_id(p): p for p in ps}) for r, ps in zip(unit.runs, unit.ptqs, strict=True)}  # fmt: skip
    return [
        Point(run, e, runs[run][0], nothing() if e == "final" else runs[run][1][e])
        for run, e in message["points"]
    ]


def gpus(count: int) -> tuple[str, ...]:
    """The job's, to be given to its workers in turn; () where they need not be told apart."""
    visible = tuple(filter(None, os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")))
    return visible if count > 1 and len(visible) > 1 else ()


def keep_errors(store: Store, failed: dict[str, str]) -> None:
    """Of workers that died and could not do so: the sweep reads failures from the store. What killed them
    may be about to kill us, and then it is no failure of theirs."""
    new = {n: e for n, e in failed.items() if "error.json" not in listed(store.run(n))}
    if new:
        time.sleep(2)
    for name, error in new.items():
        with suppress(OSError):
            write(store.run(name) / "error.json", json.dumps({"error": error, "traceback": ""}))


def again(store: Store, messages: Sequence[dict[str, Any]], log: Log) -> int | None:
    """After a signal: have the job queued again unless Slurm is ending it, or it gets nowhere. Its exit
    code; None when it is queued again."""
    id = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        state = queue.state_of(id)
        if state != "RUNNING":
            say(f"saved; Slurm is ending this job ({(state or 'unknown').lower()})")
            return 0
        if not log.forward(store) and int(os.environ.get("SLURM_RESTART_COUNT", "0")) + 1 >= STARTS:
            error = (
                f"no step forward in {STARTS} starts of job {id}: give it more time (launcher.time)"
            )
            keep_errors(store, {run: error for m in messages for run, _ in m["points"] if not store.has(run)})  # fmt: skip
            return 1
        queue.requeue(id)
        say(f"saved; job {id} is queued again")
        return None
    except (Refused, queue.Silent) as error:
        say(f"saved; it could not be queued again: {error}")
    return 0
