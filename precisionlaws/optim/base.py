"""What every optimizer and every learning-rate schedule answers."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from precisionlaws.config import ConfigError, Spec, ranged

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Optim(Spec):
    """Base of `conf/optim`: an update rule, and the rules for its numbers.

    ELEMENTWISE: a step is lr times a direction that each number's own gradients decide, and decay is
    decoupled: then runs of different lr and decay can be trained as one batch (training/pack.py).
    """

    ELEMENTWISE: ClassVar[bool] = False
    lr: float | None = ranged(0)  # peak; null = the rule of the optimizer
    clip: float | None  # the gradient's norm is scaled down to this; null: never

    def rules(self) -> None:
        if self.clip is not None and self.clip <= 0:
            raise ConfigError(f"clip must be positive, or null for never, got {self.clip}")

    def resolved(self, N: int, width: int, batch: int) -> Self:
        """A copy in which rules are replaced by the numbers they give. batch: tokens per step."""
        raise NotImplementedError

    def batch_tokens(self, N: int) -> int:
        """Tokens per step of a model of N parameters, where the run does not say."""
        raise NotImplementedError

    def build(self, model: "nn.Module") -> "torch.optim.Optimizer":
        """The optimizer of all parameters of `model`; `lr` must be resolved."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class LrSchedule(Spec):
    """Base of `conf/lr_schedule`. TRUNK: the fields that act before the decay; None if no phase is
    independent of the number of steps, so that runs of different D share nothing."""

    TRUNK: ClassVar[tuple[str, ...] | None] = None

    def factor(self, step: int, steps: int) -> float:
        """What multiplies the peak learning rate at `step` (0-based) of `steps`."""
        raise NotImplementedError

    def decay_start(self, steps: int) -> int:
        """The first step whose factor depends on `steps`."""
        raise NotImplementedError
