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
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from precisionlaws.config import ConfigError
from precisionlaws.models.parts import KEPT, Linear, Seam, linears
from precisionlaws.quant.formats.base import Format

SEAMS = {"activations": ("in_qkv", "in_o", "in_mlp", "in_down"), "kv": ("k_cache", "v_cache")}


class Quantizer(Seam):
    """A format in the place of a seam."""

    def __init__(self, seam: Seam, format: Format) -> None:
        super().__init__(seam.length)
        self.format = format
        self.apply_format = format.quantizer()

    def forward(self, x: Tensor) -> Tensor:
        return self.apply_format(x)

    def extra_repr(self) -> str:
        return str(self.format)


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

    def __init__(self, format: Format) -> None:
        self.quantize = format.quantizer()
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
        key = (weight.data_ptr(), weight._version, optimizer_steps()[0], weight.dtype)
        if self.value is None or key != self.key:
            self.key, self.value = key, self.quantize(weight)
        return self.value


class QuantLinear(Linear):
    """A `Linear` whose matrix is quantized; shares the Parameter of the one it replaces."""

    def __init__(self, linear: Linear, format: Format) -> None:
        nn.Module.__init__(self)
        self.weight, self.bias = linear.weight, linear.bias  # the bias stays as it is
        self.std, self.format = linear.std, format
        self.quantized = WeightCache(format)

    def matrix(self) -> Tensor:
        return self.quantized(self.weight)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.format}"


class QuantTorchLinear(nn.Linear):
    """The same for a `torch.nn.Linear` of a model without seams: weight and input quantized."""

    def __init__(
        self, linear: nn.Linear, weights: Format | None, activations: Format | None
    ) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.quantized = WeightCache(weights) if weights else None
        self.quantize_input = activations.quantizer() if activations else None

    def forward(self, input: Tensor) -> Tensor:
        weight = self.quantized(self.weight) if self.quantized else self.weight
        if self.quantize_input:
            input = self.quantize_input(input)
        return F.linear(input, weight, self.bias)


@contextmanager
def weights_quantized_once(model: nn.Module) -> Iterator[None]:
    """Within it, every forward pass of a training step takes one quantized copy of each weight; on
    leaving, one backward pass carries the sum of its gradients to the parameter.

    Backward is linear, so for any estimator the result is that of quantizing in every forward pass; for
    the straight-through one it is so to the bit. Parameters must not change within.
    """
    layers = [m for m in model.modules() if isinstance(m, (QuantLinear, QuantTorchLinear))]
    caches = [(m.quantized, m.weight) for m in layers if m.quantized]
    pairs = [cache.hold(weight) for cache, weight in caches]
    try:
        yield
    finally:
        for cache, _ in caches:
            cache.held = None
    used = [(root, leaf.grad) for root, leaf in pairs if leaf.grad is not None]
    if used:
        torch.autograd.backward([root for root, _ in used], [grad for _, grad in used])


def attach(
    model: nn.Module,
    *,
    weights: Format | None = None,
    activations: Format | None = None,
    kv: Format | None = None,
    keep: tuple[str, ...] = KEPT,
) -> nn.Module:
    """Quantize `model` in place, and return it (or what replaces it, if it is one linear). A role of None or 16 bits changes nothing; attaching
    a role again replaces its format.

    keep: last names of linears that are not quantized.
    Raises: ConfigError if a format does not fit a tensor, or if a role has no place in this model.
    """
    w, a, k = (f if f is not None and not f.off else None for f in (weights, activations, kv))
    if w or a:
        reachable(model)
    plan = linear_plan(model, w, a, keep)
    own_input = any(isinstance(m, QuantTorchLinear) for m in plan.values())
    if w and not plan:
        raise ConfigError(
            "weights cannot be quantized: this model has no linears besides the head (torch.nn.Linear or "
            f"models.parts.Linear, by another name than {', '.join(keep)})"
        )
    if a:
        plan |= seam_plan(model, "activations", a, needed=not own_input)
    if k:
        plan |= seam_plan(model, "kv", k, needed=True)
    for name, module in plan.items():  # nothing is replaced before everything is known to fit
        parent, _, leaf = name.rpartition(".")
        if not leaf:
            return module
        setattr(model.get_submodule(parent), leaf, module)
    return model


def reachable(model: nn.Module) -> None:
    """Raises: ConfigError for a module that multiplies by its matrices without calling its linears."""
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            raise ConfigError(
                f"{name or 'the model'} is a torch.nn.MultiheadAttention, which never calls its linears: write it as "
                "torch.nn.Linear and scaled_dot_product_attention, and attach again"
            )


def linear_plan(
    model: nn.Module, weights: Format | None, activations: Format | None, keep: tuple[str, ...]
) -> dict[str, nn.Module]:
    """Name -> what replaces the linear of that name."""
    plan: dict[str, nn.Module] = {}
    for name, module in linears(model, keep, shared=True):
        for format in (weights, activations if isinstance(module, nn.Linear) else None):
            if format:
                format.fits(module.weight.shape[-1], f"{name}.weight")
        if isinstance(module, nn.Linear):
            if weights or activations:
                plan[name] = QuantTorchLinear(module, weights, activations)
        elif weights:
            plan[name] = QuantLinear(module, weights)
    return plan


def seam_plan(model: nn.Module, role: str, format: Format, needed: bool) -> dict[str, nn.Module]:
    """Name -> the quantizer that replaces the seam of that name."""
    plan: dict[str, nn.Module] = {}
    for name, seam in seams(model, SEAMS[role]):
        format.fits(seam.length, name)
        plan[name] = Quantizer(seam, format)
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
        if not x.is_floating_point():
            raise ConfigError(f"a tensor of floating point is needed, got {x.dtype}")
        if not x.dim():
            raise ConfigError("a tensor with axes is needed, got a single number")
        quantizer.fits(x.shape[-1], "the last axis")
        quantizer = quantizer.quantizer()
    return quantizer(x)
