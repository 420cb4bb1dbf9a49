"""Jobs of a Slurm cluster: `sweep` submits arrays and follows them, or is started again and follows."""

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from precisionlaws.config import ConfigError, ranged
from precisionlaws.run import Exec, Launcher
from precisionlaws.store import Store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from precisionlaws.sweep.schedule import Unit
    from precisionlaws.sweep.slurm.pool import SlurmPool

TIME = re.compile(r"(?:(?P<d>\d+)-)?(?P<first>\d+)(?::(?P<second>\d+))?(?::(?P<third>\d+))?")
RESERVED = {
    "array": "the jobs are numbered by it",
    "job-name": "it says which batch a job is of",
    "output": "logs are in the store",
    "time": "use launcher.time",
    "mem": "use launcher.memory",
    "signal": "use launcher.signal",
    "cpus-per-task": "use launcher.cpus",
}


@dataclass(frozen=True, kw_only=True)
class Slurm(Launcher):
    """Resources of one job and how many there are; the fields are explained in conf/launcher/slurm.yaml."""

    SHORT: ClassVar[str] = "slurm"
    HERE: ClassVar[bool] = False
    partition: str | None
    account: str | None
    qos: str | None
    gpus: int = ranged(0, 64)
    cpus: int | None = ranged(1, 1024)
    memory: str
    time: str
    max_time: str
    units_per_job: int = ranged(1, 100_000)
    workers: int = ranged(1, 1024)
    at_once: int | None = ranged(1, 1_000_000)
    queued: int | None = ranged(1, 1_000_000)
    signal: int = ranged(10, 65_535)
    poll: float = ranged(0.1, 3600)
    python: str | None
    setup: tuple[str, ...]
    raw: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in ("time", "max_time", "partition", "account", "qos"):
            if type(value := getattr(self, name)) is int:  # minutes; names may be numbers
                object.__setattr__(self, name, str(value))
        super().__post_init__()

    def rules(self) -> None:
        for name in ("time", "max_time"):
            value = str(getattr(self, name))
            if not (name == "time" and value in ("estimate", "site")):
                object.__setattr__(self, name, str(minutes(value, name)))
        if not re.fullmatch(r"estimate|site|\d+[KMGT]?B?", self.memory):
            raise ConfigError(
                f"memory must be estimate, site, or as sbatch takes it (16G), got {self.memory!r}"
            )
        if self.workers > self.units_per_job:
            raise ConfigError(
                f"workers must be at most units_per_job={self.units_per_job}, the units that they have "
                f"to share, got {self.workers}"
            )
        for text in (
            *self.setup,
            *self.raw,
            *filter(None, (self.partition, self.account, self.qos)),
        ):
            if "\n" in text:
                raise ConfigError(f"{text!r} must be one line")
        for text in self.raw:
            key = text.partition("=")[0]
            if not re.fullmatch(r"[a-z][a-z0-9-]*", key):
                raise ConfigError(
                    f"raw must hold options of sbatch such as constraint=h100, without dashes before "
                    f"them, got {text!r}"
                )
            if key in RESERVED:
                raise ConfigError(f"raw cannot hold {key}: {RESERVED[key]}")

    def placed(self, exec: Exec) -> Exec:
        """Jobs run elsewhere: what `auto` means is decided by what they ask for, not by this machine."""
        if self.gpus == 0 and exec.device == "cuda":
            raise ConfigError("exec.device=cuda with launcher=slurm needs launcher.gpus=1 or more")
        if exec.device != "auto":
            return exec
        return replace(exec, device="cuda" if self.gpus else "cpu")

    def ready(self) -> None:
        from precisionlaws.sweep.slurm import queue, script

        script.header()
        queue.tell(["sbatch", "--version"])

    def count(self, threads: int) -> int:
        """Units at once when the cluster is empty."""
        return (self.at_once or self.queued or 1000) * self.workers

    def pool(self, store: Store, exec: Exec, todo: "Sequence[Unit]", study: str) -> "SlurmPool":
        from precisionlaws.sweep.slurm.pool import SlurmPool

        return SlurmPool(self, store, exec, todo, study)


def minutes(text: str, name: str) -> int:
    """Slurm's ways to write a time: 90, 90:00, 1:30:00, 1-12, 1-12:30. Seconds are rounded up."""
    match = TIME.fullmatch(text.strip())
    if not match or (match["d"] is None and match["third"] is None and match["second"] is None and not int(match["first"])):  # fmt: skip
        raise ConfigError(
            f"{name} must be {'estimate, site, or ' if name == 'time' else ''}a time as Slurm writes it "
            f"(minutes, 2:00:00 or 1-12), got {text!r}"
        )
    days, first, second, third = (int(match[k] or 0) for k in ("d", "first", "second", "third"))
    if match["d"] is not None:
        seconds = days * 86400 + first * 3600 + second * 60 + third
    elif match["third"] is not None:
        seconds = first * 3600 + second * 60 + third
    else:
        seconds = first * 60 + second
    return max(1, -(-seconds // 60))
