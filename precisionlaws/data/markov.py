"""Synthetic sequences whose entropy rate is known exactly: what a fitted E can be held against.

A token is decided by the k tokens before it, where k = 0, 1, ... is drawn anew for every token:

    z_t = (k, r) ~ q      k with probability ~ weights[k], rank r with probability ~ 1 / (r + 1)^zipf
    x_t = T_k[c(x_{t-1}), ..., c(x_{t-k})][r]

T_k[...] is a random permutation of the `symbols` tokens that belong to order k, one permutation for each
of the classes^k contexts, and c(x) is the class of a token. Classes hold ever fewer tokens (about 1 / rank
of them), so contexts of every order have Zipf-like frequencies: the frequent ones are learned soon, and
there are always rarer ones that a larger model or a longer training would learn too.

Entropy. Given the past, z -> x is one to one: the orders own different tokens, and within one order the
context's table is a permutation. z_t is independent of the past. Hence for *every* past, not on average,

    H(x_t | past) = H(z_t | past) = H(q),

with no stationarity or limit needed. q is in multiples of 2^-16, exactly what 16 random bits draw, so
H(q) is a finite sum (`entropy`).

Sequences. A window of `context` inputs has `context` targets, and these are one document: what comes
before a document counts as class 0. So a model sees all that its target depends on, also at the first
positions, and the least cross-entropy that any model can have on these windows is H(q) and not more.
"""

import functools
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from precisionlaws.config import ConfigError, count, ranged
from precisionlaws.data.base import Data

DRAWS = 2**16  # q is in multiples of 1 / DRAWS
LARGEST = 2**24  # entries of all tables together
CHUNK = 4096  # documents generated side by side: what a cache holds


@dataclass(frozen=True, kw_only=True)
class Markov(Data):
    SHORT: ClassVar[str] = "markov"
    seed: int = ranged(0)  # of the tables and of both streams
    weights: tuple[float, ...]  # of order 0, 1, ...: share of the tokens, to a common factor
    symbols: int = ranged(2)  # tokens per order
    classes: int = ranged(2)  # of tokens, as contexts see them
    zipf: float = ranged(0, 8)  # exponent of the ranks
    train_tokens: int  # both rounded down to whole documents
    validation_tokens: int

    def __post_init__(self) -> None:
        for name in ("train_tokens", "validation_tokens"):
            object.__setattr__(self, name, count(getattr(self, name), name))
        super().__post_init__()

    def rules(self) -> None:
        super().rules()
        if not self.weights or min(self.weights) <= 0:
            raise ConfigError(f"weights must be positive numbers, got {list(self.weights)}")
        if len(self.weights) * self.symbols > self.vocab:
            raise ConfigError(
                f"symbols must be at most {self.vocab // len(self.weights)} for {len(self.weights)} orders, "
                f"got {self.symbols}"
            )
        if self.classes > self.symbols:
            raise ConfigError(f"classes must be at most symbols={self.symbols}, got {self.classes}")
        if self.classes**self.order * self.symbols > LARGEST:
            raise ConfigError(
                f"classes must be smaller for contexts of {self.order} tokens: "
                f"{self.classes}^{self.order} contexts of {self.symbols} symbols"
            )
        if min(self.frequencies()) < 1:
            raise ConfigError(
                f"zipf must leave every token a share of {1 / DRAWS:.1e}, got {self.zipf}"
            )

    @property
    def order(self) -> int:
        """Tokens that a context reaches back."""
        return len(self.weights) - 1

    def frequencies(self) -> tuple[int, ...]:
        """q of z = order · symbols + rank, times DRAWS: whole numbers that add up to it."""
        total = math.fsum(self.weights)
        ranks = [(r + 1) ** -self.zipf for r in range(self.symbols)]
        norm = math.fsum(ranks)
        return rounded([w / total * r / norm for w in self.weights for r in ranks], DRAWS)

    def entropy(self) -> float:
        """H(q): nats per token that no model can go below."""
        return -math.fsum(n / DRAWS * math.log(n / DRAWS) for n in self.frequencies())

    def facts(self) -> dict[str, Any]:
        return {"data.entropy": self.entropy()}

    def origin(self) -> str:
        return "data=markov"

    def documents(self) -> tuple[list[bytes], list[bytes]]:
        """One stream each: a first input, then the targets of window after window."""
        sizes = {"train": self.train_tokens, "validation": self.validation_tokens}
        return tuple([stream(self, n // self.context, k)] for k, n in sizes.items())  # type: ignore[return-value]

    def surprisal(self, documents: np.ndarray) -> np.ndarray:
        """-log p(token | what precedes it) under the true model: (documents, length), nats."""
        law = tables(self)
        code = np.zeros(len(documents), np.int32)
        out = np.empty(documents.shape)
        for t, x in enumerate(documents.T):
            z = law.ranks[law.place[x] + code % law.contexts[x] * self.symbols]
            out[:, t] = law.nats[z]
            code = law.after(code, x)
        return out


@dataclass(frozen=True)
class Tables:
    """The source as arrays. A token and its z have the same order, so both index `place`-like arrays.

    A place in `tokens` and `ranks` is first[order] + context · symbols + rank or symbol within the order;
    `code` holds the classes of the last tokens as digits to base `classes`, the last token lowest.
    """

    draws: np.ndarray  # 16 random bits -> z
    nats: np.ndarray  # z -> -log q
    place: np.ndarray  # z or token -> place in the context 0
    contexts: np.ndarray  # z or token -> contexts of its order
    tokens: np.ndarray  # place -> token
    ranks: np.ndarray  # the inverse: place -> z
    classes: np.ndarray  # token -> class
    codes: int  # classes^order
    base: int

    def after(self, code: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        return (code * self.base + self.classes[tokens]) % self.codes


@functools.lru_cache(maxsize=4)
def tables(data: Markov) -> Tables:
    S, orders = data.symbols, range(data.order + 1)
    counts = [data.classes**k for k in orders]
    frequencies = np.array(data.frequencies())
    parts = [orderings(n, S, f"markov/{data.seed}/{k}") for k, n in enumerate(counts)]
    first = np.concatenate(([0], np.cumsum([p.size for p in parts])))
    return Tables(
        draws=np.repeat(np.arange(len(frequencies), dtype=np.uint8), frequencies),
        nats=-np.log(frequencies / DRAWS),
        place=np.concatenate([first[k] + np.arange(S) for k in orders]).astype(np.int32),
        contexts=np.repeat(np.array(counts, np.int32), S),
        tokens=np.concatenate([k * S + parts[k].ravel() for k in orders]).astype(np.uint8),
        ranks=np.concatenate([k * S + np.argsort(parts[k], 1).ravel() for k in orders]),
        classes=np.tile(classes_of(S, data.classes), len(counts)).astype(np.int32),
        codes=counts[-1],
        base=data.classes,
    )


def stream(data: Markov, documents: int, name: str) -> bytes:
    """A first token, and `documents` documents of `context` tokens."""
    law, L, S = tables(data), data.context, data.symbols
    words = philox(f"markov/{data.seed}/{name}")
    out = np.zeros(1 + documents * L, np.uint8)
    rows = out[1:].reshape(documents, L)
    for start in range(0, documents, CHUNK):
        n = min(CHUNK, documents - start)
        bits = words.random_raw(-(-n * L // 4)).astype("<u8", copy=False).view("<u2")[: n * L]
        drawn = np.ascontiguousarray(law.draws[bits].reshape(n, L).T)  # a step's draws together
        code = np.zeros(n, np.int32)
        for t, z in enumerate(drawn):
            x = law.tokens[law.place[z] + code % law.contexts[z] * S]
            drawn[t] = x
            code = law.after(code, x)
        rows[start : start + n] = drawn.T
    return out.tobytes()


def orderings(rows: int, length: int, key: str) -> np.ndarray:
    """A random permutation of range(length) per row: (rows, length)."""
    return np.argsort(philox(key).random_raw(rows * length).reshape(rows, length), 1, kind="stable")


def philox(key: str) -> np.random.Philox:
    """Raw Philox words: numpy promises those never to change."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "little")
    return np.random.Philox(key=seed)


def classes_of(symbols: int, classes: int) -> np.ndarray:
    """The class of each symbol: class c holds about 1 / (c + 1) of them."""
    shares = [1 / (c + 1) for c in range(classes)]
    return np.repeat(np.arange(classes), rounded([s / math.fsum(shares) for s in shares], symbols))


def rounded(shares: Sequence[float], total: int) -> tuple[int, ...]:
    """Whole numbers in proportion to `shares` that add up to `total`: largest remainders, first ones first."""
    whole = [math.floor(s * total) for s in shares]
    order = sorted(range(len(shares)), key=lambda i: (whole[i] - shares[i] * total, i))
    for i in order[: total - sum(whole)]:
        whole[i] += 1
    return tuple(whole)
