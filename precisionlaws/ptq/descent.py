"""Gradient descent on calibration sequences that keeps what is best on those it never trains on."""

from collections.abc import Callable

import torch
from torch import Tensor

HELD_OUT = 4  # every fourth sequence
BATCH = 4  # sequences of a step
RATE = 5e-3  # of Adam, falling to zero: of vectors, and per root mean square of a matrix


def descend(
    loss: Callable[[Tensor], Tensor], trained: list[Tensor], count: int, epochs: int
) -> None:
    """Train in place, and keep the epoch, or the start, with the least loss on held-out sequences."""
    train, test = sides(count)
    best, kept = mean(loss, test), [t.clone() for t in trained]
    steps = epochs * -(-len(train) // BATCH)
    rates = [t.square().mean().sqrt().item() if t.dim() > 1 else 1.0 for t in trained]
    adam = torch.optim.Adam(
        [
            {"params": [t.requires_grad_()], "lr": RATE * r}
            for t, r in zip(trained, rates, strict=True)
        ]
    )
    falling = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.0, steps)
    for epoch in range(epochs):
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(epoch))
        for rows in train[order].split(BATCH):
            with torch.enable_grad():
                adam.zero_grad()
                loss(rows).backward()
                adam.step()
                falling.step()
        if (now := mean(loss, test)) < best:
            best, kept = now, [t.detach().clone() for t in trained]
    for tensor, value in zip(trained, kept, strict=True):
        tensor.requires_grad_(False).copy_(value)
        tensor.grad = None


def sides(count: int) -> tuple[Tensor, Tensor]:
    """(sequences that are trained on, those that are held out)"""
    rows = torch.arange(count)
    return rows[rows % HELD_OUT > 0], rows[rows % HELD_OUT == 0]


def mean(loss: Callable[[Tensor], Tensor], rows: Tensor) -> float:
    with torch.no_grad():
        return sum(loss(part).item() * len(part) for part in rows.split(BATCH)) / len(rows)
