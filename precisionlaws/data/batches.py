"""Which sequences a step sees: a pure function of (seed, model shape, step).

So all bit widths, learning rates and D of one model size and seed see the same batches in the same
order, and differences between them are paired. Different sizes see different orders: with shared data
only the seed would be independent, and intervals would need many seeds (simulated: a nominal 95%
interval on the N slope covered 66%).
"""

import hashlib

import numpy as np


class Batches:
    """Windows of `context` + 1 tokens that overlap by one; every epoch is a new permutation of all."""

    def __init__(
        self,
        tokens: np.ndarray,
        context: int,
        sequences: int,
        key: str,
        hidden: float | None = None,
    ):
        """hidden: share of tokens to hide, for models that fill them in."""
        self.hidden = hidden
        self.tokens, self.context, self.sequences, self.key = tokens, context, sequences, key
        self.windows = (len(tokens) - 1) // context
        self._orders: dict[int, np.ndarray] = {}

    def order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            if len(self._orders) > 1:
                self._orders.pop(min(self._orders))
            self._orders[epoch] = permutation(self.windows, f"{self.key}/{epoch}")
        return self._orders[epoch]

    def at(self, step: int) -> np.ndarray:
        """The batch of step 0, 1, ...: (sequences, context + 1) uint8; with hidden tokens as `hide` has it."""
        index = np.arange(step * self.sequences, (step + 1) * self.sequences)
        rows = [self.order(int(i) // self.windows)[int(i) % self.windows] for i in index]
        windows = cut(self.tokens, np.array(rows), self.context)
        if self.hidden is None:
            return windows
        return hide(windows[:, :-1], self.hidden, f"{self.key}/hidden/{step}")

    def epochs(self, tokens: int) -> float:
        """How often `tokens` go through the corpus; above 1 sequences repeat."""
        return tokens / (self.windows * self.context)


def held_out_windows(tokens: np.ndarray, context: int, count: int) -> np.ndarray:
    """`count` windows of the validation tokens, the same for every run of a study: (count, context + 1)."""
    windows = (len(tokens) - 1) // context
    return cut(tokens, permutation(windows, "validation")[:count], context)


def hide(ids: np.ndarray, share: float, key: str) -> np.ndarray:
    """The same share of every sequence hidden, token t as ~t: (sequences, T) -> int16."""
    n, T = ids.shape
    words = philox(key, n * T).reshape(n, T)
    chosen = np.argsort(words, axis=1, kind="stable")[:, : max(1, round(share * T))]
    out = ids.astype(np.int16)
    np.put_along_axis(out, chosen, ~np.take_along_axis(out, chosen, 1), 1)
    return out


def documents_of(starts: np.ndarray, tokens: int, context: int, count: int) -> np.ndarray:
    """The document in which each of `held_out_windows` begins: (count,)."""
    windows = permutation((tokens - 1) // context, "validation")[:count]
    return np.searchsorted(starts, windows * context, side="right") - 1


def cut(tokens: np.ndarray, windows: np.ndarray, context: int) -> np.ndarray:
    return tokens[windows[:, None] * context + np.arange(context + 1)]


def permutation(n: int, key: str) -> np.ndarray:
    """A permutation of range(n) from Philox's raw words: numpy promises those never to change, while
    `Generator.permutation` may differ between its releases."""
    return np.argsort(philox(key, n), kind="stable")


def philox(key: str, n: int) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "little")
    return np.random.Philox(key=seed).random_raw(n)
