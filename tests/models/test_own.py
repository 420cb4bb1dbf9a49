"""Which parts of a training step are ours."""

from dataclasses import replace

import pytest

from precisionlaws.models.attention import Attention
from precisionlaws.models.own import LONGEST, SHORTEST, scores_kept, taken
from precisionlaws.models.parts import GeluTanh, Own, choose
from precisionlaws.run import Exec, compose, parts_of

CPU = Exec(device="cpu", threads=1)
LONG = ["size=7k", "data.context=256"]


@pytest.mark.parametrize(
    ("overrides", "exec", "parts"),
    [
        ([], {}, "blocks"),
        (["model=gpt"], {}, "blocks gelu"),
        (["model=gpt", "data.context=128"], {}, "gelu"),
        (["model=gpt", "model.gelu=erf"], {}, "blocks"),
        (["model=ngpt"], {}, "blocks"),
        (["model=hydra_ssm"], {}, "torch"),
        (["data.context=128"], {}, "torch"),
        (["dtype=float64"], {}, "torch"),
        (["dtype=bfloat16"], {}, "torch"),
        ([], {"parts": "torch"}, "torch"),
        ([], {"threads": 2}, "torch"),
        ([], {"compile": True}, "torch"),
    ],
)
def test_ours_are_taken_where_they_were_measured_to_pay(
    overrides: list[str], exec: dict, parts: str
) -> None:
    run = compose([*LONG, *overrides])
    assert parts_of(run, replace(CPU, **exec), "cpu") == parts
    assert parts_of(run, replace(CPU, **exec), "cuda") == "torch"


def test_blocks_are_for_short_sequences() -> None:
    assert [taken(("blocks",), n) for n in (SHORTEST - 1, SHORTEST, LONGEST, LONGEST + 1)] == ["torch", "blocks", "blocks", "torch"]  # fmt: skip


@pytest.mark.parametrize("model", ["llama", "gpt", "ngpt", "hydra_ssm"])
def test_a_model_has_what_it_says(model: str) -> None:
    """Nothing is recorded as taken that the built model has not."""
    run = compose([*LONG, f"model={model}"])
    built = run.model.build(run.size, 256, 256)
    found = {m.NAME for m in built.modules() if isinstance(m, Own)}
    assert found == set(run.model.own)


def test_what_is_chosen_is_switched() -> None:
    run = compose([*LONG, "model=gpt"])
    model = run.model.build(run.size, 256, 256)
    for parts, expected in (("torch", set()), ("gelu", {GeluTanh}), ("blocks gelu", {GeluTanh, Attention}), ("torch", set())):  # fmt: skip
        choose(model, parts)
        assert {type(m) for m in model.modules() if isinstance(m, Own) and m.own} == expected


def test_scores_that_are_kept() -> None:
    assert scores_kept("torch", 256) == scores_kept("gelu", 256) == 0
    assert (
        scores_kept("blocks gelu", 256) == (32 + 256) / 2
    )  # (1 + ... + 8) / 8 of 32 · 256 in blocks
