"""Upkeep of a store: remove runs, look for damage, and clear what nothing needs any more.

Nothing here is a lock: whatever is removed while somebody works on it is made again by whoever works.
"""

import hashlib
import json
import math
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from precisionlaws.claims import Watcher, bury, lost
from precisionlaws.config import ConfigError
from precisionlaws.heldout import from_bytes
from precisionlaws.run import stored_config, trunk_id
from precisionlaws.store import Store, listed, read_row, saved_steps
from precisionlaws.sweep.recorded import plans

OLD_SECONDS = 3600.0  # a half-written file of this age is nobody's: writing takes seconds
TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}")  # what store.write is at work on
IN_RUN = {"config.yaml", "metrics.jsonl", "held_out.npy", "checkpoint.safetensors", "resume.safetensors", "result.json", "error.json", "points", "layers"}  # fmt: skip
IN_STORE = {"runs", "trunks", "claims", "studies", "cache", "logs", "jobs"}
NEEDED = ("run_id", "eval_id", "N", "D", "status")  # in every row


@dataclass(frozen=True)
class Finding:
    """Something that should not be there, or is not as it should be."""

    path: Path
    what: str
    damaged: bool  # results are wrong or lost; else only space is


def at_work(store: Store) -> dict[str, str]:
    """Run and unit names that a living lease is on -> who."""
    found = {}
    for name in listed(store.root / "claims"):
        content = living(store.root / "claims" / name)
        if name.endswith(".json") and content is not None:
            who = f"{content.get('host')}:{content.get('pid')}"
            found |= {name.removesuffix(".json"): who, str(content.get("run")): who}
    return found


def living(path: Path) -> dict[str, Any] | None:
    """The content of a lease whose holder may be alive."""
    try:
        content = path.read_text()
        held, _ = Watcher().held(path)
        return dict(json.loads(content)) if held and not lost(content) else None
    except (OSError, ValueError, TypeError):
        return None


def unit_of(store: Store, run: str) -> str | None:
    """The trunk of a run of ours; None for one that another loop recorded."""
    path = store.run(run) / "config.yaml"
    return trunk_id(*stored_config(path)) if path.exists() else None


def removable(store: Store, keys: Iterable[tuple[str, str]]) -> list[Path]:
    """Folders of the runs and files of the points that (run_id, eval_id) name.

    Raises: ConfigError when somebody is at work on one of the runs.
    """
    keys = list(keys)
    whole = {run for run, e in keys if e == "final"}
    busy, units = at_work(store), {run: None for run, _ in keys}
    if busy:
        units = {run: unit_of(store, run) for run in units}
    for run, unit in units.items():
        who = busy.get(run) or busy.get(str(unit))
        if who:
            raise ConfigError(
                f"run {run} is being worked on by {who}: stop that first, or wait for it"
            )
    points = [store.point(run, e) for run, e in keys if run not in whole]
    return [store.run(run) for run in sorted(whole)] + points


def remove(paths: Iterable[Path]) -> None:
    """A folder goes as a whole: it is renamed first, so that nobody sees half of it."""
    for path in paths:
        if path.is_dir():
            aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
            os.rename(path, aside)
            shutil.rmtree(aside)
        else:
            path.unlink(missing_ok=True)


def size(path: Path) -> int:
    """Bytes of a file, or of everything in a folder."""
    with suppress(FileNotFoundError):
        if path.is_dir():
            return sum(size(p) for p in path.iterdir())
        return path.stat().st_size
    return 0


def verify(store: Store) -> Iterator[Finding]:
    """Everything that is damaged or left over: rows, checksums of checkpoints, configs, curves, strangers."""
    for name in sorted(listed(store.root) - IN_STORE):
        yield Finding(store.root / name, "is no part of a store", False)
    for name in sorted(listed(store.root / "runs")):
        path = store.root / "runs" / name
        if name.startswith("."):
            yield Finding(path, "half-removed run", False)
        elif not path.is_dir():
            yield Finding(path, "is no run", False)
        else:
            yield from in_run(store, name)
    for path in sorted((store.root / "trunks").glob("*/*")):
        if not TEMPORARY.fullmatch(path.name) and not whole_tensors(path):
            yield Finding(path, "is cut short or damaged; remove it", True)
    try:
        plans(store)
    except ConfigError as error:
        yield Finding(store.root / "studies", str(error), True)
    yield from debris(store)


def in_run(store: Store, name: str) -> Iterator[Finding]:
    folder = store.run(name)
    files = listed(folder)
    for stranger in sorted(files - IN_RUN):
        if not TEMPORARY.fullmatch(stranger):
            yield Finding(folder / stranger, "is no part of a run", False)
    if "config.yaml" in files:
        try:
            node = yaml.safe_load((folder / "config.yaml").read_text())
            if not isinstance(node, dict) or node.get("run_id") != name:
                yield Finding(folder / "config.yaml", "is the config of another run", True)
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            yield Finding(folder / "config.yaml", "cannot be read", True)
    points = sorted(f for f in listed(folder / "points") if not f.startswith("."))
    if "result.json" not in files:
        for point in points:
            yield Finding(folder / "points" / point, "is a point of a run without a result", True)
        return
    row = yield from checked_row(folder / "result.json", name, "final")
    if row is not None:
        yield from checkpoint(folder, files, row)
    if "metrics.jsonl" in files and not whole_lines(folder / "metrics.jsonl"):
        yield Finding(folder / "metrics.jsonl", "is cut short or damaged", True)
    if "held_out.npy" in files and not whole_sums(folder / "held_out.npy", (row or {}).get("loss")):
        yield Finding(folder / "held_out.npy", "is damaged, or does not give its run's loss", True)
    for point in points:
        yield from checked_row(folder / "points" / point, name, point.removesuffix(".json"))


def checked_row(path: Path, run: str, eval_id: str) -> Any:
    """Yields what is wrong with a result file, returns its row."""
    try:
        row = read_row(path)
    except ConfigError as error:
        yield Finding(path, str(error).removeprefix(f"{path} "), True)
        return None
    lacks = [k for k in NEEDED if row.get(k) is None]
    if lacks:
        yield Finding(path, f"lacks {', '.join(lacks)}", True)
    elif (row["run_id"], row["eval_id"]) != (run, eval_id):
        yield Finding(path, f"is the row of {row['run_id']} {row['eval_id']}", True)
    elif row["status"] == "finished" and not isinstance(row.get("loss"), (int, float)):
        yield Finding(path, "is finished and has no loss", True)
    return row


def checkpoint(folder: Path, files: set[str], row: dict[str, Any]) -> Iterator[Finding]:
    path, expected = folder / "checkpoint.safetensors", row.get("checkpoint.sha256")
    if expected is None:  # diverged, recorded from another loop, or of the first version
        return
    if path.name not in files:
        yield Finding(path, "is missing: the run cannot be quantized any more", True)
    elif sha256(path) != expected:
        yield Finding(path, "is not the one that gave its run's loss (sha256 differs)", True)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def whole_tensors(path: Path) -> bool:
    """Whether a safetensors file is as long as its header says."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, 10**8)))
        ends = [t["data_offsets"][1] for k, t in header.items() if k != "__metadata__"]
        return path.stat().st_size == 8 + length + max(ends, default=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return False


def whole_lines(path: Path) -> bool:
    try:
        text = path.read_text()
        return text.endswith("\n") and all(json.loads(line) for line in text.splitlines())
    except (OSError, ValueError):
        return False


def whole_sums(path: Path, loss: object) -> bool:
    """Whether losses by document are there, and have the mean that the row says, if it says one."""
    try:
        count, total = from_bytes(path.read_bytes()).sum(0)
    except (OSError, ValueError):
        return False
    return not isinstance(loss, float) or math.isclose(total / count, loss, rel_tol=1e-9)


def debris(store: Store) -> Iterator[Finding]:
    """What killed processes left: half-written and half-removed files, dead leases, states of finished runs."""
    now = time.time()
    folders = [store.root / part for part in ("studies", "claims", "cache")]
    folders += [store.root / "runs" / n for n in sorted(listed(store.root / "runs"))]
    folders += [f / "points" for f in folders[3:]]
    folders += [store.root / "trunks" / n for n in sorted(listed(store.root / "trunks"))]
    folders += [store.root / "jobs"]  # one that gc was at when it was killed
    for folder in folders:
        for name in sorted(listed(folder)):
            path = folder / name
            if TEMPORARY.fullmatch(name) or name.endswith(".stale"):
                with suppress(FileNotFoundError):
                    if now - path.stat().st_mtime > OLD_SECONDS:
                        yield Finding(path, "half-written", False)
            elif name == "resume.safetensors" and (folder / "result.json").exists():
                yield Finding(path, "state of a run that has finished", False)
            elif folder.name == "claims" and name.endswith(".json") and living(path) is None:
                yield Finding(path, "lease of a process that is gone", False)
    for name in sorted(n for n in listed(store.root / "runs") if n.startswith(".")):
        yield Finding(store.root / "runs" / name, "half-removed run", False)


def idle_trunks(store: Store) -> Iterator[Finding]:
    """Checkpoints of trunks that no unfinished run will start from.

    A run is unfinished if its folder has a config and no result, or a recorded study still owes it or a PTQ of
    its weights before the decay. Nothing of
    a trunk that somebody is at work on is touched.
    """
    busy, owed = at_work(store), branches(store)
    for trunk in sorted(listed(store.root / "trunks")):
        if trunk in busy:
            continue
        found = saved_steps(store.trunk(trunk))
        keep = {max((s for s in found if s <= b), default=None) for b in owed.get(trunk, ())}
        for step in sorted(found.keys() - keep):
            yield Finding(store.trunk(trunk) / found[step], "no unfinished run needs it", False)


def branches(store: Store) -> dict[str, set[int]]:
    """Trunk -> steps where its unfinished runs leave it."""
    owed: dict[str, set[int]] = {}
    for job in (j for plan in plans(store) for j in plan.jobs):
        before_decay = [e for e in job.points if e.startswith("stable")]
        if not all(store.has(job.run, e) for e in ("final", *before_decay)):
            owed.setdefault(job.unit, set()).add(job.branch)
    for name in listed(store.root / "runs"):
        path = store.run(name) / "config.yaml"
        if not name.startswith(".") and path.exists() and not store.has(name):
            run, fingerprint = stored_config(path)
            branch = run.lr_schedule.decay_start(run.steps)
            owed.setdefault(trunk_id(run, fingerprint), set()).add(branch)
    return owed


def clear(findings: Iterable[Finding]) -> int:
    """Remove what was found; bytes that are free now."""
    freed = 0
    for finding in findings:
        bytes_ = size(finding.path)
        if finding.path.parent.name == "claims" and finding.path.suffix == ".json":
            with suppress(FileNotFoundError):
                bury(finding.path, finding.path.read_text())
        else:
            remove([finding.path])
        freed += bytes_
        if finding.path.parent.parent.name == "trunks":
            with suppress(OSError):  # not empty
                finding.path.parent.rmdir()
    return freed
