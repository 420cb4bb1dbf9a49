"""The entropy of the synthetic source: by enumeration, by the true model, and by counting."""

import itertools
import math
import time

import numpy as np
import pytest

from precisionlaws.config import ConfigError, build
from precisionlaws.data.base import corpus
from precisionlaws.data.markov import Markov, classes_of, rounded
from precisionlaws.overrides import option
from precisionlaws.run import compose
from precisionlaws.training.result import dotted

FROZEN = "5fed41969266f8095cfcd174175bef2ca871f584e601d7a8bae02c0bc1745562"


def source(**fields: object) -> Markov:
    small = {"train_tokens": 2**17, "validation_tokens": 2**17, "eval_tokens": 2**17}
    made = build(option("data", "markov") | small | fields, Markov)
    assert isinstance(made, Markov)
    return made


def documents(data: Markov, stream: str = "validation") -> np.ndarray:
    return getattr(data.corpus(), stream)[1:].reshape(-1, data.context)


def test_the_entropy_is_that_of_all_documents_enumerated() -> None:
    """H(x_1 ... x_n) = n h exactly, for every n: summed over every document of 1 to 5 tokens."""
    data = source(weights=[3, 2, 1], symbols=2, classes=2, zipf=1.0)
    for n in range(1, 6):
        every = np.array(list(itertools.product(range(6), repeat=n)))
        nats = data.surprisal(every).sum(1)
        assert math.fsum(np.exp(-nats)) == pytest.approx(1, abs=1e-12)
        assert math.fsum(np.exp(-nats) * nats) == pytest.approx(n * data.entropy(), abs=1e-12)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("stream", ["train", "validation"])
def test_the_true_model_has_this_loss_on_both_streams(seed: int, stream: str) -> None:
    data = source(seed=seed)
    nats = data.surprisal(documents(data, stream))
    error = nats.std() / math.sqrt(nats.size)
    assert error < 0.005
    assert abs(nats.mean() - data.entropy()) < 4 * error
    # surprisals are independent: also every position of a document has this mean, the first one too
    by_position = nats.mean(0) - data.entropy()
    assert abs(by_position).max() < 4.5 * nats.std() / math.sqrt(len(nats))


def test_counting_contexts_finds_the_same_entropy() -> None:
    """Knows only that two tokens decide: a plug-in estimate with the bias correction of Miller and Madow."""
    data = source(weights=[2, 2, 1], symbols=4, classes=3, zipf=1.5, train_tokens=2**20)
    x = documents(data, "train").astype(int)
    context, after = x[:, :-2] * 12 + x[:, 1:-1], x[:, 2:]
    pairs, contexts = context * 12 + after, np.bincount(context.ravel(), minlength=144)
    joint = plug_in(np.bincount(pairs.ravel(), minlength=1728))
    assert joint - plug_in(contexts) == pytest.approx(data.entropy(), abs=0.005)


def plug_in(counts: np.ndarray) -> float:
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum() + (len(p) - 1) / (2 * counts.sum()))


def test_every_order_matters_and_contexts_are_uneven() -> None:
    """What a model with k tokens of context could reach falls with every k."""
    data = source(train_tokens=2**21)
    x = documents(data, "train").astype(int)
    classes = np.tile(classes_of(data.symbols, data.classes), 5)[x]
    reached, code = [], np.zeros_like(x[:, 4:])
    for k in range(4):
        joint = np.bincount((code * 80 + x[:, 4:]).ravel())
        reached.append(plug_in(joint) - plug_in(np.bincount(code.ravel())))
        code = code * 8 + classes[:, 3 - k : x.shape[1] - 1 - k]
    assert all(a - b > 0.05 for a, b in itertools.pairwise(reached))
    assert reached[-1] > data.entropy() + 0.02
    triples = np.sort(np.bincount(code.ravel() // 8, minlength=512))[::-1]
    assert triples[:51].sum() > 0.35 * triples.sum()


def test_streams_are_of_the_stated_sizes_and_never_the_same() -> None:
    data = source(train_tokens=200_000, validation_tokens="150k", eval_tokens=1280)
    c = data.corpus()
    assert len(c.train) == 1 + 200_000 // 128 * 128
    assert len(c.validation) == 1 + 150_000 // 128 * 128
    train, held = (documents(data, s) for s in ("train", "validation"))
    assert not {r.tobytes() for r in train} & {r.tobytes() for r in held}
    assert set(np.unique(c.train)) <= set(range(80))


def test_the_same_bytes_everywhere_and_others_for_every_field() -> None:
    """Raw Philox words, which numpy promises to keep; every stored loss depends on these bytes."""
    data = source()
    assert data.fingerprint() == FROZEN
    changes = {
        "seed": 1, "weights": [0.2, 0.4, 0.25, 0.1, 0.05], "classes": 7, "zipf": 1.9,
        "symbols": 15, "context": 64, "train_tokens": 2**18,
    }  # fmt: skip
    names = {source(**{k: v}).fingerprint() for k, v in changes.items()}
    assert len(names | {FROZEN}) == len(changes) + 1


def test_a_longer_stream_begins_like_a_shorter_one() -> None:
    long, short = source(train_tokens=2**18).corpus(), source().corpus()
    assert (long.train[: 2**17] == short.train[: 2**17]).all()


def test_16M_tokens_take_seconds_and_are_made_once() -> None:
    corpus.cache_clear()
    data = build(option("data", "markov"), Markov)
    start = time.process_time()
    made = data.corpus()  # type: ignore[attr-defined]
    assert time.process_time() - start < 6  # measured: 0.7
    assert len(made.train) == 16_000_001
    assert data.corpus() is made  # type: ignore[attr-defined]


def test_rows_carry_the_entropy_and_runs_their_numbers() -> None:
    run = compose(["data=markov", "data.train_tokens=200k", "data.validation_tokens=140k"])
    columns = dotted(run)
    assert columns["data.entropy"] == pytest.approx(2.79338622616746, abs=1e-13)
    assert columns["data"] == "markov"
    assert "data.entropy" not in dotted(compose(["size=7k"]))


MISTAKES = {
    "weights must be positive": {"weights": [1, 0]},
    "symbols must be at most 51 for 5 orders, got 52": {"symbols": 52},
    "classes must be at most symbols=16, got 17": {"classes": 17},
    "classes must be smaller for contexts of 7 tokens": {"weights": [1] * 8},
    "zipf must leave every token a share": {"zipf": 6.0},
    "train_tokens must be a positive whole number": {"train_tokens": 0},
    "has 129 validation tokens": {"validation_tokens": 255},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_one_line(message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        source(**MISTAKES[message]).corpus()


def test_rounding_keeps_the_sum() -> None:
    assert rounded([0.5, 0.25, 0.25], 5) == (3, 1, 1)
    assert rounded([1 / 3] * 3, 100) == (34, 33, 33)
    assert np.bincount(classes_of(16, 8)).tolist() == [6, 3, 2, 1, 1, 1, 1, 1]
