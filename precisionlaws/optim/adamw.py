"""AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101), torch's fused implementation."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from precisionlaws.config import ranged
from precisionlaws.optim.base import Optim

if TYPE_CHECKING:
    import torch
    from torch import nn

# lr = LR_TIMES_WIDTH / width: under Adam the best rate of hidden matrices falls as 1 / width when their
# start has variance 1 / fan_in (Yang et al. 2022, arXiv:2203.03466, table 8). The constant is from a scan
# over factors of two (1,024 tokens a step, widths 16, 32 and 48, at 16 bits and at 3, because a rate tuned
# at 16 bits alone inflates low-bit damage): at D = 500k it is best, or .0004 nats from best, in all six
# cells; at 125k best in five, and .02 from best in the sixth.
LR_TIMES_WIDTH = 0.48
# One batch size for every N and D of a study: a batch that grows with N is a confound.
BATCH_TOKENS = 1024


@dataclass(frozen=True, kw_only=True)
class AdamW(Optim):
    SHORT: ClassVar[str] = "adamw"
    beta1: float = ranged(0, 0.999999)
    beta2: float = ranged(0, 0.999999)
    eps: float = ranged(0)
    weight_decay: float = ranged(0)

    def resolved(self, N: int, width: int) -> "AdamW":
        if self.lr is not None:
            return self
        return replace(self, lr=float(f"{LR_TIMES_WIDTH / width:.6g}"))

    def batch_tokens(self, N: int) -> int:
        return BATCH_TOKENS

    def build(self, model: "nn.Module") -> "torch.optim.AdamW":
        import torch

        if self.lr is None:
            raise ValueError("lr is not resolved: call resolved(N, width) first")
        decayed, free = split(model)
        groups = [
            {"params": decayed, "weight_decay": self.weight_decay},
            {"params": free, "weight_decay": 0.0},
        ]
        betas = (self.beta1, self.beta2)
        return torch.optim.AdamW(groups, lr=self.lr, betas=betas, eps=self.eps, fused=True)


def split(model: "nn.Module") -> "tuple[list[nn.Parameter], list[nn.Parameter]]":
    """(parameters with weight decay, without): linears decay, norms and embeddings do not.

    As in Groeneveld et al. 2024 (OLMo, arXiv:2402.00838) and its successors: decay makes no sense for
    gains, and shrinks rows of rare tokens that get no gradient. By owner, not by number of axes: a
    pack adds one.
    """
    from torch import nn

    from precisionlaws.models.parts import Linear

    decayed = {id(m.weight) for m in model.modules() if isinstance(m, (Linear, nn.Linear))}
    parameters = list(model.parameters())
    return (
        [p for p in parameters if id(p) in decayed],
        [p for p in parameters if id(p) not in decayed],
    )
