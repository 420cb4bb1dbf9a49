"""Batches: what one job array is to do, kept in the store, as JSON and never as a pickle.

<store>/jobs/<batch>/  job.sh       what sbatch is given; the batch's name is the name of its jobs
                       tasks.jsonl  a line per job: its units, as a worker is told them
                       <n>.log      what job n printed
                       cancelled    `jobs cancel` was here
"""

import json
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from precisionlaws.config import ConfigError, digest
from precisionlaws.ptq.base import eval_id
from precisionlaws.run import run_id, trunk_id
from precisionlaws.store import Store, listed, write
from precisionlaws.sweep.schedule import Key, Unit

Message = dict[str, Any]  # a unit, as a worker is told it, and its `points`


@dataclass(frozen=True)
class Batch:
    """One array of jobs that ask for the same."""

    name: str
    folder: Path
    tasks: tuple[tuple[Message, ...], ...]
    script: str

    def save(self) -> None:
        """The script last: where it is, the rest is."""
        lines = "".join(json.dumps(list(task)) + "\n" for task in self.tasks)
        write(self.folder / "tasks.jsonl", lines)
        write(self.folder / "job.sh", self.script)

    def discard(self) -> None:
        for name in ("tasks.jsonl", "job.sh"):
            (self.folder / name).unlink(missing_ok=True)
        self.folder.rmdir()

    @property
    def command(self) -> str:
        """For a shell."""
        return f"sbatch {shlex.quote(str(self.folder / 'job.sh'))}"


def root(store: Store) -> Path:
    """Absolute: nodes start elsewhere."""
    return store.root.absolute() / "jobs"


def names(store: Store) -> set[str]:
    """Of all batches that were ever made."""
    return {n for n in listed(root(store)) if not n.startswith(".")}


def fresh_name(
    study: str, tasks: Sequence[Sequence[Message]], store: Store, taken: set[str]
) -> str:
    """The same for the same work of the same store, numbered when it is done again."""
    stem = f"{study}-{digest(json.dumps([str(root(store)), tasks]))[:8]}"
    return next(n for i in range(len(taken) + 1) if (n := f"{stem}-{i}") not in taken)


def points_of(unit: Unit) -> list[Key]:
    """Of its runs, and of the PTQs that are asked for."""
    pairs = zip(unit.runs, unit.ptqs, strict=True)
    return [(run_id(r), e) for r, ps in pairs for e in ("final", *map(eval_id, ps))]


def progress_of(store: Store, unit: Unit) -> object:
    """Changes whenever anything of a unit reaches the store."""
    trunks = [sorted(listed(store.trunk(trunk_id(r)))) for r in unit.runs]
    runs = []
    for run in unit.runs:
        folder = store.run(run_id(run))
        runs.append(sorted(listed(folder) - {"error.json", "config.yaml"}))
        runs.append(sorted(listed(folder / "points")))
        with suppress(OSError):
            runs.append([str((folder / "resume.safetensors").stat().st_mtime_ns)])
    return trunks, runs


def chunks(items: Sequence[Any], most: int) -> Iterator[Sequence[Any]]:
    for i in range(0, len(items), most):
        yield items[i : i + most]


def read_tasks(folder: Path) -> list[list[Message]]:
    """Raises: ConfigError when the file is damaged; none of one that is not there (yet)."""
    path = folder / "tasks.jsonl"
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None


def read_task(folder: Path, index: int) -> list[Message]:
    """Raises: ConfigError when this batch has no such job."""
    found = read_tasks(folder)
    if not 0 <= index < len(found):
        raise ConfigError(
            f"{folder} has {len(found)} jobs, none is number {index}: was it removed, or does this node not "
            "see the store?"
        )
    return found[index]


def cancelled(folder: Path) -> bool:
    return "cancelled" in listed(folder)


def mark_cancelled(folders: Iterable[Path]) -> None:
    """Before their jobs are: whoever follows them must not submit them again."""
    for folder in folders:
        write(folder / "cancelled", "")
