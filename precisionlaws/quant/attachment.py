"""Quantizers put into a model from outside, by name: model files never mention bits.

Weights: every `Linear` of the blocks is replaced by one that uses the quantized matrix and owns the
same Parameter under the same name, so checkpoints and optimizers do not notice. Activations and KV: the
identity seams (`in_qkv, in_o, in_mlp, in_down`; `k_cache`, `v_cache`) are replaced by quantizers; one
activation that feeds several linears is quantized once. Embedding and head stay as they are. A role
that is off replaces nothing, so 16 bits are bit-identical to no quantization.

In a model of someone else, `torch.nn.Linear` counts as a linear that quantizes its own input.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from precisionlaws.config import ConfigError
from precisionlaws.models.parts import KEPT, Linear, Seam, linears
from precisionlaws.quant.formats.base import Format

SEAMS = {"activations": ("in_qkv", "in_o", "in_mlp", "in_down"), "kv": ("k_cache", "v_cache")}


class Quantizer(nn.Module):
    """A format in the place of a seam."""

    def __init__(self, format: Format) -> None:
        super().__init__()
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
    """Quantized once per forward in training, once per weight in evaluation."""

    def __init__(self, format: Format) -> None:
        self.quantize = format.quantizer()
        self.key: tuple[Any, ...] | None = None
        self.value: Tensor | None = None

    def __call__(self, weight: Tensor) -> Tensor:
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
        self.weight, self.std, self.format = linear.weight, linear.std, format
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


def attach(
    model: nn.Module,
    *,
    weights: Format | None = None,
    activations: Format | None = None,
    kv: Format | None = None,
    keep: tuple[str, ...] = KEPT,
) -> nn.Module:
    """Quantize `model` in place, and return it. A role of None or 16 bits changes nothing.

    keep: last names of linears that are not quantized.
    Raises: ConfigError if a format does not fit a tensor, or if a role has no place in this model.
    """
    w, a, k = (f if f is not None and not f.off else None for f in (weights, activations, kv))
    plan: list[tuple[str, nn.Module]] = []
    for name, module in linears(model, keep):
        if isinstance(module, Linear):
            if w:
                w.fits(module.weight.shape[-1], f"{name}.weight")
                plan.append((name, QuantLinear(module, w)))
        elif w or a:
            for format in (w, a):
                if format:
                    format.fits(module.in_features, f"{name}.weight")
            plan.append((name, QuantTorchLinear(module, w, a)))
    foreign = any(isinstance(m, QuantTorchLinear) for _, m in plan)
    for role, format in (("activations", a), ("kv", k)):
        if format is None:
            continue
        places = list(seams(model, SEAMS[role]))
        if not places and not (role == "activations" and foreign):
            raise ConfigError(
                f"{role} cannot be quantized: this model has no {' or '.join(SEAMS[role])} (models.parts.Seam)"
            )
        for name, seam in places:
            format.fits(seam.length, name)
            plan.append((name, Quantizer(format)))
    if w and not any(isinstance(m, (QuantLinear, QuantTorchLinear)) for _, m in plan):
        raise ConfigError("weights cannot be quantized: this model has no linears besides the head")
    for name, module in plan:  # nothing is replaced before everything is known to fit
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, module)
    return model


def seams(model: nn.Module, names: tuple[str, ...]) -> Iterator[tuple[str, Seam]]:
    for name, module in model.named_modules():
        if isinstance(module, Seam) and name.rpartition(".")[2] in names:
            yield name, module


def fake_quantize(x: Tensor, quantizer: Format | Callable[[Tensor], Tensor]) -> Tensor:
    """`x` rounded to the numbers of a format: same shape and dtype, straight-through gradient.

    Raises: ConfigError if the format's groups do not divide the last axis.
    """
    if isinstance(quantizer, Format):
        quantizer.fits(x.shape[-1], "the last axis")
        quantizer = quantizer.quantizer()
    return quantizer(x)
