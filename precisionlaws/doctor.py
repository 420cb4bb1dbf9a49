"""What this machine can do, and what is missing: asked before a night of training, not after it."""

import importlib.util
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from precisionlaws.config import ConfigError
from precisionlaws.store import Store, create

OK, NOTE, BAD = "ok", "note", "bad"  # works; works without something; cannot work


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line: `state` is ok, note or bad."""

    what: str
    state: str
    says: str


def examine(store: str | Path) -> Iterator[Finding]:
    """One finding per part, in the order in which a sweep needs them; a broken part stops no other."""
    for what, check in CHECKS.items():
        try:
            state, says = check(Path(store))
        except (ConfigError, ValueError, OSError, ImportError) as error:
            state, says = BAD, str(error)
        yield Finding(what=what, state=state, says=says)


def versions(store: Path) -> tuple[str, str]:
    from importlib.metadata import version

    names = ("precisionlaws", "torch", "numpy", "scipy", "pandas")
    found = ", ".join(f"{n} {version(n)}" for n in names)
    return OK, f"Python {platform.python_version()}, {found}"


def device(store: Path) -> tuple[str, str]:
    """The GPU, or the CPU and how many workers a sweep starts."""
    import torch

    from precisionlaws.sweep.launchers.local import cores
    from precisionlaws.sweep.memory import capacity, gigabytes
    from precisionlaws.training.facts import cpu_model, device_of

    where = device_of("auto")
    memory = gigabytes(capacity(where) or 0)
    if where == "cuda":
        return OK, f"{torch.cuda.get_device_name()}, {memory}"
    chip = f"{torch.backends.cpu.get_cpu_capability()} {cpu_model()}".strip()
    return OK, f"CPU {chip}, {cores()} cores for as many workers, {memory}"


def kernels(store: Path) -> tuple[str, str]:
    """Which code rounds, and whether it gives the bits of its definition here."""
    import torch

    from precisionlaws.kernels import backend, reference
    from precisionlaws.kernels.backends import kernel
    from precisionlaws.training.facts import device_of

    where = device_of("auto")
    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    wanted = reference.fake_quantize(x, 7, 16)
    found = kernel("int", x.to(where))(x.to(where), 7, 16)
    if not torch.equal(found.cpu(), wanted):
        return BAD, f"{backend(where)} on {where} does not give the bits of kernels/reference.py"
    return OK, f"{backend(where)} on {where}, equal to their definition bit for bit"


def compiler(store: Path) -> tuple[str, str]:
    from precisionlaws.training.compiler import lacking
    from precisionlaws.training.facts import device_of

    missing = lacking(device_of("auto"))
    return (NOTE, f"exec.compile=true would need {missing}") if missing else (OK, "torch.compile")


def corpus(store: Path) -> tuple[str, str]:
    """The default data: the version decides every loss."""
    from precisionlaws.run import compose

    data = compose([]).data
    tokens = len(data.corpus().train)
    return OK, f"{data.origin()}: {tokens / 1e6:.1f}M tokens, {data.fingerprint()[:12]}"


def results(store: Path) -> tuple[str, str]:
    """Whether results can be written, how many bytes are free, and whether files appear atomically."""
    from precisionlaws.sweep.memory import gigabytes

    made = not store.exists()
    Store(store).check_writable()
    try:
        free = gigabytes(shutil.disk_usage(store).free)
        with tempfile.TemporaryDirectory(dir=store) as folder:
            one, two = Path(folder, "one"), Path(folder, "two")
            one.write_text("")
            create(one, two)
            linked = one.exists()
    finally:
        if made:
            store.rmdir()
    if not linked:
        return NOTE, (
            f"{str(store)!r}: {free} free; its file system has no hard links, so two workers that end the "
            "same run in the same instant are not told apart"
        )
    return OK, f"{str(store)!r}: writable, {free} free"


def cluster(store: Path) -> tuple[str, str]:
    """Whether Slurm is here, and answers."""
    from precisionlaws.sweep.engine import Refused
    from precisionlaws.sweep.slurm.queue import Silent, most_tasks

    if shutil.which("sbatch") is None:
        return NOTE, "no sbatch on the PATH: sweeps run on this machine"
    if importlib.util.find_spec("submitit") is None:
        return NOTE, "Slurm is here, submitit is not: pip install 'precisionlaws[slurm]'"
    inside = f", inside job {os.environ['SLURM_JOB_ID']}" if "SLURM_JOB_ID" in os.environ else ""
    try:
        most = most_tasks()
    except (Silent, Refused, ConfigError) as error:
        return NOTE, f"sbatch is here, but launcher=slurm cannot work{inside}: {error}"
    return OK, f"Slurm answers{inside}: launcher=slurm, up to {most:,} jobs in an array"


CHECKS: dict[str, Callable[[Path], tuple[str, str]]] = {
    "versions": versions,
    "device": device,
    "kernels": kernels,
    "compiler": compiler,
    "corpus": corpus,
    "store": results,
    "cluster": cluster,
}
