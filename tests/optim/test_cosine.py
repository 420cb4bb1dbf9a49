"""Cosine: numbers, shape, and that no two lengths share a trunk."""

from math import cos, pi
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precisionlaws.config import ConfigError, build
from precisionlaws.optim.lr_schedules.cosine import Cosine
from precisionlaws.overrides import option
from precisionlaws.run import compose, run_id, trunk_id

FINGERPRINT = "0" * 64


def cosine(**fields: Any) -> Cosine:
    spec = build(option("lr_schedule", "cosine") | fields, Cosine)
    assert isinstance(spec, Cosine)
    return spec


@settings(deadline=None)
@given(
    steps=st.integers(1, 3000),
    warmup=st.one_of(st.integers(0, 300), st.floats(0, 0.99)),
    floor=st.floats(0, 1),
)
def test_it_rises_to_the_peak_and_falls_to_the_floor(
    steps: int, warmup: float, floor: float
) -> None:
    s = cosine(warmup=warmup, floor=floor)
    top = s.warmup_steps(steps)
    factors = [s.factor(i, steps) for i in range(steps)]
    assert factors[:top] == sorted(factors[:top])
    assert factors[top:] == sorted(factors[top:], reverse=True)
    assert all(0 < f <= 1 for f in factors)
    assert all(f >= floor for f in factors[top:])
    assert s.decay_start(steps) == 0


def test_numbers() -> None:
    s = cosine(warmup=100, floor=0.1)
    assert [s.factor(i, 1100) for i in (0, 49, 99, 100)] == [0.01, 0.5, 1, 1]
    assert s.factor(600, 1100) == pytest.approx(0.55)
    assert s.factor(850, 1100) == pytest.approx(0.1 + 0.9 * (1 + cos(0.75 * pi)) / 2)
    assert s.factor(1099, 1100) == pytest.approx(0.1, abs=3e-6)
    assert cosine(warmup=0.1).warmup_steps(1100) == 110
    assert cosine(warmup=0.0, floor=1.0).factor(700, 1100) == 1


def test_runs_of_different_lengths_share_nothing() -> None:
    runs = [compose(["lr_schedule=cosine", f"tokens={t}"]) for t in ("1M", "2M")]
    assert Cosine.TRUNK is None
    assert len({trunk_id(r, FINGERPRINT) for r in runs}) == 2
    assert run_id(runs[0], FINGERPRINT) != run_id(compose(["tokens=1M"]), FINGERPRINT)
    same = compose(["lr_schedule=cosine", "lr_schedule.warmup=30.0", "tokens=1M"])
    assert run_id(same, FINGERPRINT) == run_id(runs[0], FINGERPRINT)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"warmup": 1.5}, "warmup must be a fraction below 1 or a whole number of steps, got 1.5"),
        ({"warmup": -1}, "warmup must be at least 0, got -1"),
        ({"floor": 1.1}, "floor must be 0 to 1, got 1.1"),
    ],
)
def test_errors(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        cosine(**fields)
