"""Held-out losses, their error, and paired differences."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from precisionlaws.heldout import from_bytes, paired, to_bytes
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


def test_sequences_of_one_document_err_together() -> None:
    """20 documents of 50 sequences: the mean is as uncertain as the mean of 20 document means."""
    rng = np.random.default_rng(1)
    documents = np.repeat(np.arange(20), 50)
    errors, means = [], []
    losses = Losses(np.zeros(1000), documents)
    for _ in range(300):
        losses = Losses(rng.normal(0, 1, 20)[documents] + rng.normal(0, 0.1, 1000), documents)
        errors.append(losses.standard_error)
        means.append(losses.mean)
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.1)
    assert Losses(losses.sequences).standard_error < np.mean(errors) / 3
    one = Losses(losses.sequences, np.zeros(1000))  # one document: nothing to cluster by
    assert one.standard_error == pytest.approx(losses.sequences.std(ddof=1) / 1000**0.5)


def test_a_paired_difference_is_more_exact_than_its_parts() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(3, 0.5, 1000)
    before, after = Losses(hard), Losses(hard + rng.normal(0.01, 0.005, 1000))
    delta, error = after.delta(before)
    assert delta == pytest.approx(after.mean - before.mean)
    assert abs(delta - 0.01) < 4 * error
    assert error < before.standard_error / 50


@pytest.mark.parametrize("documents", [None, np.arange(1000) // 37, np.zeros(1000)])
def test_sums_by_document_are_enough_to_pair(documents: np.ndarray | None) -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(3, 0.5, 1000)
    before = Losses(hard, documents)
    after = Losses(hard + rng.normal(0.01, 0.005, 1000), documents)
    kept = [from_bytes(to_bytes(losses.sums)) for losses in (before, after)]
    assert paired(*kept) == pytest.approx(after.delta(before))
