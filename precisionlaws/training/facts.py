"""Where and with what a number was computed: columns of its row, never part of its name."""

import functools
import hashlib
import platform
from pathlib import Path
from typing import Any

import torch

from precisionlaws import __version__, kernels
from precisionlaws.config import ConfigError, digest, dumps
from precisionlaws.run import Exec, RunConfig, parts_of

NUMERIC = (
    "kernels",
    "models",
    "quant",
    "optim",
    "data",
    "training",
    "ptq",
)  # parts that decide numbers


def device_of(wanted: str) -> str:
    """Raises: ConfigError when a GPU is asked for and absent."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("exec.device=cuda, but torch sees no GPU here")
    return wanted


def exec_facts(exec: Exec, run: RunConfig) -> dict[str, Any]:
    """The ExecSpec: bit-identity is promised between rows that agree in all of these."""
    device = device_of(exec.device)
    if device == "cuda":
        chip = torch.cuda.get_device_name()
    else:
        chip = f"{torch.backends.cpu.get_cpu_capability()} {cpu_model()}".strip()
    return {
        "exec.device": device,
        "exec.chip": chip,
        "exec.threads": torch.get_num_threads(),
        "exec.pack": exec.pack or 1,
        "exec.micro_batch": micro_batch(run, exec) or sequences(run),
        "exec.compile": exec.compile,
        "exec.parts": parts_of(run, exec, device),
        "exec.kernels": kernels.backend(device),
        "exec.world": 1,
        "exec.torch": torch.__version__,
    }


def sequences(run: RunConfig) -> int:
    """Per optimizer step."""
    return run.batch // run.data.context


def micro_batch(run: RunConfig, exec: Exec) -> int | None:
    """Sequences that pass through the model at a time; None: the whole batch.

    Raises: ConfigError if exec.micro_batch does not divide the batch of a run that leaves it open.
    """
    chosen = run.micro_batch or exec.micro_batch
    if chosen is not None and sequences(run) % chosen:
        raise ConfigError(
            f"exec.micro_batch must divide the {sequences(run)} sequences of a batch, got {chosen}"
        )
    return chosen


def provenance(fingerprint: str) -> dict[str, Any]:
    return {
        "code.version": __version__,
        "code.sha256": source_digest(),
        "data.fingerprint": fingerprint,
        "host.python": platform.python_version(),
    }


@functools.cache
def cpu_model() -> str:
    """Matrix libraries choose code by it; '' where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), ""
    )


def checkpoint_facts(exec: Exec, run: RunConfig) -> str:
    """Names code and machine: only where both are equal does a resumed run give the same bits."""
    return digest(dumps(exec_facts(exec, run) | {"code": source_digest()}))


@functools.cache
def source_digest() -> str:
    """12 hex over the source files that decide numbers."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for part in NUMERIC:
        for path in sorted((root / part).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]
