"""Every model under every optimizer, at full precision and quantized, learns more than how often a byte occurs."""

import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from precisionlaws.overrides import options
from precisionlaws.run import RunConfig, compose
from precisionlaws.training import loop, pack
from precisionlaws.training.evaluate import held_out
from precisionlaws.training.objectives import pairs
from precisionlaws.training.state import State, fresh, resume, save

QUANT = {
    "none": [],
    "qat 4": ["quant=qat"],
    "4-8-8": ["quant=low_precision", "quant.weights.bits=4"],
}
EVERY = list(product(options("model"), options("optim")))


def run_of(tiny: list[str], model: str, optim: str, quant: str, *more: str) -> RunConfig:
    names = [*tiny, f"model={model}", f"optim={optim}", *QUANT[quant], *more]
    if model == "hydra_ssm" and quant == "4-8-8":
        names.append("quant.kv.bits=16")  # it has no cache
    return compose(names)


def unigram(run: RunConfig) -> float:
    """Entropy of the bytes of the training text, nats."""
    counts = np.bincount(run.data.corpus().train)
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


@torch.no_grad()
def held_out_loss(state: State, run: RunConfig) -> float:
    inputs, targets = pairs(state.model, held_out(run, "cpu"))
    logits = state.model(inputs)
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).item()


@pytest.mark.slow
@pytest.mark.parametrize("quant", QUANT)
@pytest.mark.parametrize(("model", "optim"), EVERY)
def test_it_learns_more_than_frequencies(
    tiny: list[str], model: str, optim: str, quant: str
) -> None:
    run = run_of(tiny, model, optim, quant, "batch_tokens=512", "tokens=51200", "optim.lr=0.02")
    state = fresh(run, "cpu")
    start = held_out_loss(state, run)
    loop.advance(
        state, run, loop.batches_of(run), run.steps, lambda s: run.lr_schedule.factor(s, run.steps)
    )
    assert start > 0.9 * math.log(256)
    assert held_out_loss(state, run) < unigram(run) - 0.1


@pytest.mark.parametrize(("model", "optim"), EVERY)
def test_a_member_has_the_bits_it_has_in_any_other_pack(
    tiny: list[str], model: str, optim: str
) -> None:
    """Its partners change nothing, not even one of a senseless rate."""
    one = run_of(tiny, model, optim, "qat 4", "optim.lr=0.02")
    calm, wild = (run_of(tiny, model, optim, "none", f"optim.lr={lr}", "seed=1") for lr in (0.01, 1e6))  # fmt: skip
    weights = []
    for runs in ([one, calm], [one, wild]):
        together = pack.Pack(runs, "cpu")
        pack.advance(together, {0, 1}, 4, lambda _: 1.0)
        weights.append(together.members[0].model.state_dict())
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


@pytest.mark.parametrize(("model", "optim"), EVERY)
def test_a_resumed_run_has_the_same_bits(
    tiny: list[str], model: str, optim: str, tmp_path: Path
) -> None:
    run = run_of(tiny, model, optim, "4-8-8", "optim.lr=0.02")
    whole, first, second = (fresh(run, "cpu") for _ in range(3))
    loop.advance(whole, run, loop.batches_of(run), 4, lambda _: 1.0)
    loop.advance(first, run, loop.batches_of(run), 2, lambda _: 1.0)
    save(first, tmp_path / "half", "facts")
    assert resume(second, tmp_path / "half", "facts")
    loop.advance(second, run, loop.batches_of(run), 4, lambda _: 1.0)
    for name, value in whole.tensors().items():
        assert torch.equal(value, second.tensors()[name]), name


@pytest.mark.parametrize(("model", "optim"), EVERY)
def test_decay_is_of_matrices_and_head_alone(model: str, optim: str) -> None:
    """Not of gains, biases, positions, convolutions, or what scans start from: dt_bias, A_log, D."""
    run = compose(["size=7k", f"model={model}", f"optim={optim}", "optim.weight_decay=0.1"])
    state = fresh(run, "cpu")
    names = {id(p): n for n, p in state.model.named_parameters()}
    decayed = {names[id(p)] for g in state.optimizer.param_groups for p in g["params"] if g["weight_decay"]}  # fmt: skip
    blocks = {f"{name}.weight" for name, _, _ in run.model.matrices(run.size)}
    assert decayed == blocks | (set() if run.model.one_table else {"head.weight"})
    assert sum(len(g["params"]) for g in state.optimizer.param_groups) == len(names)
