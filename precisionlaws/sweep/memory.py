"""Memory and disk of a study, known before they are used."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from precisionlaws.config import ConfigError
from precisionlaws.models.count import counts, training_bytes
from precisionlaws.models.own import TORCH, scores_kept
from precisionlaws.run import Exec, RunConfig, parts_of
from precisionlaws.sweep.rates import device
from precisionlaws.sweep.schedule import Unit

PROGRAM = 425e6  # bytes: a worker with torch, before it holds any data or model
CONTEXT = 600e6  # bytes of a GPU that each process takes for itself
NUMBER = {
    "float64": 8
}  # bytes; in bfloat16 and tf32 parameters stay float32, and activations are counted so
STEP_LOG, RUN_LOG, POINT_LOG = 96, 4_500, 4_000  # bytes on disk per step, run and PTQ point
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes: of the largest unit, of as many workers as there are, on disk; what there is."""

    per_worker: int
    all_workers: int
    workers: int
    disk: int
    device: str
    capacity: int | None  # None: not known
    largest: RunConfig
    parts: str  # our own that the largest run takes

    @property
    def fits(self) -> bool:
        return self.capacity is None or self.all_workers <= self.capacity


def memory(units: Sequence[Unit], exec: Exec, workers: int) -> Memory | None:
    """Of these units; None if there are none."""
    if not units:
        return None
    where = device(exec)
    needs = sorted(((unit_bytes(u, exec, where), i) for i, u in enumerate(units)), reverse=True)
    return Memory(
        per_worker=needs[0][0],
        all_workers=sum(n for n, _ in needs[:workers]),
        workers=min(workers, len(units)),
        disk=sum(disk_bytes(trunk) for u in units for trunk in u.members),
        device=where,
        capacity=capacity(where),
        largest=(largest := units[needs[0][1]].runs[0]),
        parts=parts_of(largest, exec, where),
    )


def unit_bytes(unit: Unit, exec: Exec, where: str) -> int:
    """Of the process that executes a unit, or of its GPU."""
    run = unit.runs[0]
    return run_bytes(run, at_a_time(run, exec), where, unit.pack, parts_of(run, exec, where))


def run_bytes(run: RunConfig, tokens: int, where: str, pack: int = 1, parts: str = TORCH) -> int:
    """With so many tokens of a run at a time, and so many runs. parts: our own that it takes."""
    quantized = not (run.quant.activations.off and run.quant.kv.off)
    data = run.data
    scores, width = scores_kept(parts, data.context), NUMBER.get(run.dtype, 4)
    own = pack * training_bytes(
        run.model, run.size, data.vocab, data.context, tokens, width, quantized, scores
    )
    if where == "cuda":
        return own + round(CONTEXT)
    corpus = data.corpus()
    return own + round(PROGRAM) + corpus.train.nbytes + corpus.validation.nbytes


def at_a_time(run: RunConfig, exec: Exec) -> int:
    """Tokens of a micro-batch."""
    sequences = run.micro_batch or exec.micro_batch
    return sequences * run.data.context if sequences else run.batch


def disk_bytes(unit: Unit) -> int:
    """Weights and log of every run, points, and the trunk's checkpoint at every branch point."""
    run = unit.runs[0]
    count = counts(run.model, run.size, run.data.vocab, run.data.context)
    weights = NUMBER.get(run.dtype, 4) * count.total
    branches = {r.lr_schedule.decay_start(r.steps) for r in unit.runs}
    logs = sum(STEP_LOG * r.steps + RUN_LOG for r in unit.runs)
    points = sum(map(len, unit.ptqs))
    return weights * (len(unit.runs) + 3 * len(branches)) + logs + POINT_LOG * points


def capacity(where: str) -> int | None:
    """Bytes of this machine, or of its GPU; None where nobody says."""
    if where == "cuda":
        import torch

        return torch.cuda.mem_get_info()[1] if torch.cuda.is_available() else None
    limits = [limit for limit in (physical(), *cgroup_limits()) if limit is not None]
    return min(limits, default=None)


def physical() -> int | None:
    if not {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} <= set(os.sysconf_names):
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def cgroup_limits(root: Path = CGROUP, own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """What containers and batch systems allow this process, at every level above it."""
    files = [root / "memory" / "memory.limit_in_bytes"]
    try:
        lines = own.read_text().splitlines()
    except OSError:
        lines = []
    for inside in (line.split(":", 2)[2] for line in lines if line.startswith("0::")):
        place = root / inside.lstrip("/")
        files += [p / "memory.max" for p in (place, *place.parents) if p.is_relative_to(root)]
    limits = []
    for file in files:
        try:
            text = file.read_text().strip()
        except OSError:
            continue
        if text.isdigit():  # "max" is no limit
            limits.append(int(text))
    return limits


def check(need: Memory | None) -> None:
    """Raises: ConfigError, one line with the largest size and a remedy that works, when it does not fit."""
    if need is None or need.fits:
        return
    run, what = need.largest, "GPU" if need.device == "cuda" else "machine"
    raise ConfigError(
        f"size d{run.size.depth}w{run.size.width} (N = {run.N:,}) needs about {gigabytes(need.per_worker)} "
        f"per worker, {gigabytes(need.all_workers)} with {need.workers} worker(s), and this {what} has "
        f"{gigabytes(need.capacity or 0)}: {remedy(need)}"
    )


def remedy(need: Memory) -> str:
    """What would make it fit."""
    run, most = need.largest, need.capacity or 0
    sequences = run.batch // run.data.context
    ways = []
    if most // need.per_worker >= 1 and need.workers > 1:
        ways.append(f"launcher.workers={most // need.per_worker}")
    fitting = [
        n
        for n in range(1, sequences)
        if sequences % n == 0
        and need.workers * run_bytes(run, n * run.data.context, need.device, parts=need.parts)
        <= most
    ]
    if fitting:
        ways.append(f"micro_batch={fitting[-1]}")
    return f"set {' or '.join(ways)}" if ways else "take a smaller size"


def gigabytes(count: float) -> str:
    """520 MB, 2.1 GB, 12 TB"""
    for unit, size in (("TB", 1e12), ("GB", 1e9)):
        if count >= size:
            return f"{count / size:.{0 if count >= 10 * size else 1}f} {unit}"
    return f"{count / 1e6:.0f} MB"


def as_json(need: Memory | None) -> dict[str, Any] | None:
    """Numbers, whether they fit, and what would help if they do not."""
    if need is None:
        return None
    numbers = {k: getattr(need, k) for k in need.__dataclass_fields__ if k != "largest"}
    return numbers | {"fits": need.fits, "remedy": None if need.fits else remedy(need)}


def line(n: dict[str, Any], free: int | None) -> str:
    """The dry run's line; free: bytes on the disk of the store."""
    text = (
        f"  memory  about {gigabytes(n['per_worker'])} per worker"
        f"{' on the GPU' if n['device'] == 'cuda' else ''}, {gigabytes(n['disk'])} on disk"
    )
    if not n["fits"]:
        text += f"; too much for this machine's {gigabytes(n['capacity'])}: {n['remedy']}"
    if free is not None and free < n["disk"]:
        text += f"; only {gigabytes(free)} are free there"
    return text


def free_bytes(path: Path) -> int | None:
    """On the disk that holds `path`, or will."""
    import shutil

    place = next((p for p in (path.absolute(), *path.absolute().parents) if p.exists()), None)
    try:
        return shutil.disk_usage(place).free if place else None
    except OSError:
        return None
