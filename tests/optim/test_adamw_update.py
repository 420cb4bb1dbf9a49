"""torch's own AdamW as oracle, bit for bit."""

import copy

import torch
from torch import Tensor, nn

from precisionlaws.optim.adamw_update import AdamWUpdate

SHAPES = ((), (1,), (7,), (16, 48), (33, 5), (3, 16, 17))  # also no multiple of a vector's length
BETAS, EPS = (0.9, 0.95), 1e-8


def parameters(seed: int) -> list[nn.Parameter]:
    g = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=g)) for shape in SHAPES]


def groups(ps: list[nn.Parameter]) -> list[dict[str, object]]:
    return [{"params": ps[:4], "weight_decay": 0.1}, {"params": ps[4:], "weight_decay": 0.0}]


def give(ps: list[nn.Parameter], step: int) -> None:
    g = torch.Generator().manual_seed(step)
    for p in ps:
        p.grad = torch.randn(p.shape, generator=g) * 10.0 ** (step - 2)


def states(optimizer: torch.optim.Optimizer, ps: list[nn.Parameter]) -> list[Tensor]:
    return [optimizer.state[p][k] for p in ps for k in ("step", "exp_avg", "exp_avg_sq")]


def test_torch_bit_for_bit() -> None:
    ours, theirs = parameters(0), parameters(0)
    update = AdamWUpdate(groups(ours), 1e-2, BETAS, EPS)
    oracle = torch.optim.AdamW(groups(theirs), lr=1e-2, betas=BETAS, eps=EPS, fused=True)
    for step in range(6):
        for optimizer, ps in ((update, ours), (oracle, theirs)):
            give(ps, step)
            if step == 2:
                ps[2].grad = None  # keeps its count of steps, too
            for group in optimizer.param_groups:
                group["lr"] = 1e-2 / (1 + step)
            optimizer.step()
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        pairs = zip(states(update, ours), states(oracle, theirs), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_state_goes_on_in_another_process() -> None:
    whole, halves = parameters(1), parameters(1)
    first = AdamWUpdate(groups(whole), 1e-2, BETAS, EPS)
    second = AdamWUpdate(groups(halves), 1e-2, BETAS, EPS)
    for step in range(4):
        if step == 2:
            saved = copy.deepcopy(second.state_dict())
            second = AdamWUpdate(groups(halves), 1e-2, BETAS, EPS)
            second.load_state_dict(saved)
        for optimizer, ps in ((first, whole), (second, halves)):
            give(ps, step)
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(whole, halves, strict=True))


def test_without_gradients_nothing_moves() -> None:
    ps = parameters(2)
    before = [p.detach().clone() for p in ps]
    AdamWUpdate(groups(ps), 1e-2, BETAS, EPS).step()
    assert all(torch.equal(a, b) for a, b in zip(before, ps, strict=True))


def test_hooks_after_a_step_run_once() -> None:
    ps, calls = parameters(3), []
    update = AdamWUpdate(groups(ps), 1e-2, BETAS, EPS)
    update.register_step_post_hook(lambda *_: calls.append(1))
    give(ps, 2)
    update.step()
    assert calls == [1]
