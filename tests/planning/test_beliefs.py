"""The best width under several laws, costs and budgets, and what laws say of their own."""

from typing import Any

import pytest

from precisionlaws.fitting import Fit
from precisionlaws.planning.beliefs import POOL, beliefs, sentences


def test_published_laws_disagree_and_the_data_are_asked(fits: dict[str, Fit]) -> None:
    chosen = [fits["neff_kumar"], fits["neff_free"], fits["chinchilla"]]
    table: Any = beliefs(chosen, flops=(1e21, 1e31), costs=("paper", "a100_int"))
    kumar = table[table["law"].str.startswith("Kumar")]
    sun = table[table["law"].str.startswith("Sun")]
    assert list(kumar["P"]) == pytest.approx([7.0021, 7.0021], abs=1e-4)
    assert list(sun["P"]) == pytest.approx([4.19, 7.58], abs=0.01)
    quest = table[table["law"].str.startswith("QuEST")]
    assert list(quest["P"]) == [4, 4]
    own = table[~table["published"] & (table["law"] != POOL)]
    assert len(own) == 2 * 2 * 2  # a law without bits has no width to speak of
    assert (own["low"] <= own["high"]).all()
    assert all(sum(s.values()) == pytest.approx(1) for s in own["shares"])
    assert own.groupby(["law", "cost"])["P"].nunique().eq(1).all()  # laws that only multiply
    pooled = table[table["law"] == POOL].iloc[0]
    at = own[own["flops"] == 1e21]
    assert at["low"].min() <= pooled["low"] <= pooled["high"] <= at["high"].max()
    said = " | ".join(sentences(table))
    assert "Sun et al. 2025 (published constants): grows from 4.19 bits" in said
    assert "Kumar et al. 2024 (published constants): 7 bits, at every budget" in said


def test_hardware_leaves_only_its_own_widths(fits: dict[str, Fit]) -> None:
    table: Any = beliefs([fits["neff_kumar"]], flops=(1e12,), costs=("a100_int",))
    assert set(table["P"]) <= {4.0, 8.0, 16.0}
    assert not table["published"].any()
