"""Leases: who works on a unit. They save work and are never needed for correctness, since the first
published result wins.

A lease is a file whose content its worker rewrites every few seconds. Others watch the *content* by
their own clock (clocks and mtimes differ between machines); one that stays the same for a minute, or
whose process is gone from this host, may be taken over.
"""

import json
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from precisionlaws.store import write

BEAT_SECONDS = 5.0
LEASE_SECONDS = 60.0
RELEASE_SECONDS = 10.0  # for a disk that is slow to take the last beat
LOST_SECONDS = 600.0  # by two clocks, where one look must do: clocks of machines differ by less


class Lease:
    """A held claim; beats in a thread until released. Each beat also tells others how far the work is.

    A holder that slept for so long that another took over leaves the other's lease alone.
    """

    def __init__(self, path: Path, owner: dict[str, object]):
        self.path, self.owner, self.beat = path, owner, 0
        self.note: dict[str, object] = {}
        self.start, self.tokens = time.monotonic(), 0
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.keep, daemon=True)
        self.thread.start()

    def keep(self) -> None:
        while not self.done.wait(BEAT_SECONDS):
            self.beat += 1
            with suppress(OSError):  # a full disk must not end the work that could free it
                if self.others():
                    return
                write(self.path, text(self.owner | self.note, self.beat))

    def tell(self, run: str, step: int, steps: int, batch: int, loss: float) -> None:
        """Note for the next beat. batch: tokens per step. tokens, seconds: trained under this lease, and
        how long that took by its holder's clock."""
        if run == self.note.get("run"):
            before = self.note["step"]
            assert isinstance(before, int)
            self.tokens += max(0, step - before) * batch  # a step back: from a decay to its trunk
        elif not self.note:
            self.start = time.monotonic()  # imports and compilation are no training
        self.note = {
            "run": run, "step": step, "steps": steps, "loss": loss if math.isfinite(loss) else None,
            "tokens": self.tokens, "seconds": time.monotonic() - self.start,
        }  # fmt: skip

    def release(self) -> None:
        """After a beat that is on its way, which would put the file back."""
        self.done.set()
        self.thread.join(RELEASE_SECONDS)
        with suppress(OSError):
            if not self.others():
                self.path.unlink(missing_ok=True)

    def others(self) -> bool:
        """Whether somebody else holds it by now."""
        try:
            return json.loads(self.path.read_text())["id"] != self.owner["id"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return False


def text(owner: dict[str, object], beat: int) -> str:
    return json.dumps(owner | {"beat": beat, "time": time.time()})


def acquire(path: Path, stale: str | None = None) -> Lease | None:
    """The lease at `path` if it is free, or if its content is still the `stale` one; else None."""
    owner: dict[str, object] = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "id": uuid.uuid4().hex,
    }
    if stale is not None:
        bury(path, stale)
    return Lease(path, owner) if write(path, text(owner, 0), replace=False) else None


def acquire_all(paths: Sequence[Path], stale: Mapping[str, str]) -> list[Lease]:
    """The leases at all of `paths`, or none of them. stale: contents of dead leases by file name."""
    leases: list[Lease] = []
    for path in paths:
        lease = acquire(path, stale.get(path.name))
        if lease is None:
            for held in leases:
                held.release()
            return []
        leases.append(lease)
    return leases


def bury(path: Path, stale: str) -> None:
    """Remove a dead lease unless somebody renewed it meanwhile: rename first, then look."""
    grave = path.with_suffix(f".{uuid.uuid4().hex}.stale")
    with suppress(FileNotFoundError):
        os.rename(path, grave)
        if grave.read_text() != stale:
            with suppress(FileExistsError):
                os.link(grave, path)
        grave.unlink()


class Watcher:
    """Decides whether another's lease is alive; remembers since when each content was seen."""

    def __init__(self) -> None:
        self.seen: dict[Path, tuple[str, float]] = {}

    def held(self, path: Path) -> tuple[bool, str | None]:
        """(somebody is working there, content of a dead lease that may be taken over)."""
        try:
            content = path.read_text()
        except FileNotFoundError:
            return False, None
        if gone(content):
            return False, content
        before, since = self.seen.get(path, ("", 0.0))
        if content != before:
            self.seen[path] = (content, time.monotonic())
            return True, None
        return (True, None) if time.monotonic() - since < LEASE_SECONDS else (False, content)

    def any_held(self, paths: Sequence[Path]) -> tuple[bool, dict[str, str]]:
        """(somebody is working at one of `paths`, contents of dead leases by file name)."""
        found = {path.name: self.held(path) for path in paths}
        stale = {name: content for name, (_, content) in found.items() if content is not None}
        return any(held for held, _ in found.values()), stale


def lost(content: str) -> bool:
    """Whether one look says that nobody works there: the process has ended, or its last beat is old."""
    try:
        return gone(content) or time.time() - json.loads(content)["time"] > LOST_SECONDS
    except (ValueError, KeyError, TypeError):
        return False


def gone(content: str) -> bool:
    """Whether the owner was a process of this host that has ended."""
    try:
        owner = json.loads(content)
        if owner["host"] != socket.gethostname():
            return False
        os.kill(int(owner["pid"]), 0)
    except ProcessLookupError:
        return True
    except (ValueError, KeyError, TypeError, PermissionError):
        return False
    return False
