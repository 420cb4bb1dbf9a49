"""µP and CompleteP: the published factors, the standard runs at the base, and how far steps move activations."""

from collections.abc import Callable
from dataclasses import asdict
from math import log2, sqrt
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precisionlaws.config import ConfigError
from precisionlaws.fitting.comparable import recipes
from precisionlaws.models.parametrizations.application import kinds
from precisionlaws.models.parts import Decoder
from precisionlaws.run import RunConfig, compose, family, run_id, trunk_id
from precisionlaws.store import load
from precisionlaws.training import loop
from precisionlaws.training.pack_rules import check_packable
from precisionlaws.training.state import State, fresh, resume, save
from precisionlaws.training.train import train

WIDE = ["size.depth=2", "size.width=64", "size.heads=4"]  # twice the base's width
DEEP = ["size.depth=8", "size.width=64", "size.heads=4"]  # and four times its depth
BASE = ["size.depth=2", "size.width=32", "size.heads=2"]


def trained(run: RunConfig, steps: int, state: State | None = None) -> State:
    state = state or fresh(run, "cpu")
    loop.advance(state, run, loop.batches_of(run), steps, lambda step: 1 - step / 20)
    return state


@pytest.mark.parametrize("name", ["mup", "completep"])
@pytest.mark.parametrize("model", [["model=llama"], ["model=gpt"]])
def test_at_the_base_it_is_the_standard_one(tiny: list[str], name: str, model: list[str]) -> None:
    base = [*tiny, *BASE, *model]
    plain, run = compose(base), compose([*base, f"parametrization={name}"])
    assert plain.optimizer == run.optimizer  # rates by rule, too
    a, b = trained(plain, 6).model.state_dict(), trained(run, 6).model.state_dict()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_factors_are_those_of_the_papers() -> None:
    """Dey et al. 2025, table 1 and equation 40, with m = 2 and l = 4."""
    mup = compose([*DEEP, "parametrization=mup"]).multipliers
    complete = compose([*DEEP, "parametrization=completep"]).multipliers
    lazy = compose([*DEEP, "parametrization=completep", "parametrization.alpha=0.5"]).multipliers
    assert mup
    assert complete
    assert lazy
    assert asdict(mup) == pytest.approx(
        {"width": 2, "scores": 1, "logits": 1 / 2, "branch": 1, "table": sqrt(2), "writers": 1, "matrix_lr": 1 / 2,
         "vector_lr": 1, "matrix_decay": 2, "block_eps": 1 / 2, "outer_eps": 1 / 2}
    )  # fmt: skip
    depth = {"branch": 1 / 4, "writers": 2, "block_eps": 1 / 8}
    assert asdict(complete) == pytest.approx(asdict(mup) | depth)
    rates = {"matrix_lr": 1 / 4, "vector_lr": 1 / 2, "branch": 1 / 2, "block_eps": 1 / 4}
    assert asdict(lazy) == pytest.approx(asdict(complete) | rates)
    heads = compose(["size.depth=2", "size.width=64", "size.heads=1", "parametrization=mup"])
    assert heads.multipliers
    assert heads.multipliers.scores == 1 / 2  # √16 / 64 = 1/√64 · 1/2


@pytest.mark.parametrize("more", [[], ["model.tied=true"], ["model=gpt"], ["quant=qat"]])
def test_every_parameter_starts_and_steps_by_its_kind(more: list[str]) -> None:
    run = compose([*DEEP, *more, "parametrization=completep", "parametrization.alpha=0.5"])
    state, plain = fresh(run, "cpu"), fresh(compose([*DEEP, *more]), "cpu")
    of = {
        id(p): (g["rate"], g["weight_decay"], g["eps"])
        for g in state.optimizer.param_groups
        for p in g["params"]
    }
    assert len(of) == len(list(state.model.parameters()))
    table = "embed.weight" if isinstance(state.model, Decoder) and state.model.head is None else "head.weight"  # fmt: skip
    for name, p in state.model.named_parameters():
        start = p.norm() / plain.model.get_parameter(name).norm()
        owner = name.split(".")[-2]
        if name.startswith("blocks.") and owner in ("q", "k", "v", "o", "gate", "up", "down") and name.endswith("weight"):  # fmt: skip
            assert start.item() == pytest.approx(2.0 if owner in ("o", "down") else 1.0)
            expected = (1 / 4, 0.2, 1e-8 / 4)
        elif name.startswith("blocks."):
            expected = (1 / 2, 0.0, 1e-8 / 4)
        else:
            assert name not in (table, "positions.weight") or start.item() == pytest.approx(sqrt(2))
            expected = (1.0, 0.1 if name == "head.weight" else 0.0, 1e-8 / 2)
        assert of[id(p)] == pytest.approx(expected), name


def test_its_two_forms_train_alike(tiny: list[str]) -> None:
    """Logits / m with a start of 1 and a rate of 1 is a start and a rate of 1/m (Yang et al. 2022, tables 8 and 3):
    decay times rate and eps times gradient stay what they were."""
    run = compose([*tiny, *WIDE, "parametrization=mup", "dtype=float64", "optim.lr=0.02"])
    other = fresh(run, "cpu")
    model = other.model
    assert isinstance(model, Decoder)
    assert model.head is not None
    model.output = 1.0
    with torch.no_grad():
        model.head.weight.div_(2)
    group = next(g for g in other.optimizer.param_groups if g["params"][0] is model.head.weight)
    group |= {"rate": 1 / 2, "weight_decay": 0.2, "eps": 2 * group["eps"]}
    ids = torch.arange(99).view(3, 33) % 27
    for state in (
        one := fresh(run, "cpu"),
        other,
    ):  # no clipping: it would see the head's other scale
        for _ in range(5):
            F.cross_entropy(state.model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
            for g in state.optimizer.param_groups:
                g["lr"] = 0.02 * g["rate"]
            state.optimizer.step()
            state.optimizer.zero_grad()
    logits, expected = model(ids[:, 1:]), one.model(ids[:, 1:])
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)


def moves(*overrides: str) -> dict[str, float]:
    """RMS by which five steps at one rate move activations, the same batch at every size."""
    run = compose(["optim.lr=0.01", *overrides])
    state, seen = fresh(run, "cpu"), {}
    block = state.model.get_submodule(f"blocks.{run.size.depth - 1}")

    def watch(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda _, __, y: seen.update({name: y.detach().clone()})

    state.model.get_submodule("embed").register_forward_hook(watch("embedding"))
    block.get_submodule("attn.q").register_forward_hook(watch("queries"))
    block.get_submodule("mlp.up").register_forward_hook(watch("hidden"))
    block.register_forward_hook(watch("stream"))
    state.model.register_forward_hook(watch("logits"))
    ids = torch.randint(256, (4, 33), generator=torch.Generator().manual_seed(1))
    state.model(ids[:, :-1])
    start = dict(seen)
    for _ in range(5):
        F.cross_entropy(state.model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
        nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
        for group in state.optimizer.param_groups:
            group["lr"] = 0.01 * group.get("rate", 1.0)
        state.optimizer.step()
        state.optimizer.zero_grad()
    state.model(ids[:, :-1])
    return {k: (seen[k] - start[k]).square().mean().sqrt().item() for k in seen}


def exponents(sizes: list[list[str]], *overrides: str) -> dict[str, float]:
    """Of the growth of moves from the first of `sizes` to the last, four times as wide or deep."""
    first, last = (moves(*size, *overrides) for size in (sizes[0], sizes[-1]))
    return {k: log2(last[k] / first[k]) / 2 for k in first}


WIDTHS = [[f"size.width={w}", f"size.heads={w // 16}", "size.depth=2"] for w in (32, 128)]
DEPTHS = [[f"size.depth={d}", "size.width=32", "size.heads=2"] for d in (2, 8)]


@pytest.mark.parametrize("more", [["model=llama"], ["model=gpt"], ["quant=qat"]])
def test_coordinates_over_width(more: list[str]) -> None:
    """Measured exponents from 32 to 256: the stream .54 to 1.0 and queries .27 to .33 under the standard one; under µP
    -.04 to 0 and -.07 to 0. Its logits come from a start that falls as m^-½."""
    standard, mup = (exponents(WIDTHS, *more, f"parametrization={p}") for p in ("standard", "mup"))
    assert standard["stream"] > 0.4
    assert min(standard["queries"], standard["hidden"], standard["logits"]) > 0.15
    assert all(abs(mup[k]) < 0.12 for k in ("embedding", "queries", "hidden", "stream"))
    assert -0.5 < mup["logits"] < 0.05


@pytest.mark.parametrize("model", ["llama", "gpt"])
def test_coordinates_over_depth(model: str) -> None:
    """From depth 2 to 16 the stream's exponent is .29 (llama) and 1.1 (gpt) without CompleteP."""
    mup, complete = (
        exponents(DEPTHS, f"model={model}", f"parametrization={p}") for p in ("mup", "completep")
    )
    assert mup["stream"] > 0.2
    assert -0.2 < complete["stream"] < 0.05
    assert all(abs(complete[k]) < 0.25 for k in complete)


def test_a_resumed_run_has_the_same_bits(tiny: list[str], tmp_path: Path) -> None:
    run = compose([*tiny, *DEEP, "parametrization=completep", "optim=adopt", "quant=qat"])
    whole, first = trained(run, 6), trained(run, 3)
    save(first, tmp_path / "half", "facts")
    second = fresh(run, "cpu")
    assert resume(second, tmp_path / "half", "facts")
    trained(run, 6, second)
    for name, value in whole.tensors().items():
        assert torch.equal(value, second.tensors()[name]), name


def test_kinds_know_every_parameter() -> None:
    model = fresh(compose([*WIDE, "model=gpt", "model.qk_norm=true"]), "cpu").model
    found = {id(p): kind for p, kind in kinds(model)}
    names = {n: found[id(p)] for n, p in model.named_parameters()}
    assert names["embed.weight"] == names["positions.weight"] == names["norm.bias"] == "outer"
    assert {names[f"blocks.1.{n}"] for n in ("norm.weight", "attn.q.bias", "attn.rope_q.0.weight")} == {"vector"}  # fmt: skip
    assert {k for n, k in names.items() if n.endswith((".q.weight", ".down.weight"))} == {"matrix"}


def test_names() -> None:
    plain, mup = compose(WIDE), compose([*WIDE, "parametrization=mup"])
    assert run_id(plain, "0") == run_id(compose([*WIDE, "parametrization=standard"]), "0")
    others = [mup, compose([*WIDE, "parametrization=mup", "parametrization.width=64"])]
    assert len({run_id(r, "0") for r in (plain, *others)}) == 3
    assert len({trunk_id(r, "0") for r in (plain, *others)}) == 3
    assert len({family(r, "0") for r in (plain, *others)}) == 1  # same batches, same random numbers
    assert mup.optimizer.lr == compose(BASE).optimizer.lr  # what is given is the base's


def test_rows_say_which_and_a_fit_warns_of_two(tiny: list[str], tmp_path: Path) -> None:
    for name in ("standard", "mup"):
        train(compose([*tiny, f"parametrization={name}"]), tmp_path)
    frame = load(tmp_path)
    assert set(frame["parametrization"]) == {"standard", "mup"}
    assert set(frame["parametrization.width"].dropna()) == {32}
    assert "parametrization" in recipes(frame)[0]


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        ("model=ngpt parametrization=mup", "must be standard with model=ngpt, for which mup is not"),
        ("model=hydra_ssm parametrization=completep", "must be standard with model=hydra_ssm"),
        ("parametrization=mup optim=adopt optim.decoupled=false", "optim.decoupled=true or optim.w"),
        ("parametrization=mu", "unknown parametrization; did you mean 'mup'"),
        ("parametrization.width=16", "no such field; parametrization=mup and completep have fields"),
        ("parametrization=mup parametrization.depth=2", "parametrization.depth: no such field"),
        ("parametrization=completep parametrization.alpha=0.3", "alpha must be 0.5 to 1, got 0.3"),
    ],
)  # fmt: skip
def test_errors(overrides: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        compose(overrides.split())


def test_packs_are_refused() -> None:
    with pytest.raises(ConfigError, match="pack must be 1 here, got 8: learning rates of param"):
        check_packable(compose([*WIDE, "parametrization=mup"]), 8)
