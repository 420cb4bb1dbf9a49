"""The update of ADOPT, on all tensors of a group at once. Formula and source: adopt.py."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class AdoptUpdate(torch.optim.Optimizer):
    """Remembers per parameter, under Adam's names: step, exp_avg (m) and exp_avg_sq (v)."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.9999),
        eps: float = 1e-6,
        clip_power: float | None = 0.25,
        weight_decay: float = 0.0,
        decoupled: bool = True,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "clip_power": clip_power,
            "weight_decay": weight_decay,
            "decoupled": decoupled,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        assert closure is None  # nobody here has one
        for group in self.param_groups:
            pairs = [(p, p.grad) for p in group["params"] if p.grad is not None]
            if group["weight_decay"] and not group["decoupled"]:
                for p, g in pairs:
                    g.add_(p, alpha=group["weight_decay"])
            seen = [(p, g) for p, g in pairs if self.state[p]]
            for p, g in pairs:
                if not self.state[p]:  # step 0: nothing moves
                    zero, one = torch.zeros_like(p), torch.tensor(1.0)
                    self.state[p] = {"step": one, "exp_avg": zero, "exp_avg_sq": g.square()}
            if seen:
                self.move(group, [p for p, _ in seen], [g for _, g in seen])

    def move(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        slots = [self.state[p] for p in params]
        m, v = ([s[key] for s in slots] for key in ("exp_avg", "exp_avg_sq"))
        lr, (beta1, beta2), power = group["lr"], group["betas"], group["clip_power"]
        if group["weight_decay"] and group["decoupled"]:
            torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        scale = torch._foreach_sqrt(v)
        torch._foreach_clamp_min_(scale, group["eps"])
        normed = torch._foreach_div(grads, scale)
        if power is not None:
            bounds = [float(s["step"]) ** power for s in slots]
            torch._foreach_clamp_min_(normed, [-b for b in bounds])
            torch._foreach_clamp_max_(normed, bounds)
        torch._foreach_lerp_(m, normed, 1 - beta1)
        torch._foreach_add_(params, m, alpha=-lr)
        torch._foreach_mul_(v, beta2)
        torch._foreach_addcmul_(v, grads, grads, 1 - beta2)
        for s in slots:
            s["step"] += 1
