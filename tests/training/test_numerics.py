"""Frozen losses of 20 steps: when these change, stored runs are other runs; bump run.NUMERICS."""

import pytest

from precisionlaws.run import compose
from precisionlaws.training.loop import advance, batches_of
from precisionlaws.training.state import fresh

FROZEN = {
    "seed=0": 2.704722965007011,
    "quant.weights.bits=4": 2.702449360443829,
    "quant.activations.bits=4": 2.7020366150592126,
    "quant.kv.bits=4": 2.7161177532201997,
    "quant=low_precision": 2.7036808822720655,
}


@pytest.mark.parametrize("override", FROZEN)
def test_twenty_steps(tiny: list[str], override: str) -> None:
    """fp64, so that machines agree far below what a change of the arithmetic would do."""
    run = compose([*tiny, "dtype=float64", "optim.lr=0.01", override])
    state = fresh(run, "cpu")
    advance(state, run, batches_of(run), 20, lambda s: run.lr_schedule.factor(s, 20))
    assert state.log_table()[-1, 1].item() == pytest.approx(FROZEN[override], rel=1e-7)
