"""Parameters, FLOPs and memory of a model, counted from its matrices before it is built."""

import functools
from dataclasses import dataclass

from precisionlaws.models.base import Matrix, Model, Size


@dataclass(frozen=True)
class Counts:
    """N: block matrices, those that are quantized. A tied matrix counts once, as head."""

    N: int
    N_head: int
    N_emb: int
    N_other: int  # norms, biases, learned positions

    @property
    def total(self) -> int:
        return self.N + self.N_head + self.N_emb + self.N_other


@functools.lru_cache(maxsize=1024)
def shapes(model: Model, size: Size) -> tuple[Matrix, ...]:
    """The first matrix of every shape among those of the blocks."""
    first: dict[tuple[int, int], Matrix] = {}
    for name, out, inner in model.matrices(size):
        first.setdefault((out, inner), (name, out, inner))
    return tuple(first.values())


@functools.lru_cache(maxsize=1024)
def resolved(model: Model, size: Size) -> Model:
    """`model.resolved(size)`, once."""
    return model.resolved(size)


@functools.lru_cache(maxsize=1024)
def counts(model: Model, size: Size, vocab: int, context: int) -> Counts:
    table = vocab * size.width
    N = sum(out * width for _, out, width in model.matrices(size))
    other = model.other(size, vocab, context)
    return Counts(N, table, 0 if model.one_table else table, other)


def forward_flops(model: Model, size: Size, vocab: int, context: int) -> int:
    """FLOPs per token of a forward pass over sequences of `context`: products of matrices only."""
    c = counts(model, size, vocab, context)
    return 2 * (c.N + c.N_head) + model.mixing_flops(size, context)


def training_flops(model: Model, size: Size, vocab: int, context: int, tokens: int) -> int:
    """FLOPs of forward and backward over `tokens`: a backward pass costs twice the forward.

    Model FLOPs: that fast attention computes its scores twice is not counted.
    """
    return 3 * tokens * forward_flops(model, size, vocab, context)


# Measured as the peak of whole training processes, size=400k to 30M and 1,024 to 16,384 tokens at a time.
COPIES = 10  # of the parameters: a step has 4, a branch keeps 3 of its trunk, a checkpoint is written from 3
BEHIND = 1.3  # what backward holds and an allocator wastes, against inputs and outputs of matrices
QUANTIZED = 1.2  # besides, with quantized activations


def training_bytes(
    model: Model,
    size: Size,
    vocab: int,
    context: int,
    batch_tokens: int,
    width: int = 4,
    quantized: bool = False,
    scores: float = 0.0,
) -> int:
    """Estimate of the memory of training `batch_tokens` at a time, beside that of the program itself.

    Parameters, gradients, two moments and their copies; per token the inputs and outputs of every block
    matrix, which count queries, keys, values and what attention returns, and the logits, their softmax and
    gradient. width: bytes per number. quantized: activations are. scores: what attention keeps of them, per
    token and head.
    """
    kept = (
        BEHIND
        * (QUANTIZED if quantized else 1.0)
        * sum(out + inner for _, out, inner in model.matrices(size))
    )
    kept += size.depth * size.heads * scores
    parameters = COPIES * counts(model, size, vocab, context).total
    return round(width * (parameters + batch_tokens * (kept + 3 * vocab)))
