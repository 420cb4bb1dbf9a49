"""Names of runs: what decides the numbers decides the name, and nothing else does."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from precisionlaws.config import build, normal_json
from precisionlaws.overrides import option
from precisionlaws.ptq.base import Ptq, eval_id
from precisionlaws.run import RunConfig, compose, family, run_id, trunk_id

FINGERPRINT = "0123456789abcdef" * 4
FROZEN = Path(__file__).parent / "run_ids.json"


def name(*overrides: str) -> str:
    return run_id(compose(overrides), FINGERPRINT)


@pytest.mark.parametrize(("text", "expected"), list(json.loads(FROZEN.read_text()).items()))
def test_names_never_change(text: str, expected: str) -> None:
    """A name that changes orphans every stored run. Bump run.NUMERICS if numbers change instead."""
    assert name(*text.split()) == expected


def test_twenty_names_are_frozen() -> None:
    assert len(json.loads(FROZEN.read_text())) == 20


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("optim.lr=1", "optim.lr=1.0"),
        ("tokens=1M", "tokens=1000000"),
        ("tokens=1M", "tokens=1000100"),  # the same number of whole steps
        ("size=20k", "size.depth=2 size.width=32 size.heads=2"),
        ("size=20k", "optim.lr=0.015"),  # the rule, and the number that it gives
        ("size=20k", "batch_tokens=1024"),
        ("size=20k", "model.kv_heads=2"),
        ("size=20k", "model.hidden=80"),
        ("quant.weights.granularity=tensor", "quant=none"),  # 16 bits: off, whatever its options
        ("quant=qat quant.weights.bits=16", "quant=none"),
        ("quant=qat quant.weights.group=32", "quant=qat"),  # row scales: group does not act
        ("quant=qat", "format@quant.weights=int8 quant.weights.bits=4"),
        ("lr_schedule.decay=0 lr_schedule.shape=linear", "lr_schedule.decay=0"),
    ],
)
def test_equal_numbers_have_equal_names(left: str, right: str) -> None:
    assert name(*left.split()) == name(*right.split())


@pytest.mark.parametrize(
    "change",
    [
        "size=7k",
        "tokens=2M",
        "seed=1",
        "optim.lr=1e-3",
        "optim.weight_decay=0",
        "lr_schedule.warmup=10",
        "lr_schedule.decay=0.1",
        "batch_tokens=2048",
        "quant=qat",
        "quant.kv.bits=8",
        "dtype=float64",
        "data.context=64",
        "data.eval_tokens=65536",
        "micro_batch=4",
        "eval_batch=16",
        "model.tied=true",
    ],
)
def test_other_numbers_have_other_names(change: str) -> None:
    assert name(change) != name()
    assert run_id(compose([change]), FINGERPRINT) != run_id(compose([change]), "0" * 64)


def test_a_field_added_later_at_its_neutral_value_changes_no_name() -> None:
    from precisionlaws.optim.adamw import AdamW

    @dataclass(frozen=True, kw_only=True)
    class Later(AdamW):
        warp: float = field(default=0.0, metadata={"neutral": 0.0})

    run = compose([])
    values = {
        k: getattr(run.optim, k) for k in ("lr", "clip", "beta1", "beta2", "eps", "weight_decay")
    }
    assert normal_json(Later(**values)) == normal_json(run.optim)
    assert normal_json(Later(**values, warp=1.0)) != normal_json(run.optim)


def test_trunks_are_shared_over_D_and_decay_only() -> None:
    def trunk(*overrides: str) -> str:
        return trunk_id(compose(overrides), FINGERPRINT)

    assert trunk("tokens=1M") == trunk("tokens=2M") == trunk("lr_schedule.decay=0.1")
    others = ["seed=1", "quant=qat", "size=7k", "lr_schedule.warmup=10", "optim.lr=1e-3"]
    assert len({trunk(), *map(trunk, others)}) == 1 + len(others)


def test_a_family_shares_initialization_and_batches() -> None:
    def of(*overrides: str) -> str:
        return family(compose(overrides), FINGERPRINT)

    assert of("tokens=1M") == of("tokens=2M", "quant=qat") == of("optim.lr=1e-3")
    assert len({of(), of("seed=1"), of("size=7k"), of("model.kv_heads=1")}) == 4


def test_evaluations_are_named_within_a_run() -> None:
    none: Ptq = build(option("ptq", "none"), Ptq)  # type: ignore[assignment]
    rtn: Ptq = build(option("ptq", "rtn"), Ptq)  # type: ignore[assignment]
    assert eval_id(none) == "final"
    assert eval_id(rtn).startswith("rtn4-")
    assert eval_id(replace(rtn, bits=3)) != eval_id(rtn)  # type: ignore[call-arg]


def test_steps_are_whole_and_D_is_exact() -> None:
    run = compose(["tokens=62.5k"])
    assert (run.steps, run.D, run.batch) == (61, 61 * 1024, 1024)
    assert isinstance(run, RunConfig)
