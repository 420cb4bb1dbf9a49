"""Parameters, FLOPs and memory of a model, counted from its matrices before it is built."""

from dataclasses import dataclass

from precisionlaws.models.base import Model, Size


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


def counts(model: Model, size: Size, vocab: int, context: int) -> Counts:
    table = vocab * size.width
    N = sum(out * width for _, out, width in model.matrices(size))
    return Counts(N, table, 0 if model.one_table else table, model.other(size, context))


def forward_flops(model: Model, size: Size, vocab: int, context: int) -> int:
    """FLOPs per token of a forward pass over sequences of `context`: products of matrices only."""
    c = counts(model, size, vocab, context)
    return 2 * (c.N + c.N_head) + model.mixing_flops(size, context)


def training_flops(model: Model, size: Size, vocab: int, context: int, tokens: int) -> int:
    """FLOPs of forward and backward over `tokens`: a backward pass costs twice the forward.

    Model FLOPs: that fast attention computes its scores twice is not counted.
    """
    return 3 * tokens * forward_flops(model, size, vocab, context)


def training_bytes(
    model: Model, size: Size, vocab: int, context: int, batch_tokens: int, width: int = 4
) -> int:
    """Estimate of the memory of training: four copies of the parameters, and what backward keeps.

    Per token: inputs and outputs of every block matrix, the logits and their gradient. `width`: bytes
    per number.
    """
    kept = sum(out + inner for _, out, inner in model.matrices(size)) + 3 * vocab
    return width * (4 * counts(model, size, vocab, context).total + batch_tokens * kept)
