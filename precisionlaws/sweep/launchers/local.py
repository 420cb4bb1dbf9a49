"""Worker processes on this machine: one single-threaded worker per core by default.

Two single-threaded processes train 1.15 to 6 times more tokens than one process with two threads (the
more, the busier the machine), so threads are an option and not the default.
"""

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

from precisionlaws.config import hints, ranged
from precisionlaws.run import Exec, Launcher
from precisionlaws.store import Store

POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True, kw_only=True)
class Local(Launcher):
    """`workers` processes; null = cores / threads."""

    SHORT: ClassVar[str] = "local"
    workers: int | None = ranged(1, 4096)

    @classmethod
    def missing(cls, key: str, place: str) -> str:
        from precisionlaws.sweep.launchers.slurm import Slurm

        return "; it is of launcher=slurm: add that" if key in hints(Slurm) else ""

    def count(self, threads: int) -> int:
        return self.workers or max(1, cores() // threads)

    def pool(self, store: Store, exec: Exec, todo: Sequence[Any], study: str) -> "Pool":
        return Pool(store, exec.threads, min(self.count(exec.threads), len(todo)))


def cores() -> int:
    """Cores that this process may use; macOS has no affinity to ask."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Pool:
    """Running workers. `events()` yields (worker, message); a worker that dies says {"event": "died"}."""

    def __init__(self, store: Store, threads: int, count: int, gpus: Sequence[str] = ()):
        self.store, self.threads, self.gpus = store, threads, gpus
        self.inbox: queue.SimpleQueue[tuple[int, int, dict[str, Any]]] = queue.SimpleQueue()
        self.workers = {i: self.start(i) for i in range(count)}

    def start(self, index: int) -> subprocess.Popen[str]:
        """A worker in its own session: Ctrl-C reaches only the parent, which then stops it in order."""
        environment = (
            os.environ | {k: str(self.threads) for k in POOLS} | {"OMP_WAIT_POLICY": "passive"}
        )
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpus[index % len(self.gpus)]
        log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the worker
        worker = subprocess.Popen(
            # -P: a csv.py or a sympy/ in the current folder must not be imported
            [sys.executable, "-P", "-m", "precisionlaws.sweep.worker", str(self.store.root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
            start_new_session=True,
        )
        threading.Thread(target=self.listen, args=(index, worker, log), daemon=True).start()
        return worker

    def listen(self, index: int, worker: subprocess.Popen[str], log: Any) -> None:
        assert worker.stdout is not None
        with worker.stdout, log:
            for line in worker.stdout:
                self.inbox.put((index, worker.pid, json.loads(line)))
            code = worker.wait()
            log.seek(0)
            lines = log.read().strip().splitlines()
        self.inbox.put(
            (index, worker.pid, {"event": "died", "code": code, "error": cause(code, lines)})
        )

    def follows(self, unit: Any) -> bool:
        return False

    def send(self, index: int, message: dict[str, Any]) -> None:
        """Give a worker its next unit; one that died meanwhile is replaced first."""
        if self.workers[index].poll() is not None:
            self.workers[index] = self.start(index)
        worker = self.workers[index]
        assert worker.stdin is not None
        with suppress(BrokenPipeError):  # its death is reported as an event
            worker.stdin.write(json.dumps(message) + "\n")
            worker.stdin.flush()

    def events(self, seconds: float) -> Iterator[tuple[int, dict[str, Any]]]:
        """What arrived from present workers, waiting up to `seconds` for the first message."""
        timeout: float = seconds
        while True:
            try:
                index, pid, message = self.inbox.get(timeout=timeout)
            except queue.Empty:
                return
            timeout = 0.001
            if pid == self.workers[index].pid:
                yield index, message

    def close(self, stopped: bool = False, seconds: float = 60.0) -> None:
        """Workers see the end of their input, save, and leave; whoever does not is killed."""
        for worker in self.workers.values():
            with suppress(BrokenPipeError):
                assert worker.stdin is not None
                worker.stdin.close()
        for worker in self.workers.values():
            try:
                worker.wait(seconds)
            except subprocess.TimeoutExpired:
                worker.kill()


def cause(code: int, lines: list[str]) -> str:
    """Why a worker ended, in words."""
    if code < 0:
        hint = " (out of memory?)" if code == -9 else ""
        return f"the worker was killed by signal {-code}{hint}"
    return f"the worker ended with exit code {code}" + (f": {lines[-1]}" if lines else "")
