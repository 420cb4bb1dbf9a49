"""Other libraries' fake quantization, each as a function of a tensor, for bench_formats.py and compare_formats.py.

None of them is a dependency. A venv that has those of PyPI, and of GitHub the one that is not there:

    python -m venv peers && peers/bin/pip install -e . torchao brevitas compressed-tensors nvidia-modelopt gfloat \
        git+https://github.com/microsoft/microxcaling

What cannot be imported is named with the reason.
"""

import importlib
import importlib.metadata
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

RECIPE = " ".join((__doc__ or "").split("\n\n")[2].replace("\\", "").split())
DISTRIBUTIONS = {
    "torchao": "torchao",
    "brevitas": "brevitas",
    "compressed_tensors": "compressed-tensors",
    "modelopt": "nvidia-modelopt",
    "gfloat": "gfloat",
    "mx": "microxcaling",
}
MX = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2, "e3m2": "fp6_e3m2", "e2m3": "fp6_e2m3"}  # of torchao  # fmt: skip
INT4: Any = getattr(torch, "int4", None)  # of no stub
Quantize = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Peer:
    """What a library computes, and the format of ours that is nearest: overrides of `format@…`."""

    library: str
    what: str
    ours: str  # conf/format, then its fields
    make: Callable[[], Quantize]


def version(library: str) -> str:
    """Its version, or why it cannot be used here."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(library)
    except ImportError as error:
        return f"absent ({error})"
    try:
        return importlib.metadata.version(DISTRIBUTIONS[library])
    except importlib.metadata.PackageNotFoundError:
        return "from source"


def usable(library: str) -> bool:
    return not version(library).startswith("absent")


def torchao_mx(element: str, mode: str) -> Quantize:
    from torchao.prototype.mx_formats import mx_tensor  # type: ignore[import-not-found]

    kind = torch.float4_e2m1fn_x2 if element == "e2m1" else MX[element]
    scale = mx_tensor.ScaleCalculationMode[mode]
    return lambda x: mx_tensor.MXTensor.to_mx(x, kind, 32, scale).dequantize(torch.float32)


def torchao_nvfp4(levels: int) -> Quantize:
    from torchao.prototype.mx_formats.nvfp4_tensor import (  # type: ignore[import-not-found]
        NVFP4Tensor,
    )

    def quantize(x: Tensor) -> Tensor:
        t = x.abs().amax().float() / (448 * 6) if levels == 2 else None
        return NVFP4Tensor.to_nvfp4(x, per_tensor_scale=t).dequantize(torch.float32)

    return quantize


def torchao_int(group: int | None) -> Quantize:
    from torchao.quantization.qat import (  # type: ignore[import-not-found]
        IntxFakeQuantizeConfig,
        fake_quantizer,
    )

    where = {"group_size": group} if group else {"granularity": "per_channel"}
    return fake_quantizer.IntxFakeQuantizer(IntxFakeQuantizeConfig(INT4, **where))


def brevitas(name: str, module: str, **settings: Any) -> Quantize:
    """The quantizer of weights: they are its only input, so it is given a layer per shape."""
    import brevitas.nn as qnn  # type: ignore[import-not-found]

    kind = getattr(importlib.import_module(f"brevitas.quant.{module}"), name)
    layers: dict[tuple[int, ...], Any] = {}

    def quantize(x: Tensor) -> Tensor:
        shape = tuple(x.shape)
        if shape not in layers:
            layers[shape] = qnn.QuantLinear(shape[1], shape[0], bias=False, weight_quant=kind, **settings)  # fmt: skip
        layer = layers[shape]
        layer.weight.data = x
        with torch.no_grad():
            return layer.quant_weight().value

    return quantize


def compressed_tensors(preset: str) -> Quantize:
    from compressed_tensors.quantization import quant_scheme  # type: ignore[import-not-found]
    from compressed_tensors.quantization.lifecycle.forward import (  # type: ignore[import-not-found]
        fake_quantize,
    )
    from compressed_tensors.quantization.utils import helpers  # type: ignore[import-not-found]

    args = quant_scheme.preset_name_to_scheme(preset, ["Linear"]).weights

    def quantize(x: Tensor) -> Tensor:
        blocks = x.unflatten(-1, (-1, args.group_size))
        low, high = blocks.amin(-1), blocks.amax(-1)
        top = helpers.generate_gparam(low.amin(), high.amax()) if "NVFP4" in preset else None
        scale, zero = helpers.calculate_qparams(low, high, args, global_scale=top)
        return fake_quantize(x, scale, zero, args, global_scale=top)

    return quantize


def modelopt(name: str, group: int) -> Quantize:
    from modelopt.torch.quantization import qtensor  # type: ignore[import-not-found]

    kind = getattr(qtensor, name)

    def quantize(x: Tensor) -> Tensor:
        stored, scale, *more = kind.quantize(x.clone(), group)
        double = {"double_scale": more[0]} if more else {}
        return stored.dequantize(torch.float32, scale=scale, block_sizes={-1: group}, **double)

    return quantize


def microxcaling(element: str, round: str) -> Quantize:
    from mx.mx_ops import _quantize_mx  # type: ignore[import-not-found]

    names = {"e2m1": "fp4_e2m1", "e3m2": "fp6_e3m2", "e2m3": "fp6_e2m3", "e4m3": "fp8_e4m3", "e5m2": "fp8_e5m2", "int8": "int8"}  # fmt: skip
    return lambda x: _quantize_mx(
        x, 8, names[element], shared_exp_method="max", axes=[-1], block_size=32, round=round
    )


def gfloat(element: str) -> Quantize:
    """Values as they are, without scales."""
    import gfloat as lib  # type: ignore[import-not-found]
    from gfloat import formats  # type: ignore[import-not-found]

    kind = getattr(formats, f"format_info_ocp_{element}")

    def quantize(x: Tensor) -> Tensor:
        y = lib.round_ndarray(kind, x.double().numpy(), lib.RoundMode.TiesToEven, True)
        return torch.from_numpy(y).float()

    return quantize


PEERS = [
    *[Peer("mx", f"MX {e}, round={r}", f"mx element={e}", lambda e=e, r=r: microxcaling(e, r)) for e in ("e2m1", "e3m2", "e2m3", "e4m3", "e5m2", "int8") for r in ("even", "nearest")],
    *[Peer("torchao", f"MX {e}, {m}", f"mx element={e}", lambda e=e, m=m: torchao_mx(e, m)) for e in ("e2m1", "e4m3") for m in ("FLOOR", "EVEN", "CEIL", "RCEIL")],
    Peer("torchao", "NVFP4", "nvfp4", lambda: torchao_nvfp4(2)),
    Peer("torchao", "NVFP4, block scales alone", "nvfp4 outer=none", lambda: torchao_nvfp4(1)),
    Peer("torchao", "int4 per row", "int4", lambda: torchao_int(None)),
    Peer("brevitas", "MX e4m3", "mx element=e4m3", lambda: brevitas("MXFloat8e4m3Weight", "mx_quant_ocp")),
    Peer("brevitas", "MX int8", "mx element=int8", lambda: brevitas("MXInt8Weight", "mx_quant_ocp")),
    Peer("brevitas", "int4 per row", "int4", lambda: brevitas("Int8WeightPerChannelFloat", "scaled_int", weight_bit_width=4)),
    Peer("compressed_tensors", "MXFP4", "mx element=e2m1", lambda: compressed_tensors("MXFP4A16")),
    Peer("compressed_tensors", "MXFP8", "mx element=e4m3", lambda: compressed_tensors("MXFP8A16")),
    Peer("compressed_tensors", "NVFP4", "nvfp4", lambda: compressed_tensors("NVFP4A16")),
    Peer("modelopt", "MXFP4", "mx element=e2m1", lambda: modelopt("MXFP4QTensor", 32)),
    Peer("modelopt", "NVFP4", "nvfp4", lambda: modelopt("NVFP4QTensor", 16)),
]  # fmt: skip
