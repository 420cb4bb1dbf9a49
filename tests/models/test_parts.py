"""Parts with backward passes of their own against torch's, and where torch's are used."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from precisionlaws.models import parts


def ours_of() -> parts.GeluTanh:
    act = parts.GeluTanh()
    parts.choose(act, "gelu")
    return act


def both(x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Value and gradient: ours, and in double precision torch's."""
    wide = x.detach().double().requires_grad_()
    ways = ((x, ours_of()(x)), (wide, F.gelu(wide, approximate="tanh")))
    ours, exact = ([y, torch.autograd.grad(y.sum(), at)[0]] for at, y in ways)
    return ours, exact


def test_gelu_is_within_rounding_of_the_exact_one() -> None:
    x = torch.linspace(-12, 12, 100_001).requires_grad_()
    ours, exact = both(x)
    for a, b in zip(ours, exact, strict=True):
        assert (a - b).abs().max() < 4e-6
    near = x.detach().abs() < 1
    for a, b in zip(ours, exact, strict=True):
        torch.testing.assert_close(a[near].double(), b[near], rtol=1e-6, atol=2e-7)


def test_gelu_far_out_is_zero_or_the_identity() -> None:
    x = torch.tensor([-1e6, -50.0, 0.0, 50.0, 1e6]).requires_grad_()
    y = ours_of()(x)
    y.sum().backward()
    assert y.tolist() == [0, 0, 0, 50, 1e6]
    assert x.grad is not None
    assert x.grad.tolist() == [0, 0, 0.5, 1, 1]


def test_gelu_leaves_its_input_alone_and_takes_any_layout() -> None:
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)).t().requires_grad_()
    before = x.detach().clone()
    ours_of()(x)[::2].square().sum().backward()
    assert torch.equal(x, before)
    grad, x.grad = x.grad, None
    F.gelu(x, approximate="tanh")[::2].square().sum().backward()
    torch.testing.assert_close(grad, x.grad, rtol=1e-5, atol=1e-6)


def test_gelu_is_torchs_unless_chosen_and_in_evaluation() -> None:
    x = torch.randn(64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    theirs = F.gelu(x, approximate="tanh")
    assert torch.equal(parts.GeluTanh()(x), theirs)
    assert not torch.equal(ours_of()(x), theirs)
    with torch.no_grad():
        assert torch.equal(ours_of()(x), theirs)


def test_there_is_no_second_derivative() -> None:
    x = torch.randn(8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (dx,) = torch.autograd.grad(ours_of()(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()
