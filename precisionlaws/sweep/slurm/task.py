"""The program of a job: `python -m precisionlaws.sweep.slurm.task STORE BATCH`, on a node.

SIGUSR2 says that its time is nearly up, or that it is in the way of others; SIGTERM that it is being ended, at
once or after a while of grace. Either way its workers save and leave, and if it would then count as completed
it has itself queued again. Nothing heavy is imported before it can hear.
"""

import os
import signal
import sys
import time
from dataclasses import dataclass, field
from types import FrameType

LEAVE_SECONDS = 60.0


@dataclass
class Ear:
    """Raises KeyboardInterrupt at the first signal, or when it begins to listen after one: while the workers
    save, no second one must disturb."""

    told: list[int] = field(default_factory=list)
    listening: bool = False
    leaving: bool = False  # nothing is left to do but to be ended

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.told.append(number)
        if self.leaving:
            os._exit(0)
        os.write(1, f"{signal.Signals(number).name}: saving\n".encode())  # print is not reentrant
        if self.listening and len(self.told) == 1:
            raise KeyboardInterrupt

    def listen(self) -> None:
        self.listening = True
        if self.told:
            raise KeyboardInterrupt

    def leave(self) -> int:
        """Slurm ends a job that is queued again; one that goes by itself at that moment may be seen to fail."""
        self.leaving = True
        if len(self.told) == 1:
            time.sleep(LEAVE_SECONDS)
        return 0


def main(root: str, name: str, ear: Ear) -> int:
    from precisionlaws.config import ConfigError
    from precisionlaws.store import Store
    from precisionlaws.sweep.slurm import batches, job

    store, log = Store(root), job.Log()
    try:
        messages = batches.read_task(
            batches.root(store) / name, int(os.environ["SLURM_ARRAY_TASK_ID"])
        )
        try:
            ear.listen()
            outcome = job.work(store, messages, log)
        except KeyboardInterrupt:  # the workers have saved
            code = job.again(store, messages, log)
            return ear.leave() if code is None else code
        job.keep_errors(store, outcome.failed)
        return 1 if outcome.failed else 0
    except (ConfigError, OSError) as error:
        job.say(f"error: {error}")
        return 2


if __name__ == "__main__":
    hears = Ear()
    for each in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
        signal.signal(each, hears)
    code = main(sys.argv[1], sys.argv[2], hears)
    sys.stdout.flush()
    os._exit(
        code
    )  # Python's own way out stops listening first, and a late signal would be a failure
