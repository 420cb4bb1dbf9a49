"""Held-out losses, their error, and paired differences."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from precisionlaws.run import compose
from precisionlaws.training.evaluate import Losses, evaluate, held_out
from precisionlaws.training.state import model_of


def test_the_loss_is_the_mean_cross_entropy_per_token(tiny: list[str]) -> None:
    run = compose(tiny)
    model, windows = model_of(run, "cpu"), held_out(run, "cpu")
    assert windows.shape == (32, 33)
    losses = evaluate(model, windows)
    ids = windows.long()
    with torch.no_grad():
        expected = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
    assert losses.mean == pytest.approx(expected.item(), rel=1e-6)
    assert evaluate(model, windows, 5).mean == pytest.approx(losses.mean, rel=1e-6)
    assert model.training


def test_a_paired_difference_is_more_exact_than_its_parts() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(3, 0.5, 1000)
    before, after = Losses(hard), Losses(hard + rng.normal(0.01, 0.005, 1000))
    delta, error = after.delta(before)
    assert delta == pytest.approx(after.mean - before.mean)
    assert abs(delta - 0.01) < 4 * error
    assert error < before.standard_error / 50
