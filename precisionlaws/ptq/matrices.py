"""PTQ of a model matrix by matrix, each from its own H and its own random numbers."""

import hashlib
from typing import TYPE_CHECKING

import torch
from torch import nn

from precisionlaws.config import ConfigError
from precisionlaws.models.parts import linears
from precisionlaws.ptq.base import Ptq, Quantized

if TYPE_CHECKING:
    from precisionlaws.ptq.calibration import Calibration


def generator(seed: int, name: str = "") -> torch.Generator:
    """The random numbers of the matrix `name`: a function of both, whatever else is quantized."""
    digest = hashlib.sha256(f"ptq/{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def one_by_one(
    spec: Ptq, model: nn.Module, calibration: "Calibration | None", seed: int
) -> dict[str, Quantized]:
    """Nothing is replaced before every matrix is done. Raises: ConfigError naming the matrix."""
    found = dict(linears(model))
    inputs = calibration.hessians if calibration and spec.needs_hessian else {}
    out: dict[str, Quantized] = {}
    for name, linear in found.items():
        try:
            out[name] = spec.quantize(
                linear.weight.detach(), inputs.get(name), generator(seed, name)
            )
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from None
    for name, linear in found.items():
        linear.weight.copy_(out[name].weight)  # bumps the version that weight caches look at
    return out
