"""Which parameters of a model can take over a scale of the inputs of its matrices, and the taking over.

What a norm or a linear puts out is x_j = a_j (...): with a_j / s_j in its place and W_ij s_j in every matrix
that reads x, the model computes what it did. No bit is stored for it.
"""

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from precisionlaws.models.attention import Attention
from precisionlaws.models.parts import Block, GatedMLP, Linear, linears


def foldable(model: nn.Module) -> Iterator[tuple[nn.Module, Sequence[Linear]]]:
    """(norm or linear, all matrices that read what it puts out), those of norms first."""
    ours = {id(m) for _, m in linears(model)}
    blocks = [m for m in model.modules() if isinstance(m, Block)]
    for block in blocks:
        for norm, part in ((block.norm, block.attn), (block.mlp_norm, block.mlp)):
            names = ("q", "k", "v") if isinstance(part, Attention) else ("gate", "up")
            readers = [m for n in names if isinstance(m := getattr(part, n, None), Linear)]
            if readers and all(id(m) in ours for m in readers):
                yield norm, readers
    for block in blocks:
        attn, mlp = block.attn, block.mlp
        if isinstance(attn, Attention) and attn.repeat == 1:  # else several queries share a value
            yield attn.v, [attn.o]
        if isinstance(mlp, GatedMLP):  # down(act(gate) * up): linear in up
            yield mlp.up, [mlp.down]


def fold(source: nn.Module, readers: Sequence[Linear], s: Tensor) -> None:
    """Divide what `source` puts out by s, and multiply the inputs of its readers by s."""
    for parameter in (source.weight, getattr(source, "bias", None)):
        if isinstance(parameter, Tensor):
            parameter.div_(s if parameter.dim() == 1 else s.unsqueeze(1))
    for linear in readers:
        linear.weight.mul_(s)
