"""torch's own clip_grad_norm_ as oracle, bit for bit."""

import math

import pytest
import torch
from torch import nn

from precisionlaws.optim.clip import clip_grad_norm


def parameters(scale: float) -> list[nn.Parameter]:
    g = torch.Generator().manual_seed(0)
    ps = [nn.Parameter(torch.zeros(shape)) for shape in ((16, 33), (7,), (3, 5, 16), (1,))]
    for p in ps[:-1]:
        p.grad = scale * torch.randn(p.shape, generator=g)
    return ps


@pytest.mark.parametrize("most", [1.0, 0.1, math.inf])
@pytest.mark.parametrize("scale", [0.0, 1e-3, 0.03, 1.0, 1e30, math.inf, math.nan])
def test_torch_bit_for_bit(scale: float, most: float) -> None:
    ours, theirs = parameters(scale), parameters(scale)
    norm = clip_grad_norm(ours, most)
    assert torch.equal(norm.view(1).view(torch.int32), torch.nn.utils.clip_grad_norm_(theirs, most).view(1).view(torch.int32))  # fmt: skip
    for a, b in zip(ours, theirs, strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None and b.grad is not None:
            assert torch.equal(a.grad.nan_to_num(7.0), b.grad.nan_to_num(7.0))


def test_no_gradients() -> None:
    assert clip_grad_norm([nn.Parameter(torch.ones(3))], 1.0) == 0


def test_short_gradients_are_left_alone() -> None:
    ps = parameters(1e-3)
    version = ps[0].grad._version  # type: ignore[union-attr]
    clip_grad_norm(ps, 1.0)
    assert ps[0].grad._version == version  # type: ignore[union-attr]
