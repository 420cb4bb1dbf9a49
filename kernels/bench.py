"""How fast fake quantization is on this machine, each time beside a copy of the same tensor.

The copy is measured in the same run, alternating, so that their ratio means the same on a busy or a
throttled machine. Bytes are those that the algorithm must move: a read and a write, and a second read
for a scale of the whole tensor. On a GPU the L2 cache is emptied before every call.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from precisionlaws.kernels import backend, numbers, ops, reference

E4M3, E2M1 = numbers.float_type(4, 3, "nan"), numbers.float_type(2, 1, "none")
FLUSH = 512 * 2**20  # bytes: over any L2, and long enough to hide the launch that follows


Call = Callable[[], Any]


def kinds(x: Tensor, bits: int) -> dict[str, tuple[int, int, Call]]:
    """What is measured: bits, passes over memory (a third for a scale of the whole tensor), and the call."""
    q_max, n = reference.q_max_of(bits), x.shape[-1]
    return {
        "int row": (bits, 2, lambda: ops.fake_quantize(x, q_max, n)),
        "int group 128": (bits, 2, lambda: ops.fake_quantize(x, q_max, 128)),
        "int group 16": (bits, 2, lambda: ops.fake_quantize(x, q_max, 16)),
        "int tensor": (bits, 3, lambda: ops.fake_quantize(x, q_max, None)),
        "int zero point": (bits, 2, lambda: ops.asymmetric(x, 2**bits - 1, n)),
        "fp8 row": (8, 2, lambda: ops.to_type(x, *E4M3, n)),
        "mxfp4": (4, 2, lambda: ops.mx(x, *E2M1, 32)),
        "mxfp8": (8, 2, lambda: ops.mx(x, *E4M3, 32)),
        "nvfp4": (4, 3, lambda: ops.nvfp4(x, 16, None, False)),
        "nvfp4 row": (4, 2, lambda: ops.nvfp4(x, 16, n, False)),
        "hadamard 128": (16, 2, lambda: ops.rotated(x, 128)),
    }


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One call beside its peers; times are medians."""

    what: str
    backend: str
    dtype: str
    size: int  # of a square tensor
    bits: int
    ms: float
    copy_ms: float  # a copy of the tensor: one read, one write
    gb_s: float
    of_copy: float  # GB/s over those of the copy
    of_peak: float | None  # GB/s over the memory's nominal bandwidth, where it is known


def gpu(
    sizes: tuple[int, ...] = (8192,),
    dtypes: tuple[torch.dtype, ...] = (torch.bfloat16,),
    bits: tuple[int, ...] = (4,),
    rounds: int = 30,
) -> Iterator[Timing]:
    """Raises: RuntimeError where there is no GPU."""
    if not torch.cuda.is_available():
        raise RuntimeError("torch sees no GPU here; only the CPU can be measured")
    flush = torch.empty(FLUSH, dtype=torch.int8, device="cuda")
    for size in sizes:
        for dtype in dtypes:
            x = torch.randn(size, size, device="cuda", dtype=dtype)
            for b in bits:
                yield from _timings(x, b, lambda calls: gpu_ms(calls, flush, rounds), peak())


def cpu(size: int = 1024, bits: int = 4, rounds: int = 15) -> Iterator[Timing]:
    x = torch.randn(size, size)
    yield from _timings(x, bits, lambda calls: cpu_ms(calls, rounds), None)


def _timings(
    x: Tensor, bits: int, milliseconds: Callable[[list[Call]], list[float]], peak: float | None
) -> Iterator[Timing]:
    for name, (width, passes, call) in kinds(x, bits).items():
        # clone allocates what it returns, as the kernels do
        copy_ms, ms = milliseconds([x.clone, call])
        once = x.numel() * x.element_size() / 1e6  # GB/s per ms
        gb_s, copy_gb_s = passes * once / ms, 2 * once / copy_ms
        yield Timing(
            what=name,
            backend=backend(x.device),
            dtype=str(x.dtype).removeprefix("torch."),
            size=x.shape[0],
            bits=width,
            ms=ms,
            copy_ms=copy_ms,
            gb_s=gb_s,
            of_copy=gb_s / copy_gb_s,
            of_peak=gb_s / peak if peak else None,
        )


def gpu_ms(calls: list[Call], flush: Tensor, rounds: int) -> list[float]:
    """Median time of each call on the device, the cache emptied before it; calls alternate."""
    for call in calls:
        call()  # compiles
    spans: list[list[tuple[torch.cuda.Event, torch.cuda.Event]]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, span in zip(calls, spans, strict=True):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            flush.zero_()
            start.record()
            call()
            end.record()
            span.append((start, end))
    torch.cuda.synchronize()
    return [statistics.median(a.elapsed_time(b) for a, b in span) for span in spans]


def cpu_ms(calls: list[Call], rounds: int) -> list[float]:
    """Median wall time of each call; calls alternate."""
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds + 1):
        for call, taken in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken[1:]) * 1e3 for taken in seconds]  # the first one warms up


def peak() -> float | None:
    """Nominal memory bandwidth of the current GPU, GB/s; None without triton, which knows it."""
    try:
        from triton.testing import get_dram_gbps
    except ImportError:
        return None
    return float(get_dram_gbps(torch.cuda.current_device()))


def lines(timings: list[Timing]) -> Iterator[str]:
    """A table for people."""
    head = (
        "what            backend  dtype      size  bits       ms  copy ms    GB/s  of copy  of peak"
    )
    yield head
    for t in timings:
        of_peak = "-" if t.of_peak is None else f"{t.of_peak:.0%}"
        yield (
            f"{t.what:14}  {t.backend:7}  {t.dtype:8} {t.size:6d} {t.bits:5d} {t.ms:8.3f} "
            f"{t.copy_ms:8.3f} {t.gb_s:7.0f} {t.of_copy:8.0%} {of_peak:>8}"
        )


def machine() -> dict[str, Any]:
    """Where the numbers are from."""
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
    else:
        name = f"CPU, {torch.backends.cpu.get_cpu_capability()}"
    return {"machine": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def here() -> list[Timing]:
    """A short measurement of what this machine would train on: its GPU, else its CPU."""
    return list(gpu() if torch.cuda.is_available() else cpu())


def as_dict(timings: list[Timing]) -> dict[str, Any]:
    return {**machine(), "timings": [asdict(t) for t in timings]}
