"""Clipping by the norm of all gradients together."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


@torch.no_grad()
def clip_grad_norm(parameters: Sequence[nn.Parameter], most: float) -> Tensor:
    """Scale gradients down, in place, to a norm of at most `most`; -> their norm before, a scalar.

    torch.nn.utils.clip_grad_norm_, to the bit. That one never looks at the norm, as a GPU would have to wait
    for it, and multiplies all gradients by 1 when they are short. On a CPU looking is free.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    if not grads or any(g.device.type != "cpu" for g in grads):
        return torch.nn.utils.clip_grad_norm_(parameters, most)
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
    scale = most / (norm + 1e-6)
    if not scale >= 1:  # also NaN, which must spread
        torch._foreach_mul_(grads, scale)
    return norm
