"""What a model reads and what it must say: the next token, or tokens that are hidden from it.

A causal batch is (..., T + 1) tokens; a masked one (..., T), where a hidden token t is stored as ~t, so
that one tensor passes micro-batches, packs and evaluations (data/batches.py). Every sequence hides equally
many, so that means over parts of equal size average to the mean over all.
"""

import torch
from torch import Tensor, nn

IGNORED = -100  # as target: torch's own mark


def pairs(model: nn.Module, ids: Tensor) -> tuple[Tensor, Tensor]:
    """(what `model` reads, the targets), (..., T) both; positions without a target are `IGNORED`."""
    ids = ids.long()
    if getattr(model, "objective", "causal") == "causal":
        return ids[..., :-1], ids[..., 1:]
    return ids, torch.where(ids < 0, ~ids, IGNORED)


def asked(targets: Tensor) -> Tensor:
    """The share of positions that have a target."""
    return (targets != IGNORED).float().mean()
