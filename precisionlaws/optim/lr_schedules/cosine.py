"""Cosine: after a warm-up, the rate falls along half a cosine to a floor at the last step.

Loshchilov and Hutter 2017 (arXiv:1608.03983). Every rate depends on the number of steps, so that runs
of different D share nothing: a model that was to be trained longer is not one that was trained to here
(Hoffmann et al. 2022, arXiv:2203.15556, section 3.1).
"""

from dataclasses import dataclass
from math import cos, pi
from typing import ClassVar

from precisionlaws.config import ConfigError, ranged
from precisionlaws.optim.base import LrSchedule


@dataclass(frozen=True, kw_only=True)
class Cosine(LrSchedule):
    SHORT: ClassVar[str] = "cosine"
    warmup: float | None = ranged(0)  # below 1: fraction of the steps; null: rule
    floor: float = ranged(0, 1)  # fraction of the peak that is left at the end

    def rules(self) -> None:
        if self.warmup is not None and self.warmup >= 1 and not self.warmup.is_integer():
            raise ConfigError(
                f"warmup must be a fraction below 1 or a whole number of steps, got {self.warmup}"
            )

    def warmup_steps(self, steps: int) -> int:
        return int(self.ramp) if self.ramp >= 1 else round(self.ramp * steps)

    def decay_start(self, steps: int) -> int:
        return 0  # nothing is independent of the number of steps

    def factor(self, step: int, steps: int) -> float:
        warmup = self.warmup_steps(steps)
        if step < warmup:
            return (step + 1) / warmup
        gone = (step - warmup) / (
            steps - warmup
        )  # 0 at the first step of the decay, < 1 at the last
        return self.floor + (1 - self.floor) * (1 + cos(pi * gone)) / 2
