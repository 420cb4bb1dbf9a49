"""Job scripts, written by submitit from the parameters of a launcher.

Only its sbatch header is used. Its executors hand functions to jobs as pickles in files, and read results
back from pickles: whoever can write to that folder runs code as you. Jobs here are given the name of a JSON file.
"""

import math
import shlex
import sys
from collections.abc import Callable, Sequence
from itertools import groupby

from precisionlaws.config import ConfigError
from precisionlaws.costs import H100_PEAK, MFU, STEP_SECONDS
from precisionlaws.run import Exec
from precisionlaws.store import Store
from precisionlaws.sweep.dry_run import all_flops, wall
from precisionlaws.sweep.launchers.slurm import Slurm
from precisionlaws.sweep.memory import unit_bytes
from precisionlaws.sweep.rates import Rates
from precisionlaws.sweep.schedule import Unit
from precisionlaws.sweep.slurm.batches import (
    Batch,
    Message,
    chunks,
    fresh_name,
    names,
    points_of,
    root,
)

SLACK = 2.0  # time asked for over time estimated
START = 120.0  # seconds for modules, Python and torch from a busy network disk
STEPS = (10, 20, 30, 60, 120, 180, 240, 360, 480, 720)  # minutes asked for; then whole days
GPU_HOST = 8  # GB of a worker with CUDA, beside the GPU's
MEMORY_SLACK = 1.3
SUPERVISOR = 0.4e9  # bytes of the process that looks after a job's workers


def batches(
    units: Sequence[Unit],
    launcher: Slurm,
    exec: Exec,
    store: Store,
    known: Rates,
    study: str,
    most: int,
) -> list[Batch]:
    """Arrays of at most `most` jobs, those that ask for the same time together, longest first.

    Raises: ConfigError without the extra `slurm`.
    """
    size = launcher.units_per_job
    ordered = sorted(units, key=lambda u: (-seconds(u, exec, known), u.name))
    groups = [list(g) for g in chunks(ordered, size)]
    timed = [(asked(g, launcher, exec, known), g) for g in groups]
    made: list[Batch] = []
    taken = names(store)
    for time, part in groupby(timed, key=lambda t: t[0]):
        for chunk in chunks([g for _, g in part], most):
            made.append(batch(chunk, time, launcher, exec, store, study, taken))
            taken |= {made[-1].name}
    return made


def batch(
    groups: Sequence[Sequence[Unit]],
    time: str | None,
    launcher: Slurm,
    exec: Exec,
    store: Store,
    study: str,
    taken: set[str],
) -> Batch:
    tasks = tuple(tuple(message(u, exec, launcher) for u in g) for g in groups)
    name = fresh_name(study, tasks, store, taken)
    need = memory([u for g in groups for u in g], launcher, exec)
    text = script(name, len(tasks), time, need, launcher, exec, store)
    return Batch(name, root(store) / name, tasks, text)


def message(unit: Unit, exec: Exec, launcher: Slurm) -> Message:
    """What a worker is told, which points that makes, and how the job runs it."""
    from dataclasses import replace

    from precisionlaws.config import plain

    own = {"exec": plain(replace(exec, pack=unit.pack)), "points": points_of(unit)}
    return unit.message() | own | {"workers": launcher.workers, "gpus": launcher.gpus}


def script(
    name: str, jobs: int, time: str | None, memory: str | None, launcher: Slurm, exec: Exec, store: Store
) -> str:  # fmt: skip
    """The file that sbatch is given.

    Raises: ConfigError without submitit.
    """
    folder = root(store) / name
    options = {
        "output": f"{escaped(str(folder))}/%a.log",
        "requeue": True,
        "array": f"0-{jobs - 1}" + (f"%{launcher.at_once}" if launcher.at_once else ""),
        "signal": f"B:USR2@{launcher.signal}",
    }
    if time is not None:
        options["time"] = time
    options |= {
        k: v if equals else True for k, equals, v in (t.partition("=") for t in launcher.raw)
    }
    return header()(
        command(launcher, store, name), folder, job_name=name, partition=launcher.partition,
        account=launcher.account, qos=launcher.qos, gpus_per_node=launcher.gpus or None, mem=memory,
        ntasks_per_node=1, cpus_per_task=launcher.cpus or exec.threads * launcher.workers, wckey=None,
        time=None, setup=["trap '' USR2  # until the work has begun", *launcher.setup],
        stderr_to_stdout=True, use_srun=False, additional_parameters=options,
    )  # fmt: skip


def header() -> Callable[..., str]:
    """Raises: ConfigError without submitit."""
    try:
        from submitit.slurm.slurm import _make_sbatch_string
    except ImportError:
        raise ConfigError(
            "launcher=slurm needs submitit: pip install 'precisionlaws[slurm]'"
        ) from None
    return _make_sbatch_string


def command(launcher: Slurm, store: Store, name: str) -> str:
    """In the shell's place: what Slurm signals is the work itself. -P: nothing is imported from the folder
    in which somebody submits."""
    python = launcher.python or shlex.quote(sys.executable)
    place = shlex.quote(str(store.root.absolute()))
    return f"exec {python} -P -u -m precisionlaws.sweep.slurm.task {place} {shlex.quote(name)}"


def escaped(path: str) -> str:
    """In names of log files Slurm replaces %."""
    return path.replace("%", "%%")


def asked(group: Sequence[Unit], launcher: Slurm, exec: Exec, known: Rates) -> str | None:
    """The time of a job, in minutes; None: the site's default."""
    if launcher.time != "estimate":
        return None if launcher.time == "site" else str(launcher.time)
    need = START + launcher.signal + SLACK * wall([seconds(u, exec, known) for u in group], launcher.workers)  # fmt: skip
    return str(min(rounded(need / 60), int(launcher.max_time)))


def rounded(minutes: float) -> int:
    """Up to one of a few times: jobs of one array ask for the same."""
    days = 1440 * math.ceil(minutes / 1440)
    return next((s for s in STEPS if s >= minutes), days)


def seconds(unit: Unit, exec: Exec, known: Rates) -> float:
    """Of one worker. On a GPU of which nothing is known, an H100 at a quarter of what large models reach."""
    if exec.device == "cuda" and not known.runs:
        steps = unit.tokens / unit.runs[0].batch
        return steps * STEP_SECONDS + all_flops(unit) / (H100_PEAK * MFU / 4)
    return known.seconds(unit)


def memory(units: Sequence[Unit], launcher: Slurm, exec: Exec) -> str | None:
    """As sbatch takes it; None: the site's default."""
    if launcher.memory != "estimate":
        return None if launcher.memory == "site" else launcher.memory
    if exec.device == "cuda":
        return f"{GPU_HOST * launcher.workers}G"
    needs = sorted((unit_bytes(u, exec, "cpu") for u in units), reverse=True)[: launcher.workers]
    return f"{math.ceil((sum(needs) * MEMORY_SLACK + SUPERVISOR) / 1e9)}G"
