"""µP: the learning rate that is best at one width is best at all (Yang et al. 2022, arXiv:2203.03466).

With m = width / base width, under Adam (their table 8, in the form in which all tables start alike):

                       start, variance    learning rate    weight decay    forward
    embedding, norms   1                  1                1
    matrices           1/m                1/m              m               scores q·k √D_base / D
    head               1                  1                1               logits / m

Without it a step moves activations by more the wider the model, because a step of Adam moves every number by
the rate, and the moves of a row line up with what it reads. `optim.lr` is the rate at the base; where it is not given,
that which makes the rate of the matrices the one of the per-size rule. Weight decay, which acts times the rate,
grows by m so that a matrix decays at one speed, and the optimizer's eps falls with the gradients, by 1/m
(Dey et al. 2025, arXiv:2505.01618, and their code). At the base it is the standard parametrization, to the bit.
"""

from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

from precisionlaws.config import ranged
from precisionlaws.models.base import Size
from precisionlaws.models.parametrizations.base import Multipliers, Parametrization


@dataclass(frozen=True, kw_only=True)
class Mup(Parametrization):
    SHORT: ClassVar[str] = "mup"
    width: int = ranged(1)  # of the base
    head_dim: int = ranged(1)

    def at(self, size: Size) -> Multipliers:
        m = size.width / self.width
        return Multipliers(
            width=m,
            scores=sqrt(self.head_dim / size.head_dim),
            logits=1 / m,
            branch=1.0,
            table=sqrt(m),  # a variance of its own at the base, whatever the width
            writers=1.0,
            matrix_lr=1 / m,
            vector_lr=1.0,
            matrix_decay=m,
            block_eps=1 / m,
            outer_eps=1 / m,
        )
