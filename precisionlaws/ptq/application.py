"""PTQ of a matrix by name, and of a whole model."""

import functools
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from torch import Tensor, nn

from precisionlaws.config import ConfigError, build, nearest
from precisionlaws.models.parts import linears
from precisionlaws.ptq.base import Bits, Ptq, Quantized, mean_bits
from precisionlaws.ptq.calibration import Calibration
from precisionlaws.ptq.matrices import generator

CONF = Path(__file__).resolve().parent.parent / "conf" / "ptq"


def method_of(name: str, **options: Any) -> Ptq:
    """The method of `conf/ptq/<name>.yaml`, with some of its options replaced.

    Raises: ConfigError naming the nearest method or option.
    """
    known = sorted(p.stem for p in CONF.glob("*.yaml"))
    if name not in known:
        raise ConfigError(
            f"method {name!r} is unknown{nearest(name, known)} (has {', '.join(known)})"
        )
    return cast(Ptq, build(node_of(name) | options, Ptq))


@functools.cache
def node_of(name: str) -> dict[str, Any]:
    return yaml.safe_load((CONF / f"{name}.yaml").read_text())


@torch.no_grad()
def apply(
    method: str,
    W: Tensor,
    H: Tensor | None = None,
    *,
    bits: int | None = None,
    seed: int = 0,
    **options: Any,
) -> Quantized:
    """Quantize one matrix W (out, in). seed: of methods that draw.

    H (in, in): mean of x xᵀ over calibration tokens, for methods that look at inputs.
    bits: nominal bits per weight (None: the method's own, for those with a fixed width).
    Raises: ConfigError for an unknown method or option, or a shape that the method cannot take.
    """
    if bits is not None:
        options["bits"] = bits
    spec = method_of(method, **options)
    check(spec, W, H)
    return spec.quantize(W, H, generator(seed))


def check(spec: Ptq, W: Tensor, H: Tensor | None, name: str = "the matrix") -> None:
    if W.dim() != 2:
        raise ConfigError(f"{name} must have two axes (out, in), got {tuple(W.shape)}")
    spec.check(W.shape, name)
    if H is None and spec.needs_hessian:
        raise ConfigError(f"{spec.SHORT} looks at inputs: give H (in, in), the mean of x xᵀ")
    if H is not None and tuple(H.shape) != (W.shape[1], W.shape[1]):
        raise ConfigError(f"H must be {W.shape[1]} x {W.shape[1]} for {name}, got {tuple(H.shape)}")
    if not torch.isfinite(W).all():
        raise ConfigError(f"{name} has values that are not finite")
    if H is not None:
        check_hessian(H, name)


def check_hessian(H: Tensor, name: str) -> None:
    """A mean of x xᵀ is finite and symmetric and has no negative diagonal."""
    # H v against Hᵀ v for a random v: every entry counts, and large H are read only twice.
    v = torch.randn(len(H), generator=torch.Generator().manual_seed(0)).to(H)
    right, left = H @ v, H.mT @ v
    if not torch.isfinite(right).all():
        raise ConfigError(f"H of {name} must be finite")
    if H.diagonal().min() < 0:
        raise ConfigError(f"H of {name} must have a diagonal of squares, got a negative number")
    if (right - left).norm() > 1e-3 * len(H) * H.diagonal().max():
        raise ConfigError(f"H of {name} must be symmetric")


@torch.no_grad()
def quantize_model(
    model: nn.Module, spec: Ptq, seed: int = 0, calibration: Calibration | None = None
) -> dict[str, Quantized]:
    """Replace the block matrices of `model` in place, never the embedding or the head.

    Returns name of linear -> Quantized. Raises: ConfigError before any matrix is touched.
    """
    calibration = calibration if spec.needs_hessian else None
    inputs = calibration.hessians if calibration else {}
    for name, linear in linears(model):
        check(spec, linear.weight, inputs.get(name), name)
    out = spec.quantize_model(model, calibration, seed)
    return {n: warned(q, calibration, inputs.get(n)) for n, q in out.items()}


def warned(q: Quantized, calibration: Calibration | None, H: Tensor | None) -> Quantized:
    """With a warning if its H cannot say much."""
    if calibration is None or H is None:
        return q
    if not H.diagonal().any():
        said = "its inputs were 0 for all calibration tokens"
    elif calibration.tokens < len(H):
        said = f"{calibration.tokens} calibration tokens cannot tell its {len(H)} inputs apart"
    else:
        return q
    return replace(q, info={**q.info, "warning": said})


def model_info(quantized: Mapping[str, Quantized]) -> dict[str, float]:
    """What methods say about their matrices, over all of them: means, the most damping, and in how many
    matrices a method warns."""
    infos = [q.info for q in quantized.values()]
    out: dict[str, float] = {}
    for key in sorted(
        {k for info in infos for k, v in info.items() if isinstance(v, (int, float))}
    ):
        values = [info[key] for info in infos if key in info]
        out[key] = max(values) if key == "damping" else sum(values) / len(values)
    if out:
        out["warnings"] = sum("warning" in info for info in infos)
    return out


def model_bits(quantized: Mapping[str, Quantized]) -> Bits:
    """Nominal and effective bits per weight over all matrices, each weighted by its weights."""
    sizes = {k: math.prod(q.weight.shape) for k, q in quantized.items()}
    return mean_bits({k: q.bits for k, q in quantized.items()}, sizes)
