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
from precisionlaws.run import compose

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
    assert rate(6656, 16, 1024) == 2 * rate(23552, 32, 1024)
    assert rate(1, 48, 1024) == float(f"{rate(1, 16, 1024) / 3:.6g}")
    assert rate(1, 48, 1024) == rate(10**6, 48, 4096)  # up to 1M the width alone decides
    assert adamw(lr=0.5).resolved(1, 48, 1024).lr == 0.5
    assert replace(adamw().resolved(1, 48, 1024), lr=None, weight_decay=None) == adamw()


def rate(N: int, width: int, batch: int) -> float:
    lr = adamw().resolved(N, width, batch).lr
    assert lr is not None
    return lr


LADDER = ("7k", "20k", "50k", "100k", "200k", "400k", "1M", "2M", "3M", "10M", "30M", "60M", "110M", "220M")  # fmt: skip


def shapes() -> list[tuple[int, int]]:
    """(N, width) of the sizes of conf."""
    runs = [compose([f"size={s}", "tokens=1G"]) for s in LADDER]
    return [(r.N, r.size.width) for r in runs]


def test_one_batch_size_up_to_a_million_then_powers_of_two_that_grow() -> None:
    assert {adamw().batch_tokens(n) for n in (10**3, 10**5, 10**6)} == {1024}
    assert adamw().batch_tokens(108_000_000) == 262_144  # of 327,680
    batches = [adamw().batch_tokens(n) for n, _ in shapes() if n > 10**6]
    assert batches == sorted(batches)
    assert batches == [32768, 32768, 65536, 131072, 262144, 262144, 524288]


def test_the_ladder_at_its_reference() -> None:
    """OLMo-core's numbers at 108M, halved for a stable phase."""
    assert rate(108_000_000, 864, 327_680) == 0.0047 / 2
    assert rate(108_000_000, 864, 4 * 327_680) == 0.0047
    assert rate(8 * 108_000_000, 2048, 4 * 327_680) == pytest.approx(0.0047 / 4, rel=1e-5)


@pytest.mark.parametrize("batch", [1024, 2**15, 2**19])
def test_at_one_batch_the_rate_falls_with_size(batch: int) -> None:
    """Up to 1M by width, which stands still where depth grows."""
    for small in (True, False):
        rates = [rate(n, w, batch) for n, w in shapes() if (n <= 10**6) == small]
        assert rates == sorted(rates, reverse=True)
        assert len(set(rates)) >= len(rates) - 1


def test_the_rules_meet_at_a_million() -> None:
    """At equal batch; by default the batch grows 16-fold there, and the rate as its root."""
    below, above = rate(995_328, 144, 1024), rate(1_000_001, 144, 1024)
    assert below > above > 0.85 * below
    assert adamw().batch_tokens(1_000_001) == 16 * 1024
    assert rate(1_000_001, 144, 16 * 1024) == pytest.approx(4 * above, rel=1e-5)


def test_the_default_rate_stays_near_the_ladders() -> None:
    """Rounding the batch to a power of two moves it by at most 2^(1/4)."""
    for n, width in shapes():
        if n > 10**6:
            ratio = rate(n, width, adamw().batch_tokens(n)) / (0.00235 * (n / 108e6) ** (-1 / 3))
            assert 2**-0.2501 < ratio < 2**0.2501


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
