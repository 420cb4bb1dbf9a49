"""Attention in blocks of queries against torch's own, and against the definition in double precision."""

import math

import pytest
import torch
from torch import Tensor

from precisionlaws.models import blocked
from precisionlaws.models.attention import attend
from precisionlaws.models.own import BLOCK

# (13 sequences of 300 tokens are five groups, the last of them short.)
SHAPES = [
    (13, 300, 9, 16),
    (2, 256, 3, 16),
    (1, 129, 1, 8),
    (3, BLOCK, 2, 16),
    (2, 5, 2, 4),
    (9, 200, 4, 16),
]


def inputs(
    shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for _ in range(3)]


def defined(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    scores = scale * torch.einsum("bihd,bjhd->bhij", q, k)
    ahead = torch.ones(q.shape[1], q.shape[1]).triu(1).bool()
    p = scores.masked_fill(ahead, -math.inf).softmax(-1)
    return torch.einsum("bhij,bjhd->bihd", p, v).flatten(-2)


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_the_definition(shape: tuple[int, ...]) -> None:
    q, k, v = inputs(shape, torch.float64)
    y = blocked.attend(q, k, v, 0.3)
    expected = defined(q, k, v, 0.3)
    g = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(
        torch.autograd.grad(y, (q, k, v), g), torch.autograd.grad(expected, (q, k, v), g), strict=True
    ):  # fmt: skip
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


def test_gradients_by_finite_differences() -> None:
    q, k, v = inputs((2, BLOCK + 3, 2, 4), torch.float64)
    assert torch.autograd.gradcheck(
        lambda q, k, v: blocked.attend(q, k, v, 0.5), (q, k, v), fast_mode=True
    )


@pytest.mark.parametrize("lead", [(4,), (2, 3)])
@pytest.mark.parametrize(("repeat", "scale"), [(1, None), (2, 0.2)])
def test_both_kernels_of_a_model_agree(
    lead: tuple[int, ...], repeat: int, scale: float | None
) -> None:
    """Also with a member axis, shared heads and a scale; gradients that are no whole tensors too."""
    q, _, _ = inputs((*lead, 160, 4, 16))
    _, k, v = inputs((*lead, 160, 4 // repeat, 16), seed=1)
    ways = [attend(q, k, v, repeat, scale, own) for own in (False, True)]
    torch.testing.assert_close(ways[1], ways[0], rtol=1e-4, atol=2e-6)
    assert not torch.equal(ways[1], ways[0])  # it was another one
    for reduce in (lambda y: y.sum(), lambda y: (y[..., ::2] ** 2).mean()):
        theirs, ours = (torch.autograd.grad(reduce(y), (q, k, v), retain_graph=True) for y in ways)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * b.abs().max().item() + 1e-6)


def test_inputs_are_left_alone_and_evaluation_is_torchs_own() -> None:
    q, k, v = inputs((2, 160, 1, 16))
    before = [t.detach().clone() for t in (q, k, v)]
    attend(q, k, v, 1, own=True).sum().backward()
    assert all(torch.equal(t, b) for t, b in zip((q, k, v), before, strict=True))
    with torch.no_grad():
        assert torch.equal(attend(q, k, v, 1, own=True), attend(q, k, v, 1))


def test_no_query_reads_what_comes_after_it() -> None:
    q, k, v = inputs((1, 100, 2, 8))
    y = blocked.attend(q, k, v, 0.3).unflatten(-1, (2, 8))
    (dv,) = torch.autograd.grad(y[:, 40].sum(), v)
    assert torch.count_nonzero(dv[:, 41:]) == 0
    assert torch.count_nonzero(dv[:, :41]) == 41 * 2 * 8


def test_a_sequence_has_the_same_bits_in_any_company() -> None:
    q, k, v = inputs((11, 320, 9, 16))
    groups = {rows.start for rows, *_ in blocked.blocks(11, 320, 9)}
    assert len(groups) == 4
    whole = blocked.attend(q, k, v, 0.25)
    whole.backward(g := torch.randn_like(whole))
    a, b, c = turned = [t.detach().roll(5, 0).requires_grad_() for t in (q, k, v)]
    y = blocked.attend(a, b, c, 0.25)
    y.backward(g.roll(5, 0))
    assert torch.equal(y, whole.roll(5, 0))
    for other, one in zip(turned, (q, k, v), strict=True):
        assert other.grad is not None
        assert one.grad is not None
        assert torch.equal(other.grad, one.grad.roll(5, 0))


def test_there_is_no_second_derivative() -> None:
    q, k, v = inputs((1, 40, 2, 8))
    (dq,) = torch.autograd.grad(blocked.attend(q, k, v, 0.3).square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dq.sum().backward()


def test_an_overflow_stays_in_its_sequence() -> None:
    q, k, v = inputs((3, 160, 2, 16))
    with torch.no_grad():
        q[1] = math.inf
    y = blocked.attend(q, k, v, 0.25)
    assert y[1].isnan().all()
    assert y[[0, 2]].isfinite().all()
    y.sum().backward()
    for grad in (q.grad, k.grad, v.grad):
        assert grad is not None
        assert grad[[0, 2]].isfinite().all()


def test_blocks_cover_every_query_of_every_sequence_once() -> None:
    for B, T, H in ((1, 1, 1), (7, 200, 5), (64, 256, 9), (2, 512, 64)):
        seen = torch.zeros(B, T)
        for rows, heads, start, stop in blocked.blocks(B, T, H):
            seen[rows, start:stop] += 1
            assert (heads.start, heads.stop) == (rows.start * H, rows.stop * H)
            assert 0 < stop - start <= BLOCK
        assert torch.equal(seen, torch.ones(B, T))
