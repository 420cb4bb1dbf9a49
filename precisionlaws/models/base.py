"""What every model answers before it is built: its matrices, its other parameters, its mixing."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from precisionlaws.config import ConfigError, Spec, ranged

if TYPE_CHECKING:
    from torch import nn

Matrix = tuple[str, int, int]  # name of the linear in the built model, out, in


@dataclass(frozen=True, kw_only=True)
class Size(Spec):
    """Depth, width and heads; every other dimension follows from the model's rules."""

    SHORT: ClassVar[str] = "size"
    depth: int = ranged(1, 1024)
    width: int = ranged(16, 65536)
    heads: int = ranged(1)

    def rules(self) -> None:
        if self.width % 16:  # so that groups of 16 divide every reduced axis
            raise ConfigError(f"width must be divisible by 16, got {self.width}")
        if self.width % self.heads:
            raise ConfigError(f"heads must divide width={self.width}, got {self.heads}")

    @property
    def head_dim(self) -> int:
        return self.width // self.heads


@dataclass(frozen=True, kw_only=True)
class Model(Spec):
    """Base of `conf/model`.

    objective: `causal` (the next token) or `masked` (tokens that are hidden, training/objectives.py).
    LR_FACTOR: its best rate over that of a Llama, by measurement. NORMALIZES: its matrices, after every
    step, so that it needs neither weight decay nor warm-up. CACHE: it keeps keys and values.
    PARAMETRIZED: parametrizations besides the standard one are defined for it.
    """

    objective: ClassVar[str] = "causal"
    LR_FACTOR: ClassVar[float] = 1.0
    NORMALIZES: ClassVar[bool] = False
    CACHE: ClassVar[bool] = True
    PARAMETRIZED: ClassVar[bool] = False

    @property
    def one_table(self) -> bool:
        """Whether embedding and head share one matrix."""
        return False

    def resolved(self, size: Size) -> Self:
        """A copy in which rules and nulls are replaced by the numbers they give at `size`."""
        return self

    def matrices(self, size: Size) -> tuple[Matrix, ...]:
        """Every matrix of the blocks: these count as N, and these are quantized."""
        raise NotImplementedError

    def other(self, size: Size, vocab: int, context: int) -> int:
        """Parameters that are neither block matrices nor embedding nor head: gains, biases, positions."""
        raise NotImplementedError

    def mixing_flops(self, size: Size, context: int) -> int:
        """Forward FLOPs per token that multiply activations with activations (attention)."""
        raise NotImplementedError

    @property
    def own(self) -> tuple[str, ...]:
        """Parts of models/own.py that its training can take in place of torch's."""
        return ()

    def hidden_share(self, training: bool) -> float | None:
        """The share of tokens that are hidden where it is trained, or where its loss is measured; None: it
        predicts the next token."""
        return None

    def build(self, size: Size, vocab: int, context: int) -> "nn.Module":
        """The model, ids (B, T) -> logits (B, T, vocab); parameters are NaN until initialized."""
        raise NotImplementedError
