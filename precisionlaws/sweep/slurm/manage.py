"""From anywhere: what a sweep would submit, its scripts without submission, what is in the queue, the end of it."""

import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from precisionlaws.config import ConfigError
from precisionlaws.store import Store, listed, read_row
from precisionlaws.sweep.points import Study
from precisionlaws.sweep.rates import Rates, rates
from precisionlaws.sweep.recorded import record
from precisionlaws.sweep.schedule import Progress, progress, units
from precisionlaws.sweep.slurm import batches, queue
from precisionlaws.sweep.slurm.batches import Batch
from precisionlaws.sweep.slurm.script import batches as batches_of
from precisionlaws.sweep.upkeep import OLD_SECONDS, Finding

ASK_SECONDS = 10.0  # between two questions to Slurm, which others ask too
DEFAULT = 1001  # Slurm's own MaxArraySize


def prepared(
    study: Study, store: Store, now: Progress, known: Rates, retry: bool = False
) -> Sequence[Batch]:
    """The arrays of everything that is missing, as `sweep` would submit it. Nothing is written.

    Raises: ConfigError when the study's launcher is another.
    """
    from precisionlaws.sweep.launchers.slurm import Slurm

    if not isinstance(study.launcher, Slurm):
        raise ConfigError(f"launcher={study.launcher.SHORT} has no job scripts; use launcher=slurm")
    skipped = () if retry else now.failed
    left = [p for p in now.missing(study.points) if p.run_id not in skipped]
    todo = units(left, study.exec, study.points, store)
    return batches_of(todo, study.launcher, study.exec, store, known, study.name, most_tasks())


def most_tasks() -> int:
    """Of the cluster, where this is one of its machines."""
    try:
        return queue.most_tasks()
    except (ConfigError, queue.Silent):
        return DEFAULT


def write(study: Study, store: Store) -> list[Batch]:
    """The scripts of what is missing and in no queue, in the store, to be submitted by hand.

    Raises: ConfigError when the store is not writable.
    """
    now = progress(store, study.points)
    made = [*prepared(study, store, now, rates(store, study.exec), retry=True)]
    if made:
        store.check_writable()
        record(store, study.name, study.overrides, study.points)
    for batch in made:
        batch.save()
    return made


@dataclass
class Queue:
    """What is in the queue of a store, asked for now and then."""

    store: Store
    asked: float = -math.inf
    known: Counter[tuple[str, str]] = field(default_factory=Counter)
    silent: bool = False

    def look(self) -> Counter[tuple[str, str]]:
        if time.monotonic() - self.asked >= ASK_SECONDS:
            self.asked, self.silent = time.monotonic(), False
            try:
                self.known = queued(self.store)
            except ConfigError:  # not a machine of the cluster
                self.known = Counter()
            except queue.Silent:
                self.silent = True
        return self.known

    def lines(self) -> list[str]:
        """For a terminal."""
        found = self.look()
        states = [f"{n:,} {s.lower()}{'' if r == 'None' else f' ({r})'}" for (s, r), n in found.most_common()]  # fmt: skip
        said = "; Slurm does not answer" if self.silent else ""
        return [f"  in the queue: {', '.join(states)}{said}"] if states or said else []


def queued(store: Store) -> Counter[tuple[str, str]]:
    """(state, reason) of the jobs of a store in the queue -> how many. Raises: ConfigError, Silent."""
    names = batches.names(store)
    found = queue.tasks(names) if names else []
    return Counter((t.state, t.reason) for t in found if t.live)


def cancel(store: Store, study: str | None = None) -> dict[str, int]:
    """End every job of a store, or of a study; batch -> how many. Whoever follows them stops, too.

    Raises: ConfigError, Refused, Silent.
    """
    wanted = {n for n in batches.names(store) if study is None or n.rsplit("-", 2)[0] == study}
    live = [t for t in queue.tasks(wanted) if t.live]
    batches.mark_cancelled(batches.root(store) / n for n in {t.name for t in live})
    queue.cancel(sorted({t.job for t in live}))
    return dict(Counter(t.name for t in live))


def ended(store: Store) -> Iterator[Finding]:
    """Folders of the user's batches that are in no queue, have all they were to do in the store, and rest for an
    hour. One that failed or was cancelled halfway stays, with its logs.

    Raises: ConfigError, Silent when there are such and Slurm cannot be asked.
    """
    folders = [batches.root(store) / name for name in sorted(batches.names(store))]
    able = [f for f in folders if f.is_dir() and at_rest(f) and fulfilled(store, f)]
    known = {t.name for t in queue.tasks()} if able else set()
    for folder in able:
        if folder.name not in known:
            yield Finding(
                folder, "jobs that have ended, with all they were to do in the store", False
            )


def at_rest(folder: Path) -> bool:
    """Whether it is the user's, whose queue can be asked for, and nothing in it has changed for long."""
    files = [folder, *(folder / name for name in listed(folder))]
    try:
        newest = max(f.stat().st_mtime for f in files)
        return folder.stat().st_uid == os.getuid() and time.time() - newest > OLD_SECONDS
    except FileNotFoundError:  # somebody is at it
        return False


def fulfilled(store: Store, folder: Path) -> bool:
    """Whether every point of every job is there, or never will be as its run diverged."""
    asked = [
        (run, e) for task in batches.read_tasks(folder) for m in task for run, e in m["points"]
    ]
    return bool(asked) and all(store.has(run, e) or diverged(store, run) for run, e in asked)


def diverged(store: Store, run: str) -> bool:
    return store.has(run) and read_row(store.result(run)).get("status") == "diverged"
