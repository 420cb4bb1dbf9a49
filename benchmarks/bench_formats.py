"""How fast every format is on a CPU, eager and compiled, beside a copy and beside other libraries, in one run.

    python benchmarks/bench_formats.py [--size 4096] [--compiled none|all|int4,fp8] [--json]

The floor is `clone`: it, too, writes to fresh pages. The claims, at 4096² fp32 with a scale per row (a block in
MX and NVFP4): eager at most 3 times a clone, whatever the format; integers compiled at most 1.4 times. Rounding
is to nearest under the format's own scale rule; stochastic rounding and a searched scale are shown apart.

Calls alternate and their medians are compared, of CPU time (all threads), which a busy machine disturbs least, and
of wall time. Peers are torch's own operator and the libraries of quant_peers.py; what is absent is named.
"""

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from quant_peers import DISTRIBUTIONS, PEERS, RECIPE, usable, version
from torch import Tensor

from precisionlaws.config import build
from precisionlaws.overrides import option
from precisionlaws.quant.formats.base import Format
from precisionlaws.training.compiler import lacking

GOAL_EAGER, GOAL_COMPILED = 3.0, 1.4
FORMATS = [
    "int4", "int8", "int_asym bits=4", "ternary", "int2", "quest", "fp4", "fp6", "fp8", "fp8_e5m2", "mxfp4", "mxfp6",
    "mxfp8", "mxint8", "nvfp4", "nvfp4 outer=row", "nvfp4 scale=torchao",
]  # fmt: skip
APART = ["int4 granularity=group", "int4 granularity=tensor", "int4 scale=mse", "int4 rounding=stochastic", "mxfp4 rounding=stochastic"]  # fmt: skip
SHOWN = ("int4 per row", "MX e2m1, FLOOR", "MX e4m3, FLOOR", "NVFP4", "MX e4m3", "MXFP4", "MX e2m1, round=even")  # fmt: skip
Call = Callable[[Tensor], Tensor]


def ours(text: str) -> Call:
    """The quantizer of a format by its name in conf/format and its fields."""
    name, *fields = text.split()
    node = option("format", name) | {
        k: int(v) if v.isdigit() else v for k, v in (f.split("=") for f in fields)
    }
    spec = build(node, Format)
    assert isinstance(spec, Format)
    quantize = spec.quantizer()
    if "stochastic" in text:  # which is for training: without a gradient, it rounds to nearest
        return lambda x: quantize(x.detach().requires_grad_()).detach()
    return quantize


def torch_row(x: Tensor) -> Tensor:
    s = x.abs().amax(1) / 7
    zeros = torch.zeros(len(x), dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(x, s, zeros, 0, -7, 7)


def peers() -> dict[str, Call]:
    out: dict[str, Call] = {"torch.fake_quantize int4 per row, with absmax": torch_row}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for p in PEERS:
            if p.what in SHOWN and usable(p.library):
                out[f"{p.library} {p.what}"] = p.make()
    return out


def measured(calls: dict[str, Call], x: Tensor, rounds: int) -> dict[str, dict[str, float]]:
    """Medians of CPU and wall time, ms; the first round warms up."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(rounds + 1):
            for name, call in calls.items():
                cpu, wall = time.process_time(), time.perf_counter()
                call(x)
                taken[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    medians = {n: [statistics.median(t) * 1e3 for t in zip(*v[1:], strict=True)] for n, v in taken.items()}  # fmt: skip
    floor = medians["clone"]
    return {
        n: {"cpu_ms": c, "wall_ms": w, "cpu_of_clone": c / floor[0], "wall_of_clone": w / floor[1]}
        for n, (c, w) in medians.items()
    }


def compiled(names: list[str]) -> tuple[dict[str, Call], dict[str, int]]:
    """Compiled quantizers, and in how many of 64 x 512 values each differs from eager mode."""
    calls, differ = {}, {}
    x = torch.randn(64, 512, generator=torch.Generator().manual_seed(1))
    for name in names:
        torch._dynamo.reset()
        quantize = ours(name)
        calls[f"{name}, compiled"] = torch.compile(quantize, fullgraph=True, dynamic=False)
        print(f"compiling {name} ...", file=sys.stderr)
        differ[name] = int((calls[f"{name}, compiled"](x) != quantize(x)).sum())
    return calls, differ


def chosen(text: str) -> list[str]:
    if text == "none":
        return []
    names = FORMATS if text == "all" else text.split(",")
    if names and (missing := lacking("cpu")):
        sys.exit(f"error: compiling needs {missing}; measure without by --compiled none")
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", type=int, default=4096, help="of the square tensor")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="of torch; 1 is what a run has")
    parser.add_argument("--compiled", default="int4", help="none, all, or formats with commas")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    x = torch.randn(options.size, options.size)
    compiled_calls, differ = compiled(chosen(options.compiled))
    groups: dict[str, dict[str, Call]] = {
        "eager": {name: ours(name) for name in FORMATS},
        "compiled": compiled_calls,
        "other rules": {name: ours(name) for name in APART},
        "peers": peers(),
    }
    calls: dict[str, Call] = {"clone": torch.clone}
    times = measured(calls | {n: c for g in groups.values() for n, c in g.items()}, x, options.rounds)  # fmt: skip
    worst = max(FORMATS, key=lambda n: times[n]["cpu_of_clone"])
    ints = [n for n in compiled_calls if n.startswith(("int4", "int8"))]
    result: dict[str, Any] = {
        "size": options.size, "threads": options.threads, "torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability(),
        "libraries": {name: version(name) for name in DISTRIBUTIONS}, "times": times, "compiled_differs": differ,
        "worst_eager": {worst: times[worst]["cpu_of_clone"]},
        "eager_met": times[worst]["cpu_of_clone"] <= GOAL_EAGER,
        "compiled_met": all(times[n]["cpu_of_clone"] <= GOAL_COMPILED for n in ints) if ints else None,
    }  # fmt: skip
    if options.json:
        print(json.dumps(result, indent=1))
        return
    print(f"{options.size}² fp32, {options.threads} thread(s), torch {torch.__version__}, {result['cpu']}")  # fmt: skip
    print(f"{'':46}{'CPU ms':>9}{'x clone':>9}{'wall ms':>9}{'x clone':>9}")
    for title, names in (("", ["clone"]), *((t, list(g)) for t, g in groups.items())):
        print(*([title] if title and names else []), sep="\n", end="\n" if title and names else "")
        for n in names:
            t = times[n]
            note = f"  {differ[n.removesuffix(', compiled')]} of 32,768 values are not those of eager mode" if title == "compiled" else ""  # fmt: skip
            print(f"  {n:44}{t['cpu_ms']:9.1f}{t['cpu_of_clone']:9.2f}{t['wall_ms']:9.1f}{t['wall_of_clone']:9.2f}{note}")  # fmt: skip
    for library, said in result["libraries"].items():
        print(f"{library} {said}")
    if any(said.startswith("absent") for said in result["libraries"].values()):
        print(f"absent libraries were not measured; all of them:\n    {RECIPE}")
    print(f"eager at most {GOAL_EAGER:g} times a clone: {result['eager_met']} (most: {worst})")
    if ints:
        print(f"integers compiled at most {GOAL_COMPILED:g} times: {result['compiled_met']}")


if __name__ == "__main__":
    main()
