"""Held-out loss, sequence by sequence, so that differences between two evaluations can be paired."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precisionlaws.data.batches import held_out_windows
from precisionlaws.run import RunConfig

BATCH = 32  # sequences; the loss of a run depends on it only where a scale spans sequences


@dataclass(frozen=True)
class Losses:
    """Mean cross-entropy of every held-out sequence, nats per token: (sequences,) float64."""

    sequences: np.ndarray

    @property
    def mean(self) -> float:
        return float(self.sequences.mean())

    @property
    def standard_error(self) -> float:
        return standard_error(self.sequences)

    def delta(self, before: "Losses") -> tuple[float, float]:
        """Paired difference to an evaluation of the same sequences and its standard error."""
        difference = self.sequences - before.sequences
        return float(difference.mean()), standard_error(difference)


def standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def held_out(run: RunConfig, device: str) -> Tensor:
    """The study's validation sequences: (sequences, context + 1) uint8."""
    data = run.data
    windows = held_out_windows(
        data.corpus().validation, data.context, data.eval_tokens // data.context
    )
    return torch.from_numpy(windows).to(device)


@torch.no_grad()
def evaluate(model: nn.Module, windows: Tensor, batch: int | None = None) -> Losses:
    """The loss of `model` on each of `windows`."""
    was_training = model.training
    model.eval()
    losses = [sequence_losses(model, ids) for ids in windows.split(batch or BATCH)]
    model.train(was_training)
    return Losses(torch.cat(losses).cpu().numpy())


def sequence_losses(model: nn.Module, ids: Tensor) -> Tensor:
    ids = ids.long()
    logits = model(ids[:, :-1])  # (B, T, vocab)
    token = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")  # (B, T)
    return token.double().mean(1)
