"""A data source: bytes of documents, split into training and validation, with a fingerprint."""

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from precisionlaws.config import ConfigError, Spec, ranged

SEPARATOR = b"\n\n"  # between documents


@dataclass(frozen=True)
class Corpus:
    """`train` and `validation`: (tokens,) uint8; `fingerprint`: hex sha256 of both.

    starts: first token of every validation document; sequences of one document are not independent.
    """

    train: np.ndarray
    validation: np.ndarray
    fingerprint: str
    starts: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Data(Spec):
    """Base of all sources. One class per file; `documents()` is all that it must add."""

    vocab: ClassVar[int] = 256  # bytes
    context: int = ranged(8, 65536)  # tokens per sequence
    eval_tokens: int = ranged(1)  # held-out tokens that every loss is measured on

    def rules(self) -> None:
        if self.eval_tokens % self.context:
            raise ConfigError(
                f"eval_tokens must be a multiple of context={self.context}, got {self.eval_tokens}"
            )

    def documents(self) -> tuple[list[bytes], list[bytes]]:
        """Training and validation documents, in an order that is the same on every machine."""
        raise NotImplementedError

    def origin(self) -> str:
        """What error messages call this source."""
        return self.SHORT

    def corpus(self) -> Corpus:
        return corpus(self)

    def fingerprint(self) -> str:
        return corpus(self).fingerprint

    def facts(self) -> dict[str, Any]:
        """What is known of the source beyond its fields: columns of every row on it."""
        return {}

    def stream(self) -> dict[str, Any]:
        """What decides the batches besides the fingerprint: not where the bytes came from."""
        return {"context": self.context, "eval_tokens": self.eval_tokens}


@functools.lru_cache(maxsize=4)
def corpus(data: Data) -> Corpus:
    """Read, split, check and fingerprint; once per process.

    Raises: ConfigError when there is too little text to train on or to measure a loss with.
    """
    documents = data.documents()
    train, validation = map(array, documents)
    needed = {
        "training": (train, data.context + 1),
        "validation": (validation, data.eval_tokens + 1),
    }
    for name, (tokens, least) in needed.items():
        if len(tokens) < least:
            raise ConfigError(
                f"{data.origin()} has {len(tokens):,} {name} tokens (bytes), fewer than the {least:,} that "
                f"data.context={data.context} and data.eval_tokens={data.eval_tokens} need: give more text, "
                "or lower them"
            )
    digest = hashlib.sha256()
    for tokens in (train, validation):
        digest.update(len(tokens).to_bytes(8, "little"))
        digest.update(tokens.data)
    lengths = [len(d) + len(SEPARATOR) for d in documents[1]]
    return Corpus(train, validation, digest.hexdigest(), np.cumsum([0, *lengths[:-1]]))


def array(documents: Iterable[bytes]) -> np.ndarray:
    return np.frombuffer(SEPARATOR.join(documents), np.uint8)


def held_out(name: str, share: float) -> bool:
    """Whether a file belongs to validation: decided by its name alone, so that files may come and go
    without moving others."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") < share * 2**64
