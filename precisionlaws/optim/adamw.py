"""AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101), by torch's fused kernel."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from precisionlaws.config import ranged
from precisionlaws.optim.base import Optim

if TYPE_CHECKING:
    from precisionlaws.optim.adamw_update import AdamWUpdate


@dataclass(frozen=True, kw_only=True)
class AdamW(Optim):
    SHORT: ClassVar[str] = "adamw"
    beta1: float = ranged(0, 0.999999)
    beta2: float = ranged(0, 0.999999)
    eps: float = ranged(0)

    @property
    def elementwise(self) -> bool:
        return True

    def update(self, groups: list[dict[str, Any]]) -> "AdamWUpdate":
        from precisionlaws.optim.adamw_update import AdamWUpdate

        return AdamWUpdate(groups, lr=self.lr or 0.0, betas=(self.beta1, self.beta2), eps=self.eps)
