"""What every parametrization answers: by what a model of a size differs from the standard one."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from precisionlaws.config import Spec
from precisionlaws.models.base import Size

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Multipliers:
    """Factors on the standard parametrization at one size; all 1 at the base.

    Matrices are the linears of the blocks; vectors the norms and biases of the blocks.
    """

    width: float  # over that of the base
    scores: float  # of attention, over 1/√D
    logits: float
    branch: float  # what a part adds to the stream
    table: float  # start of what makes logits, the head or the tied table, over 1/√width
    writers: float  # start of the matrices that write to the stream, over the standard
    matrix_lr: float
    vector_lr: float
    matrix_decay: float  # weight decay, which acts times the learning rate
    block_eps: float  # of the optimizer, in the blocks
    outer_eps: float  # and outside: embedding, positions, last norm, head

    def apply(self, model: "nn.Module") -> None:
        """Set forward multipliers and starts of a model that is not yet initialized."""
        from precisionlaws.models.parametrizations.application import apply

        apply(model, self)


@dataclass(frozen=True, kw_only=True)
class Parametrization(Spec):
    """Base of `conf/parametrization`."""

    def at(self, size: Size) -> Multipliers | None:
        """None: the standard parametrization."""
        raise NotImplementedError
