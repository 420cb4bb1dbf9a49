"""CompleteP: µP, and the same over depth (Dey et al. 2025, arXiv:2505.01618; code: EleutherAI/nanoGPT-mup).

With l = depth / base depth, a part adds l^-alpha of itself to the stream, x + l^-alpha f(x). Learning rates in the
blocks, of matrices, norms and biases, go with l^(alpha - 1), the optimizer's eps there with l^-alpha. With
alpha = 1 no rate depends on depth and every block learns as much as one of the base; with 1/2 deep models become
lazy, says the paper, and rates do not carry over.

The start of what writes to the stream does not depend on depth: it is 1/√(2 · base depth) of the others', where the
standard parametrization has 1/√(2 · depth). At the base it is the standard parametrization, to the bit.
"""

from dataclasses import dataclass, replace
from math import sqrt
from typing import ClassVar

from precisionlaws.config import ranged
from precisionlaws.models.base import Size
from precisionlaws.models.parametrizations.base import Multipliers
from precisionlaws.models.parametrizations.mup import Mup


@dataclass(frozen=True, kw_only=True)
class Completep(Mup):
    SHORT: ClassVar[str] = "completep"
    depth: int = ranged(1)  # of the base
    alpha: float = ranged(0.5, 1)

    def at(self, size: Size) -> Multipliers:
        wide, l = super().at(size), size.depth / self.depth  # noqa: E741
        return replace(
            wide,
            branch=l**-self.alpha,
            writers=sqrt(l),
            matrix_lr=wide.matrix_lr * l ** (self.alpha - 1),
            vector_lr=wide.vector_lr * l ** (self.alpha - 1),
            block_eps=wide.block_eps * l**-self.alpha,
        )
