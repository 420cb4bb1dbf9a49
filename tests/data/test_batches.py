"""Batches are a pure function of (seed, model shape, step)."""

import numpy as np

from precisionlaws.data.batches import Batches, held_out_windows, permutation
from precisionlaws.run import compose
from precisionlaws.training.loop import batches_of

TOKENS = np.arange(1000) % 251
TOKENS = TOKENS.astype(np.uint8)


def test_an_epoch_sees_every_window_once_and_the_next_in_another_order() -> None:
    batches = Batches(TOKENS, 9, 3, "key")
    assert batches.windows == 111
    first = np.concatenate([batches.at(s) for s in range(37)])
    second = np.concatenate([batches.at(s) for s in range(37, 74)])
    rows = sorted(map(tuple, first.tolist()))
    assert rows == sorted(map(tuple, second.tolist()))
    assert rows == sorted(tuple(TOKENS[i * 9 : i * 9 + 10].tolist()) for i in range(111))
    assert not (first == second).all()


def test_any_step_can_be_asked_first() -> None:
    forward, backward = Batches(TOKENS, 9, 4, "k"), Batches(TOKENS, 9, 4, "k")
    there = [forward.at(s) for s in range(80)]
    back = [backward.at(s) for s in reversed(range(80))][::-1]
    assert all((a == b).all() for a, b in zip(there, back, strict=True))


def test_targets_are_inputs_one_later() -> None:
    batch = Batches(np.arange(256, dtype=np.uint8), 16, 2, "k").at(0)
    assert (batch[:, 1:] == batch[:, :-1] + 1).all()


def test_permutations_are_frozen() -> None:
    """Raw Philox words, which numpy promises to keep; these values are part of every stored loss."""
    assert permutation(8, "key").tolist() == [4, 0, 1, 6, 3, 7, 5, 2]
    assert sorted(permutation(1000, "x")) == list(range(1000))


def test_bits_D_and_learning_rate_share_batches_but_sizes_do_not(tiny: list[str]) -> None:
    def first(*overrides: str) -> np.ndarray:
        return batches_of(compose([*tiny, *overrides])).at(0)

    same = first()
    for overrides in (["quant=qat"], ["tokens=5120"], ["optim.lr=1e-3"]):
        assert (first(*overrides) == same).all()
    for overrides in (["size=20k"], ["seed=1"]):
        assert not (first(*overrides) == same).all()


def test_held_out_windows_are_the_same_for_everyone_and_a_prefix_of_more() -> None:
    few, many = held_out_windows(TOKENS, 9, 10), held_out_windows(TOKENS, 9, 50)
    assert (few == many[:10]).all()
    assert len(np.unique(many, axis=0)) == 50


def test_epochs_count_repetition() -> None:
    assert Batches(TOKENS, 9, 3, "k").epochs(2 * 111 * 9) == 2
