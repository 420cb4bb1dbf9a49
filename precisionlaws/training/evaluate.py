"""Held-out loss, sequence by sequence, so that differences between two evaluations can be paired."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precisionlaws import heldout
from precisionlaws.data.batches import documents_of, held_out_windows, hide
from precisionlaws.run import Exec, RunConfig
from precisionlaws.training.loop import Interrupted
from precisionlaws.training.objectives import asked, pairs

BATCH = 32  # sequences; the loss of a run depends on it only where a scale spans sequences


@dataclass(frozen=True)
class Losses:
    """Mean cross-entropy of every held-out sequence, nats per token: (sequences,) float64.

    documents: which document each sequence is from; sequences of one document err together.
    """

    sequences: np.ndarray
    documents: np.ndarray | None = None

    @property
    def mean(self) -> float:
        return float(self.sequences.mean())

    @property
    def standard_error(self) -> float:
        return standard_error(self.sequences, self.documents)

    @property
    def sums(self) -> np.ndarray:
        """(documents, 2): sequences and the sum of their losses in each."""
        return heldout.sums(self.sequences, clusters(self.sequences, self.documents))

    def delta(self, before: "Losses") -> tuple[float, float]:
        """Paired difference to an evaluation of the same sequences and its standard error."""
        difference = self.sequences - before.sequences
        return float(difference.mean()), standard_error(difference, self.documents)


def standard_error(values: np.ndarray, documents: np.ndarray | None = None) -> float:
    """Of the mean: clustered by document, by sequence if there is one document.

    1,024 sequences of the default corpus are from 43 files: taken as independent, the error of the loss
    would come out 2.6 times too small.
    """
    deviations = heldout.sums(values - values.mean(), clusters(values, documents))[:, 1]
    return heldout.clustered_error(deviations, len(values))


def clusters(values: np.ndarray, documents: np.ndarray | None) -> np.ndarray:
    """Documents, or sequences if there is one document: labels of what errs together."""
    if documents is None or len(np.unique(documents)) < 2:
        return np.arange(len(values))
    return documents


def held_out(run: RunConfig, device: str) -> Tensor:
    """The study's validation sequences: (sequences, context + 1) uint8, or with hidden tokens (`hide`)."""
    data, hidden = run.data, run.model.hidden_share(training=False)
    windows = held_out_windows(
        data.corpus().validation, data.context, data.eval_tokens // data.context
    )
    if hidden is not None:
        windows = hide(windows[:, :-1], hidden, "validation/hidden")
    return torch.from_numpy(windows).to(device)


def measure(
    model: nn.Module,
    run: RunConfig,
    device: str,
    exec: Exec | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Losses:
    """The loss of a run's model on the study's held-out sequences.

    exec: its micro-batch, where memory forced one, is the largest batch here too.
    Raises: Interrupted when `stop()` says so.
    """
    data, corpus = run.data, run.data.corpus()
    count = data.eval_tokens // data.context
    documents = documents_of(corpus.starts, len(corpus.validation), data.context, count)
    limit = exec.micro_batch if exec is not None else None
    batch = run.eval_batch or min(BATCH, limit or BATCH)
    losses = evaluate(model, held_out(run, device), batch, stop)
    return Losses(losses.sequences, documents)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    windows: Tensor,
    batch: int = BATCH,
    stop: Callable[[], bool] = lambda: False,
) -> Losses:
    """The loss of `model` on each of `windows`. Raises: Interrupted when `stop()` says so."""
    was_training = model.training
    model.eval()
    losses = []
    for ids in windows.split(batch):
        if stop():
            raise Interrupted
        losses.append(sequence_losses(model, ids))
    model.train(was_training)
    return Losses(torch.cat(losses).cpu().numpy())


def sequence_losses(model: nn.Module, ids: Tensor) -> Tensor:
    inputs, targets = pairs(model, ids)
    logits = model(inputs)  # (B, T, vocab)
    token = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")  # (B, T)
    return token.double().mean(1) / asked(targets)
