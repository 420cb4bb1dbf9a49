"""The submitter's side: units become jobs, and what becomes of them is read from the store and the queue.

To the engine it is a pool with a worker for every unit. It may die at any moment: jobs carry the name of their
batch, so whoever runs the sweep again finds them in the queue and follows them.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from precisionlaws.claims import Lease, Watcher, acquire
from precisionlaws.run import Exec
from precisionlaws.store import Store, listed, read_json
from precisionlaws.sweep.engine import Refused
from precisionlaws.sweep.launchers.slurm import Slurm
from precisionlaws.sweep.rates import rates
from precisionlaws.sweep.schedule import Key, Unit
from precisionlaws.sweep.slurm import batches, queue
from precisionlaws.sweep.slurm.batches import Batch
from precisionlaws.sweep.slurm.queue import Silent, Task
from precisionlaws.sweep.slurm.script import batches as batches_of

TRIES = 3  # submissions of a unit without a step forward
ABSENT_SECONDS = 60.0  # and two looks, until a job that the queue does not show is gone
# Its last files may be on their way; and on its way back to the queue a job passes through states of ended ones.
SETTLE_SECONDS = 5.0
HOPELESS = {"FAILED", "OUT_OF_MEMORY", "DEADLINE", "REVOKED"}  # would end so again

Place = tuple[str, int]  # batch, index in it
Event = tuple[int, dict[str, Any]]


@dataclass
class Following:
    """A unit that has been submitted."""

    unit: Unit
    place: Place
    points: list[Key]
    since: float = 0.0  # absent from the queue; 0 while it is there
    looks: int = 0  # at which it was absent


@dataclass
class Tries:
    """How often a unit was submitted, and how far it was then."""

    count: int = 0
    at: object = None


class SlurmPool:
    """`workers`: one per unit, or per place in the queue."""

    def __init__(self, launcher: Slurm, store: Store, exec: Exec, todo: Sequence[Unit], study: str):
        self.launcher, self.store, self.exec, self.study = launcher, store, exec, study
        self.units = {u.name: u for u in todo}
        self.known = rates(store, exec)
        places = launcher.queued and launcher.queued * launcher.units_per_job
        self.workers = dict.fromkeys(range(min(len(todo), places or len(todo))))
        self.waiting: dict[int, Unit] = {}
        self.followed: dict[int, Following] = {}
        self.tries: dict[str, Tries] = {}
        self.full = 0  # units in the queue when the site took no more; 0: it does
        self.news: list[str] = []
        self.silent_since = 0.0
        self.answered = False
        self.at_work: dict[Key, Place] | None = None  # of jobs in the queue at the last look

    def follows(self, unit: Unit) -> bool:
        """Whether a job in the queue does it, which holds it while it runs."""
        if self.at_work is None:
            try:
                self.at_work = self.where(self.ask())
            except Silent:  # `events` says so
                self.at_work = {}
        return place_of(unit, self.at_work) is not None

    def send(self, index: int, message: dict[str, Any]) -> None:
        self.waiting[index] = self.units[message["unit"]]

    def events(self, seconds: float) -> Iterator[Event]:
        """Submit what is waiting, look at the queue, say what has changed.

        Raises: Refused, with nothing of this call left in the queue; KeyboardInterrupt when jobs were cancelled
        on purpose.
        """
        if not (self.followed or self.waiting):  # others hold what is left
            return time.sleep(seconds)
        try:
            seen, self.at_work = self.ask(), None
            self.silent_since, self.answered = 0.0, True
            yield from self.look(seen)
            if self.waiting:
                yield from self.submit()
        except Silent as silent:
            if not self.answered:
                raise Refused(f"no answer: {silent}") from None
            yield from self.unanswered(str(silent))
        yield from ((-1, {"event": "note", "text": text}) for text in self.news)
        self.news.clear()
        time.sleep(self.launcher.poll if self.followed or self.waiting else 0.0)

    def unanswered(self, words: str) -> Iterator[Event]:
        """Once per silence."""
        if not self.silent_since:
            self.silent_since = time.monotonic()
            yield (
                -1,
                {
                    "event": "note",
                    "text": f"Slurm does not answer ({words}); jobs go on without it",
                },
            )

    def close(self, stopped: bool = False) -> None:
        """Jobs go on without us; after too many failures they are not wanted any more."""
        if stopped:
            mine = {f.place[0] for f in self.followed.values()}
            with suppress(Silent):
                queue.cancel(sorted({t.job for t in queue.tasks(mine) if t.live}))

    # Submission.

    def submit(self) -> Iterator[Event]:
        """One submitter at a time: two must not both find a unit in no queue."""
        lease = self.lease()
        if lease is None:
            return
        try:
            seen = self.ask()
            attached = self.attach(seen)
            if attached:
                yield -1, {"event": "note", "text": f"{attached} units are in the queue already"}
            live = any(t.live for t in seen.values())
            if self.waiting and not self.still_full(seen):
                self.full = 0
                yield from self.arrays(live)
        finally:
            lease.release()

    def lease(self) -> Lease | None:
        path = batches.root(self.store) / "submitting.json"
        held, stale = watcher.held(path)
        return None if held else acquire(path, stale)

    def ask(self) -> dict[Place, Task]:
        """Raises: Silent."""
        return {(t.name, t.index): t for t in queue.tasks(batches.names(self.store))}

    def attach(self, seen: Mapping[Place, Task]) -> int:
        """Follow the jobs in the queue that do what is waiting."""
        where = self.where(seen)
        found = 0
        for index, unit in [*self.waiting.items()]:
            place = place_of(unit, where)
            if place is not None:
                self.follow(index, place, batches.points_of(unit))
                found += 1
        return found

    def where(self, seen: Mapping[Place, Task]) -> dict[Key, Place]:
        """Which job in the queue makes which point; none of those that somebody cancelled."""
        found: dict[Key, Place] = {}
        for name in {t.name for t in seen.values() if t.live}:
            if batches.cancelled(self.folder(name)):
                continue
            for index, task in enumerate(batches.read_tasks(self.folder(name))):
                if (name, index) in seen and seen[name, index].live:
                    keys = (tuple(k) for m in task for k in m["points"])
                    found |= dict.fromkeys(keys, (name, index))  # type: ignore[arg-type]
        return found

    def follow(self, index: int, place: Place, points: list[Key]) -> None:
        self.followed[index] = Following(self.waiting.pop(index), place, points)

    def arrays(self, live: bool) -> Iterator[Event]:
        """Submit everything that waits, or as much as the site takes."""
        indexes = {u.name: i for i, u in self.waiting.items()}
        most = queue.most_tasks()
        made = self.batches(most)
        begun: list[tuple[int, Batch]] = []
        while made:
            batch = made.pop(0)
            try:
                begun.append((self.begin(batch), batch))
                for message in (m for task in batch.tasks for m in task):
                    self.count(self.units[message["unit"]])
            except Refused as refused:
                batch.discard()
                if not queue.full(refused):
                    self.undo(begun)
                    raise
                if len(batch.tasks) > 1:  # as many as it takes
                    most = len(batch.tasks) // 2
                    made = self.batches(most)
                    continue
                if not (live or begun):
                    raise
                self.full = len(self.followed)
                self.news.append(
                    f"{len(self.waiting)} units wait until the site takes more jobs: {refused}"
                )
                break
            for i, task in enumerate(batch.tasks):
                for message in task:
                    index = indexes[message["unit"]]
                    self.follow(index, (batch.name, i), batches.points_of(self.waiting[index]))
        for job, batch in begun:
            yield -1, {"event": "note", "text": f"submitted array {job} of {len(batch.tasks)} jobs: {batch.name}"}  # fmt: skip

    def batches(self, most: int) -> list[Batch]:
        return batches_of(
            list(self.waiting.values()), self.launcher, self.exec, self.store, self.known,
            self.study, most,
        )  # fmt: skip

    def begin(self, batch: Batch) -> int:
        """Failures of earlier jobs are forgotten, as these try again."""
        for message in (m for task in batch.tasks for m in task):
            for run in {run for run, _ in message["points"]}:
                (self.store.run(run) / "error.json").unlink(missing_ok=True)
        batch.save()
        return queue.submit(str(batch.folder / "job.sh"))

    def count(self, unit: Unit) -> None:
        tries, at = self.tries.setdefault(unit.name, Tries()), batches.progress_of(self.store, unit)
        tries.count = 1 if at != tries.at else tries.count + 1
        tries.at = at

    def undo(self, begun: Sequence[tuple[int, Batch]]) -> None:
        """Nothing is submitted by half."""
        for batch in (b for _, b in begun):
            batches.mark_cancelled([batch.folder])
        if begun:
            queue.cancel([job for job, _ in begun])

    def still_full(self, seen: Mapping[Place, Task]) -> bool:
        """Until one of ours has ended."""
        live = sum(f.place in seen and seen[f.place].live for f in self.followed.values())
        return 0 < self.full <= live

    # Following.

    def look(self, seen: Mapping[Place, Task]) -> Iterator[Event]:
        yield from self.check_cancelled(seen)
        for index, one in [*self.followed.items()]:
            task = seen.get(one.place)
            if task is not None and task.state in queue.WAITING:
                one.since = one.looks = 0
                continue
            event = self.result(one)
            if event is None and task is not None and task.live:
                one.since = one.looks = 0
                continue
            if event is None:
                event = self.ended(one, task)
            if event is not None:
                del self.followed[index]
                yield index, event

    def result(self, one: Following) -> dict[str, Any] | None:
        """What the store says of a unit: done, failed, or nothing yet."""
        errors, missing = {}, False
        for run in dict.fromkeys(run for run, _ in one.points):
            files = listed(self.store.run(run))
            have = {"final"} if "result.json" in files else set()
            if "points" in files:
                have |= {p.removesuffix(".json") for p in listed(self.store.run(run) / "points")}
            owed = {e for r, e in one.points if r == run} - have
            if owed and "final" in have and read_json(self.store.result(run)).get("status") == "diverged":  # fmt: skip
                owed = set()
            missing |= bool(owed)
            if owed and "error.json" in files:
                errors[run] = str(read_json(self.store.run(run) / "error.json").get("error"))
        if not missing:
            return {"event": "done"}
        if errors:
            return {"event": "failed", "runs": [*errors], "error": next(iter(errors.values()))}
        return None

    def ended(self, one: Following, task: Task | None) -> dict[str, Any] | None:
        """A job that is over, or that the queue does not show any more, and a unit that is not done."""
        now = time.monotonic()
        one.since, one.looks = one.since or now, one.looks + 1
        if task is None and (one.looks < 2 or now - one.since < ABSENT_SECONDS):
            return None
        if one.looks < 2 or now - one.since < SETTLE_SECONDS:
            return None
        name, index = one.place
        what = f"job {task.id} ended as {task.state}" if task else f"job {index} of {name} is gone"
        log = self.folder(name) / f"{index}.log"
        tries = self.tries.setdefault(one.unit.name, Tries())
        hopeless = task is not None and task.state in HOPELESS
        if hopeless or (
            tries.count >= TRIES and tries.at == batches.progress_of(self.store, one.unit)
        ):
            runs = [
                run for run in dict.fromkeys(r for r, _ in one.points) if not self.store.has(run)
            ]
            return {
                "event": "failed",
                "runs": runs or [one.points[0][0]],
                "error": what + last_words(log),
            }
        self.news.append(f"{what} and is submitted again: {one.unit.name}")
        return {"event": "stopped"}

    def check_cancelled(self, seen: Mapping[Place, Task]) -> Iterator[Event]:
        """Raises: KeyboardInterrupt when somebody cancelled a whole array, which is no accident."""
        for name in {f.place[0] for f in self.followed.values()}:
            tasks = [t for (n, _), t in seen.items() if n == name]
            ended = [t for t in tasks if t.state == "CANCELLED"]
            others = any(t.live or t.state not in ("CANCELLED", "COMPLETED") for t in tasks)
            whole = ended and not others and (len(ended) > 1 or len(tasks) == 1)
            if whole or batches.cancelled(self.folder(name)):
                yield -1, {"event": "note", "text": f"the jobs of {name} were cancelled"}
                raise KeyboardInterrupt

    def folder(self, name: str) -> Path:
        return batches.root(self.store) / name


watcher = Watcher()


def place_of(unit: Unit, where: Mapping[Key, Place]) -> Place | None:
    """The job that does all of a unit."""
    places = {where.get(k) for k in batches.points_of(unit)}
    return places.pop() if len(places) == 1 else None


def last_words(log: Path) -> str:
    """The end of a job's log, and where it is."""
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        return f"; it wrote no log: do nodes see {log.parent}?"
    return f": {lines[-1]} ({log})" if lines else f" ({log} is empty)"
