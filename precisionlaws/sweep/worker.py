"""One worker process: reads units as JSON lines, executes them, answers in JSON lines.

Started as `python -m precisionlaws.sweep.worker STORE` with its thread pools limited by the environment
before torch is imported. The end of its standard input means that whoever started it is gone, SIGTERM or SIGUSR2
that it must go: what trains saves and stops, all else leaves at once. What a unit prints is kept in
<store>/logs/<unit>.log.
"""

import errno
import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from precisionlaws.claims import Lease, acquire_all
from precisionlaws.config import ConfigError, build
from precisionlaws.ptq.base import Ptq
from precisionlaws.run import Exec, RunConfig, run_id, trunk_id
from precisionlaws.store import Store, write

Emit = Callable[[dict[str, Any]], None]
FATAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}  # no other unit would fare better


class Leave:
    """When a worker that is asked to go goes: at once, but for training, which saves its state first.

    Imports have nothing to save, and points of PTQ, which may take minutes each, are whole or not there.
    """

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.trains = False
        self.leases: list[Lease] = []

    def ask(self) -> None:
        self.asked.set()
        if not self.trains:
            for lease in self.leases:
                lease.release()
            os._exit(0)

    @contextmanager
    def training(self) -> Iterator[None]:
        self.trains = True
        try:
            yield
        finally:
            self.trains = False


def execute(
    message: dict[str, Any],
    store: Store,
    emit: Emit,
    stop: Callable[[], bool],
    leave: Leave | None = None,
) -> None:
    """One unit: train what is missing, then quantize. How far it is stands in its leases; `emit` tells how it ended."""
    from precisionlaws.training.unit import Watch

    exec_: Exec = build(message["exec"], Exec)  # type: ignore[assignment]
    jobs: list[tuple[RunConfig, list[Ptq]]] = [
        (build(j["run"], RunConfig), [build(p, Ptq) for p in j["ptqs"]])  # type: ignore[misc]
        for j in message["jobs"]
    ]
    claims = [store.claim(name) for name in message["trunks"]]
    leases = acquire_all(claims, message.get("stale", {}))
    if not leases:
        emit({"event": "busy"})
        return
    leave = leave or Leave()
    leave.leases = leases

    def progress(name: str, step: int, steps: int, loss: float) -> None:
        if work.at != name:
            emit({"event": "at", "run": name, "step": step, "steps": steps})
        work.at, work.doing = name, f"step {step} of {steps}"
        for lease in leases:
            lease.tell(name, step, steps, jobs[0][0].batch, loss)

    def quantizing(name: str) -> None:
        for lease in leases:
            lease.note = lease.note | {"run": name, "doing": "quantizing"}

    work = Work(jobs, store, exec_, emit, Watch(progress, stop), quantizing, leave.training)
    try:
        with printed_to(store.log(message["unit"])):
            event = work.until_asked()
        emit({"event": event})
    except Exception as error:  # one failed unit must not end the sweep
        fatal = isinstance(error, OSError) and error.errno in FATAL
        runs = [] if fatal else blame([run_id(r) for r, _ in jobs], work.at, store, error)
        emit({"event": "failed", "runs": runs, "error": words(error), "fatal": fatal})
    finally:
        for lease in leases:
            lease.release()


@dataclass
class Work:
    """A unit at work; `at`: the run that it is at, which is to blame for a failure; `doing`: how far."""

    jobs: Sequence[tuple[RunConfig, list[Ptq]]]
    store: Store
    exec: Exec
    emit: Emit
    watch: Any
    quantizing: Callable[[str], None]
    training: Callable[[], AbstractContextManager[None]]
    at: str = ""
    doing: str = "its beginning"

    def until_asked(self) -> str:
        """done, or stopped, which the log says in a line: somebody's wish is no error."""
        from precisionlaws.training.loop import Interrupted

        try:
            self.do()
        except Interrupted:
            line = f"{self.at}: interrupted at {self.doing}; the same command goes on\n"
            os.write(2, line.encode())
            return "stopped"
        return "done"

    def do(self) -> None:
        """With as large a micro-batch as memory holds."""
        from precisionlaws.training.memory import out_of_memory, smaller

        while True:
            try:
                return self.attempt()
            except Exception as error:
                if not out_of_memory(error):
                    raise
                text = words(error)
            # Here, where the error and the tensors of its frames are gone.
            free()
            self.exec = smaller(self.exec, self.jobs[0][0])
            note = f"{text}: again with {self.exec.micro_batch} sequences at a time"
            self.emit({"event": "note", "text": f"{self.at}: {note}"})

    def attempt(self) -> None:
        from precisionlaws.sweep.quantize import quantize_run
        from precisionlaws.training.pack_unit import train_trunks

        trunks: dict[str, list[RunConfig]] = {}
        for run, _ in self.jobs:
            trunks.setdefault(trunk_id(run), []).append(run)
        failed: ConfigError | None = None
        try:
            with self.training():
                train_trunks(list(trunks.values()), self.store, self.exec, self.watch)
        except (
            ConfigError
        ) as error:  # of one trunk: what the others trained is quantized all the same
            failed = error
        for run, ptqs in self.jobs:
            if failed and not self.store.has(run_id(run)):
                continue
            self.at, self.doing = run_id(run), "quantization"
            if ptqs:
                self.quantizing(self.at)
            quantize_run(run, ptqs, self.store, self.exec, stop=self.watch.stop)
            (self.store.run(self.at) / "error.json").unlink(missing_ok=True)
        if failed:
            self.at = ""  # to blame are the runs without a result
            raise failed


def free() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def printed_to(path: Path) -> Iterator[None]:
    """What this process prints goes to a file, by append; an empty one is not kept."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    path.parent.mkdir(parents=True, exist_ok=True)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        yield
    except Exception:
        os.write(2, traceback.format_exc().encode())
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for old, stream in zip(kept, (1, 2), strict=True):
            os.dup2(old, stream)
            os.close(old)
        empty = os.fstat(log).st_size == 0
        os.close(log)
        if empty:
            path.unlink(missing_ok=True)


def blame(names: list[str], at: str, store: Store, error: Exception) -> list[str]:
    """Write error.json for the run at work and those that its trunk still owes a result."""
    lost = [n for n in names if n == at or not store.has(n)]
    trace = "".join(traceback.format_exception(error))
    for name in lost:
        with suppress(OSError):
            text = json.dumps({"error": words(error), "traceback": trace})
            write(store.run(name) / "error.json", text)
    return lost


def words(error: Exception) -> str:
    text = str(error).strip().splitlines()
    kind = "" if isinstance(error, ConfigError) else f"{type(error).__name__}: "
    return kind + (text[0] if text else "no message")


def main(store: str) -> None:
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever libraries print goes to the log, not between our lines

    def emit(message: dict[str, Any]) -> None:
        with suppress(BrokenPipeError):
            out.write(json.dumps(message) + "\n")

    inbox: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    leave = Leave()

    def go() -> None:
        inbox.put(None)
        leave.ask()

    for told in (signal.SIGTERM, signal.SIGUSR2):  # a scheduler's ways to say it
        signal.signal(told, lambda *_: go())

    def listen() -> None:
        for line in sys.stdin:
            inbox.put(json.loads(line))
        go()

    threading.Thread(target=listen, daemon=True).start()
    while (message := inbox.get()) is not None:
        import torch

        from precisionlaws.training import heap

        heap.keep()
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        execute(message, Store(store), emit, leave.asked.is_set, leave)


if __name__ == "__main__":
    main(sys.argv[1])
