"""Out of memory: the same batch in smaller pieces."""

from dataclasses import replace

import torch

from precisionlaws.config import ConfigError
from precisionlaws.run import Exec, RunConfig
from precisionlaws.training.facts import micro_batch, sequences

WORDS = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: on a GPU, or on a CPU, where torch has no class for it."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(w in str(error) for w in WORDS)


def smaller(exec: Exec, run: RunConfig) -> Exec:
    """The same with the next smaller micro-batch: the gradients are those of the whole batch, summed in
    another order, so the row records it.

    Raises: ConfigError where the run fixes its micro-batch, or one sequence is too much.
    """
    if run.micro_batch is not None:
        raise ConfigError(
            f"out of memory with micro_batch={run.micro_batch}, which is part of the run: its loss depends "
            "on it where scales span sequences. Choose a smaller one, or a larger machine"
        )
    now = micro_batch(run, exec) or sequences(run)
    fits = [n for n in range(1, now) if sequences(run) % n == 0]
    if not fits:
        raise ConfigError(
            f"out of memory with a single sequence of {run.data.context} tokens: this machine is too small "
            f"for size d{run.size.depth}w{run.size.width}"
        )
    half = [n for n in fits if 2 * n <= now]
    return replace(exec, micro_batch=max(half or fits))
