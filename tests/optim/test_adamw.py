"""AdamW: torch's own as oracle, decay where it belongs, rules that give numbers."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from precisionlaws.config import ConfigError, build
from precisionlaws.models.base import Model, Size
from precisionlaws.models.parts import Decoder, initialize, stack
from precisionlaws.optim.adamw import AdamW
from precisionlaws.overrides import option
from precisionlaws.quant import attach
from precisionlaws.quant.formats.base import Format

SIZE = Size(depth=1, width=16, heads=1)


def adamw(**fields: Any) -> AdamW:
    spec = build(option("optim", "adamw") | fields, AdamW)
    assert isinstance(spec, AdamW)
    return spec


def made(tied: bool = False) -> Decoder:
    spec = build(option("model", "llama") | {"tied": tied}, Model)
    assert isinstance(spec, Model)
    model = spec.build(SIZE, 32, 8)
    assert isinstance(model, Decoder)
    initialize(model, 0)
    return model


def test_rule_for_the_learning_rate() -> None:
    spec = adamw()
    assert spec.resolved(6656, 16).lr == 2 * spec.resolved(23552, 32).lr  # type: ignore[operator]
    assert spec.resolved(1, 48).lr == float(f"{spec.resolved(1, 16).lr / 3:.6g}")  # type: ignore[operator]
    assert adamw(lr=0.5).resolved(1, 48).lr == 0.5
    assert replace(spec.resolved(1, 48), lr=None) == spec


def test_one_batch_size_for_all_sizes() -> None:
    assert {adamw().batch_tokens(n) for n in (10**3, 10**5, 10**7)} == {1024}


def test_unresolved_is_refused() -> None:
    with pytest.raises(ValueError, match="lr is not resolved"):
        adamw().build(made())


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"beta1": 1.0}, "beta1 must be 0 to"),
        ({"lr": -1}, "lr must be at least 0, got -1"),
        ({"weight_decay": "a"}, "weight_decay must be a number, got 'a'"),
    ],
)
def test_errors(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        adamw(**fields)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("quantized", [False, True])
def test_linears_decay_norms_and_embeddings_do_not(
    tied: bool, packed: bool, quantized: bool
) -> None:
    model = stack([made(tied), made(tied)]) if packed else made(tied)
    if quantized:
        int4 = build(option("format", "int4"), Format)
        assert isinstance(int4, Format)
        attach(model, weights=int4)
    decayed, free = adamw(lr=1.0).build(model).param_groups
    names = {id(p): n for n, p in model.named_parameters()}
    assert decayed["weight_decay"] == 0.1
    assert free["weight_decay"] == 0.0
    kept = {names[id(p)] for p in free["params"]}
    assert kept == {
        "embed.weight",
        "norm.weight",
        "blocks.0.norm.weight",
        "blocks.0.mlp_norm.weight",
    }
    assert len(decayed["params"]) + len(kept) == len(names)


def test_equals_the_formula() -> None:
    """Against a plain, unfused torch.optim.AdamW over 5 steps in fp64."""
    ours, plain = made().double(), made().double()
    spec = adamw(lr=0.01)
    oracle = torch.optim.AdamW(
        [
            {"params": [p], "weight_decay": 0.1 if "norm" not in n and "embed" not in n else 0.0}
            for n, p in plain.named_parameters()
        ],
        lr=0.01,
        betas=(spec.beta1, spec.beta2),
        eps=spec.eps,
        foreach=False,
    )
    optimizer = spec.build(ours)
    ids = torch.randint(32, (2, 9), generator=torch.Generator().manual_seed(0))
    for _ in range(5):
        for model, o in ((ours, optimizer), (plain, oracle)):
            F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
            o.step()
            o.zero_grad()
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)
