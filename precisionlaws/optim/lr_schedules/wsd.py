"""Warm-up, stable, decay: nothing but the decay depends on the number of steps.

Hägele et al. 2024 (arXiv:2405.18392): a constant rate with a cooldown of 20 % in the shape 1 - sqrt
matches a cosine, and runs of all lengths branch from one trunk.
"""

from dataclasses import dataclass
from math import sqrt
from typing import ClassVar, Literal

from precisionlaws.config import ranged
from precisionlaws.optim.base import LrSchedule


@dataclass(frozen=True, kw_only=True)
class Wsd(LrSchedule):
    SHORT: ClassVar[str] = "wsd"
    TRUNK: ClassVar[tuple[str, ...] | None] = ("warmup",)
    warmup: int | None = ranged(0)  # steps; null: the rule
    decay: float = ranged(0, 1)  # fraction of the steps
    shape: Literal["1-sqrt", "linear"]

    def inactive(self) -> set[str]:
        return {"shape"} if self.decay == 0 else set()

    def stable(self, step: int) -> float:
        """The factor of the trunk."""
        return min(1.0, (step + 1) / warmup) if (warmup := self.ramp) else 1.0

    def decay_start(self, steps: int) -> int:
        return steps - round(self.decay * steps)

    def factor(self, step: int, steps: int) -> float:
        start = self.decay_start(steps)
        if step < start:
            return self.stable(step)
        gone = (step - start) / (steps - start)  # 0 at the first step of the decay, < 1 at the last
        return self.stable(step) * (1 - (sqrt(gone) if self.shape == "1-sqrt" else gone))
