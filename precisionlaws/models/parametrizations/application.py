"""Multipliers put into a built model, and the kinds of its parameters."""

from collections.abc import Iterator
from math import sqrt

from torch import nn

from precisionlaws.models.attention import Attention
from precisionlaws.models.parametrizations.base import Multipliers
from precisionlaws.models.parts import KEPT, Block, Decoder, Linear

WRITERS = ("o", "down")  # last names of the matrices that write to the stream


def apply(model: nn.Module, by: Multipliers) -> None:
    """Raises: TypeError for a model that is no `Decoder`."""
    if not isinstance(model, Decoder):
        raise TypeError(f"no parametrization is defined for {type(model).__name__}")
    model.output = by.logits
    table = model.embed if model.head is None else model.head
    table.std *= by.table
    if model.positions is not None:
        model.positions.std = model.embed.std / 2
    for name, module in model.named_modules():
        if isinstance(module, Block):
            module.branch = by.branch
        elif isinstance(module, Attention) and by.scores != 1:
            module.scale = by.scores / sqrt(module.head_dim)
        elif isinstance(module, Linear) and name.rpartition(".")[2] in WRITERS:
            module.std *= by.writers


def kinds(model: nn.Module) -> Iterator[tuple[nn.Parameter, str]]:
    """Every parameter once, and whether it is a `matrix` or a `vector` of the blocks, the `head`, or `outer`:
    embedding, positions, last norm."""
    seen = set()
    for name, module in model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            if parameter not in seen:
                seen.add(parameter)
                yield parameter, kind(name, module, leaf)


def kind(name: str, owner: nn.Module, leaf: str) -> str:
    matrix = isinstance(owner, Linear) and leaf == "weight"
    if name.startswith("blocks."):
        return "matrix" if matrix else "vector"
    return "head" if matrix and name.rpartition(".")[2] in KEPT else "outer"
