"""How fast fake quantization is, beside a copy of the same tensor and beside torch's own operator.

    python benchmarks/bench_kernels.py [--size 2048] [--json]

On a GPU: every kernel at 4096² and 8192². The claim: at 8192² in bf16, each moves its bytes (a read and a write; a
second read for a scale of the whole tensor) at 80% of the memory's nominal bandwidth, and 90% of what a copy does.

On a CPU, in eager mode: the peers are `clone` (the floor: pages of a fresh tensor) and
`torch.fake_quantize_per_channel_affine`, which quantizes rows by scales that it is given; finding them
first, as we do, is the fair comparison. The claim: ours takes less time than that.
"""

import argparse
import json
import sys
from typing import Any

import torch
from torch import Tensor

from precisionlaws.kernels import backend, bench, ops, reference

ROUNDS = 21
GOAL_PEAK, GOAL_COPY = 0.80, 0.90


def gpu() -> dict[str, Any]:
    if not torch.cuda.is_available():
        return {"skipped": "no GPU here: torch.cuda.is_available() is False; nothing was measured"}
    dtypes = (torch.bfloat16, torch.float32)
    rows = list(bench.gpu(sizes=(4096, 8192), dtypes=dtypes, bits=(4, 8)))
    claimed = [r for r in rows if (r.size, r.dtype) == (8192, "bfloat16")]
    met = all(r.of_copy >= GOAL_COPY and (r.of_peak or 0) >= GOAL_PEAK for r in claimed)
    return {**bench.as_dict(rows), "goal_met": met}


def cpu(size: int) -> dict[str, Any]:
    """Milliseconds of each, and over those of clone."""
    x = torch.randn(size, size)
    q_max = reference.q_max_of(4)
    given = x.abs().amax(1) / q_max
    zeros = torch.zeros(size, dtype=torch.int32)
    out = torch.empty_like(x)

    def peer(scale: Tensor) -> Tensor:
        return torch.fake_quantize_per_channel_affine(x, scale, zeros, 0, -q_max, q_max)

    calls = {
        "clone": x.clone,
        "copy into a tensor that is there": lambda: out.copy_(x),
        "ours, row": lambda: ops.fake_quantize(x, q_max, size),
        "ours, group 16": lambda: ops.fake_quantize(x, q_max, 16),
        "ours, tensor": lambda: ops.fake_quantize(x, q_max, None),
        "torch.fake_quantize, scales given": lambda: peer(given),
        "torch.fake_quantize and absmax": lambda: peer(x.abs().amax(1) / q_max),
    }
    ms = dict(zip(calls, bench.cpu_ms(list(calls.values()), ROUNDS), strict=True))
    return {
        "size": size,
        "threads": torch.get_num_threads(),
        "backend": backend("cpu"),
        "ms": ms,
        "of_clone": {name: t / ms["clone"] for name, t in ms.items()},
        "goal_met": ms["ours, row"] < ms["torch.fake_quantize and absmax"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", type=int, default=2048, help="of the square tensor on the CPU")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = {"gpu": gpu(), "cpu": cpu(options.size)}
    if options.json:
        print(json.dumps(result, indent=1))
        sys.exit()
    on_gpu, on_cpu = result["gpu"], result["cpu"]
    if "skipped" in on_gpu:
        print(f"GPU: {on_gpu['skipped']}")
    else:
        print(on_gpu["machine"], on_gpu["torch"])
        print("\n".join(bench.lines([bench.Timing(**t) for t in on_gpu["timings"]])))
        print(f"at least 80% of peak and 90% of copy at 8192² bf16: {on_gpu['goal_met']}")
    print(f"CPU: {on_cpu['size']}² fp32, 4 bits, {on_cpu['threads']} threads, {on_cpu['backend']}")
    for name, ms in on_cpu["ms"].items():
        print(f"{name:34} {ms:8.2f} ms  {on_cpu['of_clone'][name]:6.2f} x clone")


if __name__ == "__main__":
    main()
