"""ADOPT (Taniguchi et al. 2024, arXiv:2411.02853): Adam that converges with any beta2.

Adam divides a gradient by a root mean square that holds the same gradient, so that the two are
correlated; a small beta2 then leads it to the wrong end of simple problems. ADOPT divides by what was
known *before* the step, normalizes before it takes the momentum, and corrects no bias:

    n = clamp(g / max(sqrt(v), eps), ±t^clip_power),   m = beta1 m + (1 - beta1) n,
    p = p - lr m,   v = beta2 v + (1 - beta2) g²       at step t = 1, 2, ...

Step 0 only sets v = g². The clamp is of the authors' second version, because the first steps after a
tiny gradient are otherwise huge; `clip_power=null` is the first one. The update itself: adopt_update.py.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from precisionlaws.config import neutral, ranged
from precisionlaws.optim.base import Optim

if TYPE_CHECKING:
    from precisionlaws.optim.adopt_update import AdoptUpdate


@dataclass(frozen=True, kw_only=True)
class Adopt(Optim):
    SHORT: ClassVar[str] = "adopt"
    IDLE: ClassVar[int] = 1
    # Half of AdamW's: of .25, .5, 1 and 2 times the rule best at N = 20k and D = 250k, at 16 bits (by .04 nats) and at 3.
    LR_FACTOR: ClassVar[float] = 0.5
    beta1: float = ranged(0, 0.999999)
    beta2: float = ranged(0, 0.999999)
    eps: float = ranged(0)
    clip_power: float | None = ranged(0, 1)  # null: never clamped
    decoupled: bool = neutral(True)  # decay acts on parameters, as in AdamW, not on gradients

    def inactive(self) -> set[str]:
        return set() if self.weight_decay else {"decoupled"}

    @property
    def elementwise(self) -> bool:
        return self.decoupled or self.weight_decay == 0

    def update(self, groups: list[dict[str, Any]]) -> "AdoptUpdate":
        from precisionlaws.optim.adopt_update import AdoptUpdate

        return AdoptUpdate(
            groups,
            lr=self.lr or 0.0,
            betas=(self.beta1, self.beta2),
            eps=self.eps,
            clip_power=self.clip_power,
            decoupled=self.decoupled,
        )
