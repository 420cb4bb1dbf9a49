"""Which runs may share a pack."""

from dataclasses import replace

import pytest

from precisionlaws.run import RunConfig, compose
from precisionlaws.training.pack_rules import kinds, obstacle, pack_key, pays, together

BASE = ["tokens=102400"]
WSD_ALIKE = [
    ["quant=low_precision"],
    ["seed=7"],
    ["optim.lr=0.1"],
    ["optim.weight_decay=0"],
    ["optim.clip=null"],
    ["tokens=204800"],
]
OTHERS = [
    ["size=7k"],
    ["model=gpt"],
    ["data.context=64"],
    ["batch_tokens=2048"],
    ["optim.beta2=0.95"],
    ["lr_schedule.decay=0.1"],
    ["micro_batch=2"],
    ["dtype=float64"],
    ["lr_schedule=cosine"],
]


def made(*overrides: str) -> RunConfig:
    return compose([*BASE, *overrides])


def test_members_differ_in_bits_seed_and_rates_only() -> None:
    key = pack_key(made(), "x")
    assert all(pack_key(made(*o), "x") == key for o in WSD_ALIKE)
    assert len({key, *(pack_key(made(*o), "x") for o in OTHERS)}) == 1 + len(OTHERS)
    assert pack_key(made(), "y") != key
    cosine = [made("lr_schedule=cosine", f"tokens={t}") for t in (102400, 204800)]
    assert pack_key(cosine[0], "x") != pack_key(cosine[1], "x")


def test_kinds_are_formats_less_bits() -> None:
    off, w4, w3, g4, low = (
        kinds(made(*o))
        for o in (
            [],
            ["quant=qat"],
            ["quant=qat", "quant.weights.bits=3"],
            ["quant=qat", "quant.weights.granularity=group"],
            ["quant=low_precision"],
        )
    )
    assert off == {}
    assert w4 == w3
    assert together(off, g4)
    assert together(w3, low)
    assert not together(w4, g4)


def test_packs_pay_where_steps_are_small() -> None:
    def size(size: str, batch: int, *more: str, device: str = "cpu") -> int:
        return pays(made(f"size={size}", f"batch_tokens={batch}", *more), device)

    assert size("20k", 1024) == 1  # the default
    assert size("20k", 512) == size("20k", 128) == 8
    assert size("50k", 512) == size("100k", 256) == 1
    assert size("50k", 256) == size("100k", 128) == 8
    assert size("20k", 1024, "micro_batch=2") == 8
    assert size("20k", 128, device="cuda") == 1


def test_obstacles(monkeypatch: pytest.MonkeyPatch) -> None:
    run = made()
    assert obstacle(run) == ""
    odd = replace(run, batch_tokens=96, data=replace(run.data, context=48, eval_tokens=960))
    assert "96 tokens at once are no multiple of 64" in obstacle(odd)
    assert pays(odd, "cpu") == 1
    for more in (
        ["quant=qat", "quant.weights.rounding=stochastic"],
        ["quant=low_precision", "quant.rotation=hadamard"],
        ["quant=qat", "quant.start=0.5"],
    ):
        assert "for runs by themselves" in obstacle(made(*more))
    monkeypatch.setattr(type(run.optim), "elementwise", False)
    assert obstacle(run) == "steps of optim=adamw are not elementwise"
