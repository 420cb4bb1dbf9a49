"""What other libraries mean by the same name: where their values differ from ours, and the rule that says why.

    python benchmarks/compare_formats.py [--json]       a venv with the libraries: benchmarks/quant_peers.py

Every library quantizes 192 x 128 values: normal ones of many sizes, ties, outliers, blocks of zeros and tiny
ones. A row of the table is explained if its rule, written with our kernels, gives the library's values in every
bit (signs of zeros aside); the script exits with 1 if one is not, so that a new version of a library is noticed.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from quant_peers import DISTRIBUTIONS, PEERS, RECIPE, Peer, usable, version
from torch import Tensor

from precisionlaws.config import build
from precisionlaws.kernels import blocks, numbers, reference
from precisionlaws.kernels.numbers import Type
from precisionlaws.overrides import option
from precisionlaws.quant import fake_quantize
from precisionlaws.quant.formats.base import Format
from precisionlaws.quant.formats.mx import ELEMENTS

Scale = Callable[[Tensor, Type], Tensor]  # (largest magnitude of each block, element) -> X
Rule = tuple[str, Callable[[Tensor], Tensor]]
SAME = "as ours"
TINY = slice(160, 168)


def data() -> Tensor:
    """(192, 128)"""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(192, 128, generator=generator)
    x[:96] *= 2.0 ** torch.randint(-10, 10, (96, 1), generator=generator)
    x[96:128] = torch.randint(-32, 33, (32, 128), generator=generator) / 8.0  # ties
    x[128:144, ::40] *= 300  # outliers: the block scales of the rest are small
    x[144:152, :64] = 0
    x[152:160] *= 1e-9
    x[TINY] *= (
        2.0**-125
    )  # scales near the least of fp32, where every library has a floor of its own
    x[168:176] *= 1e-4
    return x


def ours(text: str) -> Format:
    """A format by its name in conf/format and its fields: "mx element=e2m1"."""
    name, *fields = text.split()
    spec = build(option("format", "mxfp8" if name == "mx" else name) | dict(f.split("=") for f in fields), Format)  # fmt: skip
    assert isinstance(spec, Format)
    return spec


def element(name: str) -> Type:
    return (6, 0, 127 / 64) if name == "int8" else numbers.float_type(*ELEMENTS[name])


def top_exponent(kind: Type) -> int:
    """Of the largest number of the element."""
    return int(torch.tensor(kind[2]).log2().floor())


def floor_rule(most: Tensor, kind: Type) -> Tensor:
    return blocks._mx_scales(most, kind[2])


def rounded_first(mantissa: int) -> Scale:
    """The largest magnitude rounded half up to so many mantissa bits, then floor."""

    def rule(most: Tensor, kind: Type) -> Tensor:
        up = (most.view(torch.int32) + (1 << 22 - mantissa)).view(torch.float32)
        return floor_rule(up, kind).clamp(min=2.0**-126)

    return rule


def ceil_rule(most: Tensor, kind: Type) -> Tensor:
    """2^(ceil(log2 max) - top exponent)"""
    power = numbers.power_below(most)
    up = torch.where(most > power, 2 * power, power)
    return (up * 2.0 ** -top_exponent(kind)).clamp(min=2.0**-126)


def fits_rule(least: float) -> Scale:
    """The least power of two under which nothing is clipped."""

    def rule(most: Tensor, kind: Type) -> Tensor:
        s = most / kind[2]
        power = numbers.power_below(s)
        return torch.where(s > power, 2 * power, power).clamp(min=least)

    return rule


def mx(name: str, scale: Scale, ties: str = "even") -> Callable[[Tensor], Tensor]:
    kind = element(name)

    def quantize(x: Tensor) -> Tensor:
        blocked = x.unflatten(-1, (-1, 32))
        s = scale(reference.most_of(blocked.abs()), kind)
        v = blocked / s
        return (rounding(v, kind, ties) * s).view(x.shape)

    return quantize


def rounding(v: Tensor, kind: Type, ties: str) -> Tensor:
    """Ties to even, away from zero, or towards it."""
    if ties == "even":
        return numbers.nearest(v, *kind)
    below = numbers.stochastic(v, torch.zeros_like(v), *kind)  # truncated
    away = numbers.stochastic(v, torch.full_like(v, 0.5), *kind)
    clipped = v.clamp(-kind[2], kind[2])
    tie = (away - clipped).abs() == (clipped - below).abs()
    return torch.where(tie & (ties == "zero"), below, away)


def int_of_torchao(x: Tensor) -> Tensor:
    s = x.abs().amax(-1, keepdim=True) / 7.5
    return (x * (1.0 / s)).round().clamp(-8, 7) * s


def mx_int8_of_brevitas(x: Tensor) -> Tensor:
    blocked = x.unflatten(-1, (-1, 32))
    power = numbers.power_below(reference.most_of(blocked.abs()))
    s = (power / 128).clamp(min=1e-30)
    return ((blocked / s).round().clamp(-128, 127) * s).view(x.shape)


def nvfp4_divided(x: Tensor) -> Tensor:
    """With g = 2688 / max, b = E4M3(g max|block| / 6): x over b / g."""
    blocked = x.unflatten(-1, (-1, 16))
    g = torch.tensor(448.0 * 6) / x.abs().amax()
    b = numbers.nearest(reference.most_of(blocked.abs()) / 6 * g, *blocks.E4M3)
    d = torch.where(b == 0, 0.125, b) / g
    return (numbers.nearest(blocked / d, *blocks.E2M1) * d).view(x.shape)


def nvfp4_least(x: Tensor) -> Tensor:
    """Block scales of at least 2^-9, the least number of E4M3."""
    t = blocks.nvfp4_outer(x, None)
    b = reference.absmax(x, 16) / (6 * t)
    b = numbers.nearest(torch.where(b == 0, 1.0, b).clamp(min=2.0**-9), *blocks.E4M3)
    return blocks.nvfp4_rounded(x, b, t, 16, False)


def format_rule(text: str) -> Callable[[Tensor], Tensor]:
    return lambda x: fake_quantize(x, ours(text))


def rule_of(peer: Peer) -> Rule:
    """Why it differs, and the same in our terms."""
    name = peer.what.split(",")[0].removeprefix("MX ")
    match peer.library, peer.what.rpartition(", ")[2]:
        case "mx", "round=even":
            return SAME, mx(name, floor_rule)
        case "mx", "round=nearest":
            return "ties away from zero (its default)", mx(name, floor_rule, "away")
        case "torchao", "FLOOR":
            return SAME, mx(name, floor_rule)
        case "torchao", "EVEN":
            return "max rounded to the element's mantissa first", mx(name, rounded_first(element(name)[0]))  # fmt: skip
        case "torchao", "CEIL":
            return "exponent of max rounded up: one octave too wide", mx(name, ceil_rule)
        case "torchao", "RCEIL":
            return "max / largest rounded up to a power of two: nothing is clipped", mx(name, fits_rule(2.0**-126))  # fmt: skip
        case "torchao", "NVFP4":
            return "block scales of at least 2^-6, x times a reciprocal: ours by scale=torchao", format_rule("nvfp4 scale=torchao")  # fmt: skip
        case "torchao", "block scales alone":
            return "the same: ours by scale=torchao", format_rule("nvfp4 outer=none scale=torchao")
        case "torchao", "int4 per row":
            return "s = max / 7.5 with codes -8 to 7: the top is clipped; x times a reciprocal", int_of_torchao  # fmt: skip
        case "brevitas", "MX int8":
            return "8 bits below the power of two of max: values above it are clipped", mx_int8_of_brevitas  # fmt: skip
        case "compressed_tensors", "MXFP4":
            return "max rounded to the element's mantissa first", mx("e2m1", rounded_first(1))
        case "compressed_tensors", "MXFP8":
            return "max rounded to 1 mantissa bit first, as for FP4", mx("e4m3", rounded_first(1))
        case "compressed_tensors", "NVFP4":
            return (
                "x over b / (1 / t) instead of b t: the last bits of the scales differ",
                nvfp4_divided,
            )
        case "modelopt", "NVFP4":
            return "block scales of at least 2^-9, where ours round to 0", nvfp4_least
        case "modelopt", "MXFP4":
            return "nothing is clipped, as RCEIL; ties towards zero", mx("e2m1", fits_rule(2.0**-127), "zero")  # fmt: skip
        case _:
            return SAME, format_rule(peer.ours)


def same(a: Tensor, b: Tensor) -> Tensor:
    return (a == b) | (a.isnan() & b.isnan())


def compared(peer: Peer, x: Tensor) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peer.make()(x.clone())
    mine, (why, rule) = fake_quantize(x, ours(peer.ours)), rule_of(peer)
    left, differs = ~same(theirs, rule(x)), ~same(theirs, mine)
    tiny = int(differs[TINY].sum())
    left[TINY] = differs[TINY] = False
    body = slice(0, 128)  # what is not meant to be hard
    return {
        "library": peer.library, "what": peer.what, "ours": peer.ours, "values": x.numel(),
        "differ": int(differs.sum()), "tiny": tiny, "rule": why, "unexplained": int(left.sum()),
        "error": float((theirs - x)[body].norm() / x[body].norm()), "our_error": float((mine - x)[body].norm() / x[body].norm()),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    versions = {library: version(library) for library in DISTRIBUTIONS}
    x = data()
    rows = [compared(p, x) for p in PEERS if usable(p.library)]
    if options.json:
        print(json.dumps({"libraries": versions, "rows": rows}, indent=1))
        sys.exit(any(r["unexplained"] for r in rows))
    for library, said in versions.items():
        print(f"{library:20} {said}")
    if any(said.startswith("absent") for said in versions.values()):
        print(f"\nabsent libraries are not compared; all of them:\n    {RECIPE}")
    print(f"\n{'library':20}{'format':27}{'nearest of ours':19}{'differ':>7}{'left':>5}{'tiny':>5}{'error':>7}{'ours':>7}  rule")  # fmt: skip
    for r in rows:
        print(f"{r['library']:20}{r['what']:27}{r['ours']:19}{r['differ']:7d}{r['unexplained']:5d}{r['tiny']:5d}{r['error']:7.4f}{r['our_error']:7.4f}  {r['rule']}")  # fmt: skip
    print(
        f"\ndiffer: of {x.numel() - 1024} values; left: of those, what the rule does not explain; tiny: differing of 1024 values near "
        "2^-126,\nwhere scales have floors (torchao divides by 2^-126 where it stores 2^-127, brevitas and its integers have an "
        "epsilon; ours has none);\nerror: relative, of rows without extremes, theirs and ours"
    )
    sys.exit(any(r["unexplained"] for r in rows))


if __name__ == "__main__":
    main()
