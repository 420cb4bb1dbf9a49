"""What Slurm says and is told: squeue, sbatch, scancel, scontrol. Never sacct, which many sites do not run."""

import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from precisionlaws.config import ConfigError
from precisionlaws.sweep.engine import Refused

# While a job is in one of these the queue holds it, and runs it again if it was stopped.
LIVE = {
    "PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT",
    "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT",
}  # fmt: skip
WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"}
FORMAT = "%F|%K|%T|%r|%j"  # array job, index in it, state, reason, name
FULL = re.compile(r"limit|QOSMax|AssocMax|AssocGrp|MaxSubmit|MaxJobCount|temporarily unable", re.I)
SECONDS = 120.0  # a busy controller answers late


def full(refused: Refused) -> bool:
    """Whether Slurm may take it when other jobs have ended."""
    return bool(FULL.search(str(refused)))


class Silent(Exception):
    """Slurm does not answer: nothing is known, which is no failure of any job."""


@dataclass(frozen=True)
class Task:
    """One job of an array, as the queue shows it."""

    job: int
    index: int
    state: str
    reason: str
    name: str  # of the batch

    @property
    def live(self) -> bool:
        return self.state in LIVE

    @property
    def id(self) -> str:
        return f"{self.job}_{self.index}"


def tell(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Raises: ConfigError where Slurm is not installed; Silent when it does not answer in time."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, env=environment(), check=False
        )
    except FileNotFoundError:
        raise ConfigError(
            f"launcher=slurm needs {command[0]}, which this machine has not: run this on a login node of "
            "the cluster, or write the job scripts with `precisionlaws jobs script`"
        ) from None
    except subprocess.TimeoutExpired:
        raise Silent(f"{command[0]} did not answer within {SECONDS:g} s") from None


def environment() -> dict[str, str]:
    """Ours. Inside a job, less what says so: it would decide the cores and memory of the jobs we submit."""
    inside = "SLURM_JOB_ID" in os.environ
    kept = {"SLURM_CONF", "SLURM_CLUSTERS"}
    return {
        k: v for k, v in os.environ.items() if not (inside and k.startswith("SLURM_")) or k in kept
    }


def tasks(names: Iterable[str] | None = None) -> list[Task]:
    """The user's array jobs that Slurm remembers, of batches with these names: the last job of each, as a batch
    that was submitted again has two. Ended ones are remembered for minutes.

    Raises: Silent.
    """
    told = tell(["squeue", "--me", "--array", "--noheader", "--states=all", f"--format={FORMAT}"])
    if told.returncode:
        raise Silent(words(told.stderr))
    found = [t for t in map(parsed, told.stdout.splitlines()) if t]
    wanted = None if names is None else set(names)
    last: dict[tuple[str, int], Task] = {}
    for task in sorted(found, key=lambda t: t.job):
        if wanted is None or task.name in wanted:
            last[task.name, task.index] = task
    return list(last.values())


def state_of(id: str) -> str | None:
    """Of one task; None where Slurm does not know it. Raises: Silent."""
    told = tell(["squeue", "--noheader", "--array", "--states=all", f"--jobs={id}", f"--format={FORMAT}"])  # fmt: skip
    if told.returncode and "Invalid job id" not in told.stderr:
        raise Silent(words(told.stderr))
    found = (t for t in map(parsed, told.stdout.splitlines()) if t)
    return next((t.state for t in found if t.id == id), None)


def parsed(line: str) -> Task | None:
    """A line of squeue; None for a job that is no task of an array."""
    parts = line.split("|", 4)
    if len(parts) != 5 or not (parts[0].isdigit() and parts[1].isdigit()):
        return None
    return Task(int(parts[0]), int(parts[1]), parts[2], parts[3], parts[4])


def most_tasks() -> int:
    """Tasks that an array may have here. MaxArraySize bounds the index, which begins at 0."""
    told = tell(["scontrol", "show", "config"])
    if told.returncode:
        raise Silent(words(told.stderr))
    return limit(told.stdout)


def limit(config: str) -> int:
    """Of `scontrol show config`. Raises: Refused where arrays are switched off."""
    names = (r"MaxArraySize\s*=\s*(\d+)", r"max_array_tasks=(\d+)", r"MaxJobCount\s*=\s*(\d+)")
    found = [int(m[1]) for m in (re.search(n, config, re.I) for n in names) if m]
    most = min(found, default=1001)
    if most < 1:
        raise Refused("this cluster takes no job arrays (MaxArraySize=0)")
    return most


def submit(script: str) -> int:
    """The id of the job array of a script file. Raises: Refused."""
    told = tell(["sbatch", "--parsable", script])
    number = told.stdout.strip().split(";")[0]
    if told.returncode or not number.isdigit():
        raise Refused(words(told.stderr or told.stdout) or "sbatch said nothing")
    return int(number)


def cancel(ids: Iterable[int | str]) -> None:
    """Raises: Refused."""
    listed = [str(i) for i in ids]
    for i in range(0, len(listed), 500):  # an argument list has its limits
        told = tell(["scancel", *listed[i : i + 500]])
        if told.returncode:
            raise Refused(words(told.stderr))


def requeue(id: str) -> None:
    """Have a running job begin again. Raises: Refused where the site forbids that."""
    told = tell(["scontrol", "requeue", id])
    if told.returncode:
        raise Refused(words(told.stderr or told.stdout))


def words(text: str) -> str:
    """A command's complaint in one line, without its name before each."""
    lines = (re.sub(r"^\w+: (error: )?", "", line.strip()) for line in text.splitlines())
    return "; ".join(dict.fromkeys(line for line in lines if line))
