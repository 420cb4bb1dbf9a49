"""The model confidence set, against the tests that it generalises and at its promised level."""

import itertools
from typing import Any

import numpy as np
import pytest

from precisionlaws.fitting.confidence_set import p_values, spread


def study(rng: Any, families: int, laws: int, each: int = 4) -> tuple[Any, Any]:
    """Squared errors of equally good laws whose families share noise: (families, each, laws), and clusters."""
    shared = rng.standard_normal((families, 1, laws)) + rng.standard_normal((families, 1, 1))
    errors = shared + rng.standard_normal((families, each, laws))
    return errors**2, np.repeat(np.arange(families), each)


def test_two_laws_are_a_sign_flip_test() -> None:
    rng = np.random.default_rng(0)
    losses = rng.standard_normal((9, 2)) ** 2 + np.array([0.0, 0.8])
    gap = losses[:, 0] - losses[:, 1]
    flipped = np.array([np.abs((np.array(s) * gap).mean()) for s in itertools.product((-1, 1), repeat=9)])  # fmt: skip
    exact = (flipped >= np.abs(gap.mean()) * (1 - 1e-12)).mean()
    assert p_values(losses, np.arange(9))[np.argmax(losses.mean(0))] == pytest.approx(exact, abs=0.02)  # fmt: skip


@pytest.mark.parametrize("families", [5, 8, 30])
def test_equal_laws_are_all_kept_as_often_as_promised(families: int) -> None:
    rng, kept, times = np.random.default_rng(families), 0, 120
    for seed in range(times):
        losses, cluster = study(rng, families, 4)
        kept += bool((p_values(losses.reshape(-1, 4), cluster, seed) > 0.05).all())
    assert kept / times >= 0.95 - 2.5 * np.sqrt(0.95 * 0.05 / times)


def test_worse_laws_go_and_the_best_stay() -> None:
    losses, cluster = study(np.random.default_rng(2), 20, 5)
    losses[..., 3:] += [6.0, 12.0]
    p = p_values(losses.reshape(-1, 5), cluster)
    assert (p[:3] > 0.05).all()
    assert (p[3:] <= 0.05).all()
    assert p[4] <= p[3]


def test_a_law_twice_is_not_told_from_itself() -> None:
    losses, cluster = study(np.random.default_rng(3), 12, 2)
    twice = losses.reshape(-1, 2)[:, [0, 0]] + [0.0, 1e-12]
    assert (p_values(twice, cluster) == 1.0).all()


def test_five_families_rule_out_nothing_and_one_is_refused() -> None:
    losses, cluster = study(np.random.default_rng(4), 5, 2)
    losses[..., 1] += 50.0
    assert (p_values(losses.reshape(-1, 2), cluster) > 0.05).all()
    with pytest.raises(ValueError, match="one family .*need at least 2"):
        spread(losses.reshape(-1, 2), np.zeros(20))
