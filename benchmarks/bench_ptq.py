"""GPTQ of ours beside a plain implementation of the published algorithm, and RTN beside both; a whole model.

    python benchmarks/bench_ptq.py [matrix] [model]

The peer is Algorithm 1 of Frantar et al. 2023 (arXiv:2210.17323) line by line: the upper Cholesky factor
of H⁻¹, column after column of W (out, in), the rest of a block of 128 columns after every column, the rest
of the matrix after every block; it returns the rounded matrix and nothing else. "rounding" is as much of
ours; the whole call also checks W and H and returns the packed payload, its proxy and RTN's. Asymmetric
rows, 4 bits, one thread, CPU time of alternating rounds in one process: the best, the ratio of the best,
and the median of the ratios of each round (the claim: ≥ 2.5).

The model has 2 million parameters and trained-like inputs of unequal power: one calibration, then every method
at three widths (the claim: RTN, GPTQ, AWQ and QuIP in 30 s of CPU time together, calibration included).
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from precisionlaws import ptq
from precisionlaws.config import build
from precisionlaws.models.base import Model, Size
from precisionlaws.models.parts import initialize, linears
from precisionlaws.overrides import option
from precisionlaws.ptq import ldlq
from precisionlaws.ptq.application import CONF, method_of, model_bits, model_info, quantize_model
from precisionlaws.ptq.calibration import calibrate
from precisionlaws.ptq.gptq import Gptq, by_input

SIZES, ROUNDS, BITS, BLOCK, PERCDAMP = (256, 1024), 25, 4, 128, 0.01
METHODS, WIDTHS, TOKENS = ("rtn", "gptq", "awq", "quip"), (2, 3, 4), 16384


def main() -> None:
    torch.set_num_threads(1)
    asked = sys.argv[1:] or ["matrix", "model"]
    if "matrix" in asked:
        matrices()
    if "model" in asked:
        model()


def model() -> None:
    parts = build(option("model", "llama"), Model), build(option("size", "2M"), Size)
    assert isinstance(parts[0], Model)
    assert isinstance(parts[1], Size)
    decoder = parts[0].build(parts[1], 256, 256)
    initialize(decoder, 0)
    g = torch.Generator().manual_seed(0)
    for p in decoder.parameters():
        if p.dim() == 1:
            p.data *= torch.randn(p.shape, generator=g).exp()
    tokens = torch.randint(256, (TOKENS // 256, 256), generator=g).numpy()
    start = time.process_time()
    calibration = calibrate(decoder, tokens)
    total = time.process_time() - start
    weights = sum(m.weight.numel() for _, m in linears(decoder))
    print(f"a model of {weights:,} block weights, {TOKENS} calibration tokens: {total:.1f} s")
    before = {k: v.clone() for k, v in decoder.state_dict().items()}
    for name in (m for m in METHODS if (CONF / f"{m}.yaml").exists()):
        for bits in WIDTHS:
            decoder.load_state_dict(before)
            start = time.process_time()
            quantized = quantize_model(decoder, method_of(name, bits=bits), 0, calibration)
            spent = time.process_time() - start
            total += spent
            info = model_info(quantized)
            proxy = f"relative proxy {info['relative_proxy']:.4f}" if info else ""
            effective = model_bits(quantized).effective
            print(f"  {name:5} {bits} bits ({effective:.3f} stored)  {spent:6.2f} s  {proxy}")
    print(f"  together {total:.1f} s of 30")


def matrices() -> None:
    print(f"{BITS} bits, asymmetric, a scale per row; CPU time on one thread, {ROUNDS} rounds")
    for n in SIZES:
        W, H = problem(n)
        jobs: dict[str, Callable[[], Tensor]] = {
            "peer GPTQ": lambda W=W, H=H: plain_gptq(W, H.float()),
            "rounding": lambda W=W, H=H: rounding(W, H),
            "our GPTQ": lambda W=W, H=H: ours("gptq", W, H, act_order=False),
            "our RTN": lambda W=W, H=H: ours("rtn", W, H),
        }
        times: dict[str, list[float]] = {name: [] for name in jobs}
        for _ in range(ROUNDS):
            for name, job in jobs.items():
                times[name].append(seconds(job))
        for name, job in jobs.items():
            peers, mine = times["peer GPTQ"], times[name]
            middle = statistics.median(p / m for p, m in zip(peers, mine, strict=True))
            print(
                f"{n:5}²  {name:10} {1e3 * min(mine):8.1f} ms   peer / it {min(peers) / min(mine):6.2f} "
                f"(median {middle:5.2f})   relative proxy {relative_proxy(job(), W, H):.6f}"
            )


def seconds(job: Callable[[], Tensor]) -> float:
    start = time.process_time()
    job()
    return time.process_time() - start


def problem(n: int) -> tuple[Tensor, Tensor]:
    """Gaussian weights; inputs whose power falls as 1 / rank in random directions."""
    g = torch.Generator().manual_seed(n)
    basis = torch.linalg.qr(torch.randn(n, n, generator=g, dtype=torch.float64)).Q
    power = 1 / torch.arange(1, n + 1, dtype=torch.float64)
    x = torch.randn(2 * n, n, generator=g, dtype=torch.float64) * power.sqrt() @ basis.T
    return 0.02 * torch.randn(n, n, generator=g), x.T @ x / len(x)


def ours(method: str, W: Tensor, H: Tensor, **options: bool) -> Tensor:
    return ptq.apply(method, W, H, bits=BITS, grid="asymmetric", **options).weight


@torch.no_grad()
def rounding(W: Tensor, H: Tensor) -> Tensor:
    """What the peer does: W, H -> the rounded matrix."""
    spec = method_of("gptq", bits=BITS, grid="asymmetric", act_order=False, percdamp=PERCDAMP)
    assert isinstance(spec, Gptq)
    grid = spec.fit(W)
    factor = ldlq.factorize(H, PERCDAMP, W.dtype)
    codes = ldlq.solve(W.T.contiguous(), factor.L, by_input(grid, len(W)), [0] * len(H)).codes
    return codes.T * grid.scale


def plain_gptq(W: Tensor, H: Tensor) -> Tensor:
    W, Q, n = W.clone(), torch.zeros_like(W), W.shape[1]
    least, most = W.amin(1).clamp(max=0), W.amax(1).clamp(min=0)
    scale = (most - least) / (2**BITS - 1)
    zero = torch.round(-least / scale)
    H = H + PERCDAMP * H.diagonal().mean() * torch.eye(n)
    H = torch.cholesky_inverse(torch.linalg.cholesky(H))
    U = torch.linalg.cholesky(H, upper=True)
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        errors = torch.zeros(len(W), stop - start)
        for i in range(start, stop):
            codes = torch.clamp(torch.round(W[:, i] / scale) + zero, 0, 2**BITS - 1)
            Q[:, i] = scale * (codes - zero)
            errors[:, i - start] = (W[:, i] - Q[:, i]) / U[i, i]
            W[:, i:stop] -= errors[:, i - start].unsqueeze(1) * U[i, i:stop]
        W[:, stop:] -= errors @ U[start:stop, stop:]
    return Q


def relative_proxy(Q: Tensor, W: Tensor, H: Tensor) -> float:
    W, E = W.double(), Q.double() - W.double()
    return ((E @ H * E).sum() / (W @ H * W).sum()).item()


if __name__ == "__main__":
    main()
