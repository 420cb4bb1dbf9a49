"""What every optimizer and every learning-rate schedule answers."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from precisionlaws.config import ConfigError, Spec, ranged
from precisionlaws.models.base import Model
from precisionlaws.models.parametrizations.base import Multipliers
from precisionlaws.optim import rules

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Optim(Spec):
    """Base of `conf/optim`: an update rule, and the rules for its numbers.

    LR_FACTOR: its best rate over that of AdamW, by measurement. DECAY: the rule for weight_decay. IDLE:
    first steps that change no parameter.
    """

    LR_FACTOR: ClassVar[float] = 1.0
    DECAY: ClassVar[float] = 0.1
    IDLE: ClassVar[int] = 0
    lr: float | None = ranged(0)  # peak; null = the rule of the optimizer
    weight_decay: float | None = ranged(0)  # null = DECAY; 0 if model.NORMALIZES
    clip: float | None  # the gradient's norm is scaled down to this; null: never

    def rules(self) -> None:
        if self.clip is not None and self.clip <= 0:
            raise ConfigError(f"clip must be positive, or null for never, got {self.clip}")

    @property
    def elementwise(self) -> bool:
        """Whether a step is lr times a direction that each number's own gradients decide, with decoupled
        decay: then runs of different lr and decay can be trained as one batch (training/pack.py)."""
        return False

    def resolved(
        self, N: int, width: int, batch: int, model: type[Model] = Model, factor: float = 1.0
    ) -> Self:
        """A copy in which rules are replaced by the numbers they give. batch: tokens per step. factor: on the
        rule for the learning rate."""
        lr, decay = self.lr, self.weight_decay
        if lr is None:
            lr = rules.rate(N, width, batch) * self.LR_FACTOR * model.LR_FACTOR
            lr = float(f"{lr * factor:.6g}")
        if decay is None:
            decay = 0.0 if model.NORMALIZES else self.DECAY
        return replace(self, lr=lr, weight_decay=decay)

    def batch_tokens(self, N: int) -> int:
        """Tokens per step of a model of N parameters, where the run does not say."""
        return rules.batch_tokens(N)

    def build(
        self, model: "nn.Module", multipliers: Multipliers | None = None
    ) -> "torch.optim.Optimizer":
        """The optimizer of all parameters of `model`; each step ends with what the model has to do then
        (`constrain`, if it has one). A group's `rate` multiplies its learning rate, where it has one.
        Raises: ValueError if lr is not resolved."""
        if self.lr is None:
            raise ValueError("lr is not resolved: call resolved(N, width, batch) first")
        from precisionlaws.models.parts import constrain

        decay = self.DECAY if self.weight_decay is None else self.weight_decay
        parts = groups(model, decay)
        if multipliers is not None:
            parts = scaled(model, decay, vars(self).get("eps", 0.0), multipliers)
        optimizer = self.update(parts)
        optimizer.register_step_post_hook(lambda *_: constrain(model))
        return optimizer

    def update(self, groups: list[dict[str, Any]]) -> "torch.optim.Optimizer":
        """The update rule over these groups of parameters, which have their own weight_decay."""
        raise NotImplementedError


def groups(model: "nn.Module", weight_decay: float) -> list[dict[str, Any]]:
    decayed, free = split(model)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]


def scaled(
    model: "nn.Module", weight_decay: float, eps: float, by: Multipliers
) -> list[dict[str, Any]]:
    """The groups of a parametrization, which have their own rate, weight_decay and eps."""
    from precisionlaws.models.parametrizations.application import kinds

    found: dict[str, list[nn.Parameter]] = {"matrix": [], "head": [], "vector": [], "outer": []}
    for parameter, kind in kinds(model):
        found[kind].append(parameter)
    rates = {"matrix": by.matrix_lr, "vector": by.vector_lr}
    decays = {"matrix": weight_decay * by.matrix_decay, "head": weight_decay}
    return [
        {
            "params": parameters,
            "rate": rates.get(kind, 1.0),
            "weight_decay": decays.get(kind, 0.0),
            "eps": eps * (by.block_eps if kind in rates else by.outer_eps),
        }
        for kind, parameters in found.items()
        if parameters
    ]


def split(model: "nn.Module") -> "tuple[list[nn.Parameter], list[nn.Parameter]]":
    """(parameters with weight decay, without): matrices of linears decay; norms, biases, positions,
    embeddings, convolutions and the constants of state-space models do not.

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


@dataclass(frozen=True, kw_only=True)
class LrSchedule(Spec):
    """Base of `conf/lr_schedule`. TRUNK: the fields that act before the decay; None if no phase is
    independent of the number of steps, so that runs of different D share nothing."""

    TRUNK: ClassVar[tuple[str, ...] | None] = None
    WARMUP: ClassVar[int] = 30  # steps: the rule
    warmup: float | None = ranged(0)  # null = WARMUP, or 0 where a model normalizes its matrices

    def resolved(self, model: type[Model]) -> Self:
        """A copy in which rules are replaced by the numbers they give."""
        if self.warmup is not None:
            return self
        return replace(self, warmup=0 if model.NORMALIZES else self.WARMUP)

    @property
    def ramp(self) -> float:
        """The warm-up, by rule where it is not said."""
        return self.WARMUP if self.warmup is None else self.warmup

    def factor(self, step: int, steps: int) -> float:
        """What multiplies the peak learning rate at `step` (0-based) of `steps`."""
        raise NotImplementedError

    def decay_start(self, steps: int) -> int:
        """The first step whose factor depends on `steps`."""
        raise NotImplementedError
