"""Quantized training steps beside unquantized ones on a GPU, and the share of its peak that they reach.

    python benchmarks/bench_train_gpu.py [--rounds 15] [--tokens 65536] [--compile] [--peak TFLOPS]

Llama in bfloat16, context 1024, the trainer's own loop with its batches, schedule and log; bytes, so that no large
head hides what quantization costs. Steps are interleaved and timed on the wall, the device waited for; ratios are
medians over rounds. MFU counts model FLOPs (models/count.py) over the peak of the data sheet, dense bf16. Beside it
the share of what a product of 8192² matrices reaches in the same run, which is known on every GPU.
Claims: at widths of 1024 and more, a step with 8-bit weights takes <= 1.02x the time of the unquantized one,
with 8-bit weights and activations <= 1.10x. Of N = 20M the MFU is printed, quantized and not. Exit code 2
without a GPU.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from precisionlaws.config import ConfigError
from precisionlaws.costs import H100_PEAK
from precisionlaws.models.count import training_flops
from precisionlaws.run import compose
from precisionlaws.training.loop import batches_of
from precisionlaws.training.speed import Job
from precisionlaws.training.state import fresh

WEIGHTS, ACTIVATIONS, KV = (f"quant.{r}.bits=8" for r in ("weights", "activations", "kv"))
WAYS = {
    "16 bits": [],
    "w8": [WEIGHTS],
    "w8 a8": [WEIGHTS, ACTIVATIONS],
    "w8 a8 kv8": [WEIGHTS, ACTIVATIONS, KV],
}
GOALS = {"w8": 1.02, "w8 a8": 1.10}  # of the unquantized step's time
WIDE = 1024  # from here on they are claimed
SIZES = {  # depth, width, heads
    "N = 20M": (6, 512, 8),
    "width 1024": (8, 1024, 8),
    "width 2048": (4, 2048, 16),
}
COMMON = ["model=llama", "data.context=1024", "dtype=bfloat16"]
SECONDS = 0.5  # of a turn
PEAKS = {  # dense bf16 by data sheet, FLOP/s; the first name that is part of the device's
    "H100 PCIe": 756e12, "H100": H100_PEAK, "H200": H100_PEAK, "A100": 312e12, "L40S": 362e12,
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One way of training a size: medians over rounds."""

    way: str
    seconds: float  # per step
    ratio: float  # of the unquantized step's time
    flops: float  # per second


def jobs(
    shape: tuple[int, int, int], tokens: int, common: Sequence[str], device: str, compile: bool
) -> dict[str, Job]:
    depth, width, heads = shape
    size = [f"size.depth={depth}", f"size.width={width}", f"size.heads={heads}"]
    made = {}
    for way, overrides in WAYS.items():
        run = compose([*size, f"batch_tokens={tokens}", "tokens=100G", *common, *overrides])
        made[way] = Job(run, fresh(run, device, compile), batches_of(run))
    return made


def seconds(steps: Callable[[int], None], count: int, device: str) -> float:
    """Wall-clock time of a step, until the device has done it."""
    wait(device)
    start = time.perf_counter()
    steps(count)
    wait(device)
    return (time.perf_counter() - start) / count


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def compare(contestants: Mapping[str, Job], rounds: int, device: str) -> list[Row]:
    """All ways in turn, round by round."""
    for job in contestants.values():
        job.steps(3)  # compiles kernels, fills caches
    first = next(iter(contestants))
    count = 1 + int(SECONDS / seconds(contestants[first].steps, 2, device))
    taken = [{n: seconds(j.steps, count, device) for n, j in contestants.items()} for _ in range(rounds)]  # fmt: skip
    rows = []
    for name, job in contestants.items():
        run, median = job.run, statistics.median(t[name] for t in taken)
        flops = training_flops(run.model, run.size, run.data.vocab, run.data.context, run.batch)
        ratio = statistics.median(t[name] / t[first] for t in taken)
        rows.append(Row(name, median, ratio, flops / median))
    return rows


def product_flops(device: str, n: int = 8192, rounds: int = 15) -> float:
    """What a product of square bf16 matrices reaches, FLOP/s."""
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))

    def products(count: int) -> None:
        for _ in range(count):
            a @ b

    products(2)
    return 2 * n**3 / statistics.median(seconds(products, 5, device) for _ in range(rounds))


def lines(rows: Sequence[Row], tokens: int, wide: bool, peak: float | None, product: float) -> list[str]:  # fmt: skip
    out = []
    for row in rows:
        mfu = "      -" if peak is None else f"{row.flops / peak:7.1%}"
        line = (
            f"  {row.way:10} {row.seconds * 1e3:9.2f} ms {tokens / row.seconds:12,.0f} tokens/s  MFU {mfu}  "
            f"of a product {row.flops / product:6.1%}  {row.ratio:.3f}x the time"
        )
        if wide and (goal := GOALS.get(row.way)):
            line += f", goal <= {goal:.2f}x: {'met' if row.ratio <= goal else 'MISSED'}"
        out.append(line)
    return out


def measure(
    sizes: Mapping[str, tuple[int, int, int]],
    rounds: int,
    tokens: int,
    compile: bool,
    peak: float | None,
    device: str = "cuda",
    common: Sequence[str] = COMMON,
    n: int = 8192,
) -> None:
    """`device`, `common` and `n` of the product: a machine without a GPU can try the loop at a tiny size."""
    product = product_flops(device, n)
    print(f"bf16 product of {n}²: {product / 1e12:,.3g} TFLOP/s; peak by data sheet: "
          f"{'unknown, give --peak' if peak is None else f'{peak / 1e12:,.0f} TFLOP/s'}")  # fmt: skip
    for name, shape in sizes.items():
        contestants = jobs(shape, tokens, common, device, compile)
        run = next(iter(contestants.values())).run
        print(f"\n{name}: depth {shape[0]}, width {shape[1]}, N = {run.N:,}; {run.batch:,} tokens a step")  # fmt: skip
        rows = compare(contestants, rounds, device)
        print("\n".join(lines(rows, run.batch, shape[1] >= WIDE, peak, product)), flush=True)


def at_least_one(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def sequences(text: str) -> int:
    if (value := at_least_one(text)) % 1024:
        raise argparse.ArgumentTypeError(f"must be a multiple of the context, 1024, got {value}")
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=at_least_one, default=15)
    parser.add_argument("--tokens", type=sequences, default=65536, help="a step")
    parser.add_argument("--compile", action="store_true", help="all ways with exec.compile=true")
    parser.add_argument("--peak", type=float, help="TFLOP/s of dense bf16, by the data sheet")
    options = parser.parse_args()
    if options.peak is not None and not options.peak > 0:
        parser.error(f"--peak must be above 0, got {options.peak:g}")
    if not torch.cuda.is_available():
        print("no GPU here: torch.cuda.is_available() is False; nothing was measured", file=sys.stderr)  # fmt: skip
        sys.exit(2)
    device = torch.cuda.get_device_name()
    print(f"{device}, torch {torch.__version__}")
    known = next((p for name, p in PEAKS.items() if name in device), None)
    peak = options.peak * 1e12 if options.peak else known
    try:
        measure(SIZES, options.rounds, options.tokens, options.compile, peak)
    except ConfigError as error:  # no compiler
        parser.error(str(error))


if __name__ == "__main__":
    main()
