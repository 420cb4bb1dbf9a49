"""Warm-up, stable, decay: the trunk knows nothing of the length of the run."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precisionlaws.config import ConfigError, build
from precisionlaws.optim.lr_schedules.wsd import Wsd
from precisionlaws.overrides import option


def wsd(**fields: Any) -> Wsd:
    spec = build(option("lr_schedule", "wsd") | fields, Wsd)
    assert isinstance(spec, Wsd)
    return spec


@settings(deadline=None)
@given(
    steps=st.integers(1, 5000),
    warmup=st.integers(0, 300),
    decay=st.floats(0, 1),
    shape=st.sampled_from(["1-sqrt", "linear"]),
)
def test_nothing_but_the_decay_depends_on_the_number_of_steps(
    steps: int, warmup: int, decay: float, shape: str
) -> None:
    s = wsd(warmup=warmup, decay=decay, shape=shape)
    start = s.decay_start(steps)
    assert 0 <= start <= steps
    for step in {0, start // 2, start - 1} - {-1}:
        assert s.factor(step, steps) == s.stable(step) == s.factor(step, 10 * steps)
    factors = [s.factor(i, steps) for i in range(steps)]
    assert all(0 < f <= 1 for f in factors)
    tail = factors[max(start, warmup) :]
    assert tail == sorted(tail, reverse=True)


def test_numbers() -> None:
    s = wsd()
    assert [s.factor(i, 1000) for i in (0, 14, 29, 30, 799, 800)] == [1 / 30, 0.5, 1, 1, 1, 1]
    assert s.decay_start(1000) == 800
    assert s.factor(850, 1000) == 0.5  # 1 - sqrt(1/4)
    assert wsd(shape="linear").factor(850, 1000) == 0.75
    assert wsd(decay=0.0).factor(999, 1000) == 1


def test_the_trunk_is_named_by_the_fields_that_act_in_it() -> None:
    assert Wsd.TRUNK == ("warmup",)
    assert wsd(decay=0.0).inactive() == {"shape"}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"warmup": 0.5}, "warmup must be a whole number, got 0.5"),
        ({"decay": 2}, "decay must be 0 to 1, got 2"),
        ({"shape": "cosine"}, "shape must be one of 1-sqrt, linear, got cosine"),
    ],
)
def test_errors(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        wsd(**fields)
