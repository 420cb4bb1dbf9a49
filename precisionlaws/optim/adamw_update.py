"""The update of AdamW by torch's fused kernel, on all tensors of a group at once. Formula and source: adamw.py."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class AdamWUpdate(torch.optim.Optimizer):
    """torch.optim.AdamW(fused=True), to the bit, without its walk over parameters in Python: of a step of a
    small model that walk takes several times as long as the update.

    Remembers per parameter, under Adam's names: step, exp_avg and exp_avg_sq.
    """

    def __init__(
        self, params: Iterable[Any], lr: float, betas: tuple[float, float], eps: float
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        assert closure is None  # nobody here has one
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            slots = [self.state[p] or self.unmoved(p) for p in params]
            m, v, steps = ([s[key] for s in slots] for key in ("exp_avg", "exp_avg_sq", "step"))
            torch._foreach_add_(steps, 1)
            torch._fused_adamw_(
                params,
                [p.grad for p in params],
                m,
                v,
                [],
                steps,
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )

    def unmoved(self, p: Tensor) -> dict[str, Tensor]:
        """The state of a parameter before its first step."""
        zero = torch.zeros((), device=p.device)  # fp32: the kernel's own type for the count
        self.state[p] = {
            "step": zero,
            "exp_avg": torch.zeros_like(p),
            "exp_avg_sq": torch.zeros_like(p),
        }
        return self.state[p]
