"""Quantizers put into a model from outside, by name: model files never mention bits.

Weights: every `Linear` of the blocks is replaced by one that uses the quantized matrix and owns the
same Parameter under the same name, so checkpoints and optimizers do not notice. Activations and KV: the
identity seams (`in_qkv, in_o, in_mlp, in_down`; `k_cache`, `v_cache`) are replaced by quantizers; one
activation that feeds several linears is quantized once. Embedding and head stay as they are. A role
that is off replaces nothing, so 16 bits are bit-identical to no quantization.

In a model of someone else, `torch.nn.Linear` counts as a linear that quantizes its own input. For KV, its
attention must say where keys and values pass: call a `Seam(head_dim)` named `k_cache` on the keys, as a
cache stores them, and one named `v_cache` on the values; or call `fake_quantize` there.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from precisionlaws.config import ConfigError
from precisionlaws.kernels import reference
from precisionlaws.kernels.hadamard import block_of, rotate
from precisionlaws.models.parts import KEPT, Linear, Seam, linears
from precisionlaws.quant.formats.base import Format
from precisionlaws.quant.formats.scaled import Scaled
from precisionlaws.quant.noise import Clock, Noise

ROUNDED = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
SEAMS = {"activations": ("in_qkv", "in_o", "in_mlp", "in_down"), "kv": ("k_cache", "v_cache")}


class Rounder(nn.Module):
    """What happens to one tensor: a rotation, then the rounding of its format; either may be absent.

    A learned scale is a parameter here, as a logarithm, so that a step of the optimizer changes it by a
    share of itself. It starts from the first tensor that it sees, and is NaN until then.
    """

    log_scale: nn.Parameter | None

    def __init__(self, format: Format | None, name: str, clock: Clock, block: int, like: Tensor):
        """block: of the rotation, or 0. like: a tensor of the kind that will be rounded."""
        super().__init__()
        self.format, self.block, self.clock = format, block, clock
        self.learns = format is not None and format.learns
        self.ready = False
        self.quantize = format.quantizer(Noise(clock, name)) if format is not None else None
        shape = format.scales(like.detach().float()).shape if format and self.learns else None
        unset = None if shape is None else nn.Parameter(like.new_full(shape, torch.nan))
        self.register_parameter("log_scale", unset)

    def forward(self, x: Tensor) -> Tensor:
        if not self.clock.active:
            return x
        if self.block:
            x = rotate(x, self.block)
        if self.learns:
            return self.learned(x)
        return x if self.quantize is None else self.quantize(x)

    def learned(self, x: Tensor) -> Tensor:
        assert isinstance(self.format, Scaled)
        assert self.log_scale is not None
        if not self.ready:
            with torch.no_grad():
                start = self.format.scales(x.detach()).log().to(self.log_scale)
                self.log_scale.copy_(torch.where(self.log_scale.isnan(), start, self.log_scale))
            self.ready = True
        return self.format.learned(x, reference.computing(self.log_scale.exp()))

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.ready = False  # what is loaded may be of before the start
        super()._load_from_state_dict(*args, **kwargs)


class Quantizer(Seam):
    """A format in the place of a seam."""

    def __init__(self, seam: Seam, rounder: Rounder) -> None:
        super().__init__(seam.length)
        self.rounder = rounder

    def forward(self, x: Tensor) -> Tensor:
        return self.rounder(x)

    def extra_repr(self) -> str:
        return str(self.rounder.format)


class _RoundedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, rounder: Rounder) -> Tensor:
        ctx.rounder = rounder
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        with torch.enable_grad():  # stochastic rounding is for what is recorded
            return ctx.rounder(grads[0].detach().requires_grad_()).detach(), None


@functools.cache
def optimizer_steps() -> list[int]:
    """[steps of any optimizer in this process since the first call]"""
    steps = [0]

    def count(*_: Any) -> None:
        steps[0] += 1

    register_optimizer_step_post_hook(count)
    return steps


class WeightCache:
    """Quantized once per forward in training (or per step: `hold`), once per weight in evaluation."""

    def __init__(self, rounder: Rounder) -> None:
        self.quantize: Callable[[Tensor], Tensor] = rounder
        self.clock = rounder.clock
        self.key: tuple[Any, ...] | None = None
        self.value: Tensor | None = None
        self.held: Tensor | None = None  # a leaf that gathers the gradients of micro-batches

    def hold(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Quantize now, for all forward passes until `held` is None again: (root of the graph, leaf)."""
        root = self.quantize(weight)
        self.held = root.detach().requires_grad_(root.requires_grad)
        return root, self.held

    def __call__(self, weight: Tensor) -> Tensor:
        if self.held is not None and torch.is_grad_enabled():
            return self.held
        if torch.is_grad_enabled() or weight.is_inference():
            self.key = self.value = None
            return self.quantize(weight)
        # In-place changes bump the version; fused optimizers do not, hence the count of their steps.
        steps, active = optimizer_steps()[0], self.clock.active
        key = (weight.data_ptr(), weight._version, steps, active, weight.dtype)
        if self.value is None or key != self.key:
            self.key, self.value = key, self.quantize(weight)
        return self.value


class QuantLinear(Linear):
    """A `Linear` whose matrix is quantized; shares the Parameter of the one it replaces."""

    def __init__(self, linear: Linear, weights: Rounder, gradients: Rounder | None = None) -> None:
        nn.Module.__init__(self)
        self.weight, self.bias = linear.weight, linear.bias  # the bias stays as it is
        self.std, self.rounder, self.gradients = linear.std, weights, gradients
        self.quantized = WeightCache(weights)

    def matrix(self) -> Tensor:
        return self.quantized(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if self.gradients is None else _RoundedGradient.apply(y, self.gradients)  # type: ignore[return-value]

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.rounder.format}"


class QuantTorchLinear(nn.Linear):
    """The same for a `torch.nn.Linear` of a model without seams: weight and input quantized."""

    def __init__(
        self, linear: nn.Linear, weights: Rounder, inputs: Rounder, gradients: Rounder | None = None
    ) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.rounder, self.inputs, self.gradients = weights, inputs, gradients
        self.quantized = WeightCache(weights)

    def forward(self, input: Tensor) -> Tensor:
        y = F.linear(self.inputs(input), self.quantized(self.weight), self.bias)
        return y if self.gradients is None else _RoundedGradient.apply(y, self.gradients)  # type: ignore[return-value]


@contextmanager
def weights_quantized_once(model: nn.Module) -> Iterator[None]:
    """Within it, every forward pass of a training step takes one quantized copy of each weight; on
    leaving, one backward pass carries the sum of its gradients to the parameter.

    Backward is linear, so for any estimator the result is that of quantizing in every forward pass; for
    the straight-through one it is so to the bit. Parameters must not change within.
    """
    layers = [m for m in model.modules() if isinstance(m, (QuantLinear, QuantTorchLinear))]
    caches = [(m.quantized, m.weight) for m in layers]
    pairs = [cache.hold(weight) for cache, weight in caches]
    try:
        yield
    finally:
        for cache, _ in caches:
            cache.held = None
    used = [(root, leaf.grad) for root, leaf in pairs if leaf.grad is not None]
    if used:
        torch.autograd.backward([root for root, _ in used], [grad for _, grad in used])


@dataclass(frozen=True)
class Roles:
    """What is attached: formats that are on, a rotation, and the clock that all its quantizers share."""

    weights: Format | None
    activations: Format | None
    kv: Format | None
    gradients: Format | None
    rotate: bool
    clock: Clock

    def rounder(self, role: str, name: str, length: int, like: Tensor) -> Rounder:
        """Of the tensor `name`, of vectors of `length`. Raises: ConfigError if its format does not fit."""
        format: Format | None = getattr(self, role)
        if format is not None:
            format.fits(length, name)
        rotated = self.rotate and role in ("weights", "activations")
        return Rounder(format, f"{name}/{role}", self.clock, block_of(length) * rotated, like)


def attach(
    model: nn.Module,
    *,
    weights: Format | None = None,
    activations: Format | None = None,
    kv: Format | None = None,
    gradients: Format | None = None,
    rotation: str = "none",
    clock: Clock | None = None,
    keep: tuple[str, ...] = KEPT,
) -> nn.Module:
    """Quantize `model` in place, and return it (or what replaces it, if it is one linear). A role of None
    or 16 bits changes nothing; attaching a role again replaces its format.

    gradients: of the outputs of linears, which both products of the backward pass take. rotation:
    `hadamard` rotates weights and activations together. clock: seed and step of stochastic rounding.
    keep: last names of linears that are not quantized.
    Raises: ConfigError if a format does not fit a tensor, or if a role has no place in this model.
    """
    w, a, k, g = (
        f if f is not None and not f.off else None for f in (weights, activations, kv, gradients)
    )
    roles = Roles(w, a, k, g, rotation == "hadamard" and bool(w or a), clock or Clock())
    if w or a or g:
        reachable(model)
    plan = linear_plan(model, roles, keep)
    own_input = any(isinstance(m, QuantTorchLinear) for m in plan.values())
    if (w or g) and not plan:
        raise ConfigError(
            f"{'weights' if w else 'gradients'} cannot be quantized: this model has no linears besides the head "
            f"(torch.nn.Linear or models.parts.Linear, by another name than {', '.join(keep)})"
        )
    if a or roles.rotate:
        plan |= seam_plan(model, "activations", roles, needed=not own_input)
    if k:
        plan |= seam_plan(model, "kv", roles, needed=True)
    for name, module in plan.items():  # nothing is replaced before everything is known to fit
        parent, _, leaf = name.rpartition(".")
        if not leaf:
            return module
        setattr(model.get_submodule(parent), leaf, module)
    return model


def clocks(model: nn.Module) -> list[Clock]:
    """Those of all quantizers in the model, usually one."""
    return list({id(m.clock): m.clock for m in model.modules() if isinstance(m, Rounder)}.values())


def reachable(model: nn.Module) -> None:
    """Raises: ConfigError for a module that multiplies by its matrices without calling its linears."""
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            raise ConfigError(
                f"{name or 'the model'} is a torch.nn.MultiheadAttention, which never calls its linears: write it as "
                "torch.nn.Linear and scaled_dot_product_attention, and attach again"
            )


def linear_plan(model: nn.Module, roles: Roles, keep: tuple[str, ...]) -> dict[str, nn.Module]:
    """Name -> what replaces the linear of that name."""
    plan: dict[str, nn.Module] = {}
    matrices = roles.weights or roles.gradients or roles.rotate
    for name, module in linears(model, keep, shared=True):
        if not (matrices or (isinstance(module, nn.Linear) and roles.activations)):
            continue
        W, (out, length) = module.weight, module.weight.shape[-2:]
        weights = roles.rounder("weights", f"{name}.weight", length, W)
        gradients = (
            roles.rounder("gradients", name, out, W.new_ones(1, out)) if roles.gradients else None
        )
        if isinstance(module, nn.Linear):
            inputs = roles.rounder("activations", f"{name}.weight", length, W.new_ones(1, length))
            plan[name] = QuantTorchLinear(module, weights, inputs, gradients)
        else:
            plan[name] = QuantLinear(module, weights, gradients)
    return plan


def seam_plan(model: nn.Module, role: str, roles: Roles, needed: bool) -> dict[str, nn.Module]:
    """Name -> the quantizer that replaces the seam of that name."""
    plan: dict[str, nn.Module] = {}
    for name, seam in seams(model, SEAMS[role]):
        plan[name] = Quantizer(seam, roles.rounder(role, name, seam.length, torch.ones(1, seam.length)))  # fmt: skip
    if needed and not plan:
        places = " or ".join(SEAMS[role])
        what = (
            "keys, as a cache stores them, and values" if role == "kv" else "inputs of its matrices"
        )
        raise ConfigError(
            f"{role} cannot be quantized: this model has no {places}; give its {what} to modules "
            "precisionlaws.models.parts.Seam(length of the last axis) of these names, and attach again"
        )
    return plan


def seams(model: nn.Module, names: tuple[str, ...]) -> Iterator[tuple[str, Seam]]:
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, Seam) and name.rpartition(".")[2] in names:
            yield name, module


def fake_quantize(x: Tensor, quantizer: Format | Callable[[Tensor], Tensor]) -> Tensor:
    """`x` rounded to the numbers of a format: same shape and dtype, with the format's gradient.

    Raises: ConfigError if the format's groups do not divide the last axis, or `x` cannot be rounded.
    """
    if isinstance(quantizer, Format):
        if not isinstance(x, Tensor):
            raise ConfigError(f"a tensor is needed, got {type(x).__name__}")
        if not x.is_floating_point():
            raise ConfigError(f"a tensor of floating point is needed, got {x.dtype}")
        if x.dtype not in ROUNDED:
            kinds = ", ".join(str(d).removeprefix("torch.") for d in ROUNDED)
            raise ConfigError(
                f"a tensor of {kinds} is needed, got {x.dtype}, which is rounded already"
            )
        if not x.dim():
            raise ConfigError("a tensor with axes is needed, got a single number")
        quantizer.fits(x.shape[-1], "the last axis")
        quantizer = quantizer.quantizer()
    return quantizer(x)
