"""E8P beside a search through its 65,536 points, and beside k-means; where its scales come from.

    python benchmarks/bench_e8p.py [--scales]

One thread, CPU time. First: building the codebook (the claim: < 0.1 s), and encoding normal vectors by our
structured search and by the peer, one product with all points and the largest (the claim: ≥ 3; the same
words). Then the mean squared error of a normal source per number: of evenly spaced and of the best levels
(Lloyd-Max) at 1 to 8 bits, exact; at 2 bits E8P must lie below k-means of 1, 2 and 4 dimensions (4, 16 and
256 centroids; the first is Lloyd-Max but for its samples). In eight dimensions k-means of the same rate
has 65,536 centroids: started from E8P and fed with fresh samples it can only be better, and we print by how
much, measured on samples that it has not seen. It needs a table of 65,536 vectors (2 MiB at float32) and a
search through all of it, where E8P has 256 patterns that are computed.

--scales: searches the scales of `precisionlaws.ptq.residual` again (minutes).
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from precisionlaws.ptq import e8p, lloyd_max, midrise, residual

ROUNDS, VECTORS, HELD_OUT, STEPS = 7, 2048, 60_000, 24
CHUNK = 512  # vectors per product with all points


def main() -> None:
    torch.set_num_threads(1)
    e8p.tables.cache_clear()
    build = seconds(e8p.tables)
    e8p.tables()
    print(f"building the codebook: {1e3 * build:.1f} ms CPU (claim: < 100 ms)")
    encoding()
    scalars()
    sources()
    if "--scales" in sys.argv:
        for bits in residual.SCALES:
            print(f"{bits} bits  scales {search(bits)}  ours {residual.SCALES[bits]}")


def encoding() -> None:
    x, points = 1.04 * normal(VECTORS, 0), e8p.decode(torch.arange(65536))
    ratios = []
    for _ in range(ROUNDS):
        peer, ours = seconds(lambda: nearest(x, points)), seconds(lambda: e8p.encode(x))
        ratios.append(peer / ours)
    same = (nearest(x, points) == e8p.encode(x)[0]).float().mean().item()
    print(
        f"encoding {VECTORS} vectors: search / ours {statistics.median(ratios):.0f} (claim: ≥ 3), "
        f"{100 * same:.2f}% of words are the same"
    )


def scalars() -> None:
    print("mean squared error of a normal source, exact: bits, bound, and")
    for bits in range(1, 9):
        even = midrise.error(midrise.step(bits), bits)
        best = lloyd_max.error(lloyd_max.levels(bits))
        print(f"  {bits}   {4.0**-bits:.4g}   Lloyd-Max {best:.4g}   evenly spaced {even:.4g}")


def sources() -> None:
    """Mean squared errors per number at 2 bits, on samples that nothing was fitted to."""
    x = normal(HELD_OUT, 1)
    print("mean squared error of a normal source at 2 bits per number (bound: .0625)")
    s = residual.SCALES[2][0]
    ours = (e8p.encode(s * x)[1] / s - x).square().mean().item()
    for width in (1, 2, 4):
        centroids = k_means(normal(200_000, 2).view(-1, width), 4**width)
        error = (
            (x.view(-1, width) - centroids[nearest(x.view(-1, width), centroids)]).square().mean()
        )
        print(
            f"  k-means in {width} dimension{'s' if width > 1 else ' '}      {error:.5f}   "
            f"{4**width} centroids, E8P {100 * (ours / error - 1):+.1f}%"
        )
    print(
        f"  E8P                        {ours:.5f}   256 patterns, computed (claim: .0905 to .0920)"
    )
    centroids = refined(e8p.decode(torch.arange(65536)) / s, s)
    x = x[: HELD_OUT // 6]
    ours = (e8p.encode(s * x)[1] / s - x).square().mean().item()
    best = (x - centroids[nearest(x, centroids)]).square().mean().item()
    print(
        f"  8 dimensions from E8P      {best:.5f}   65536 centroids, 2 MiB, E8P {100 * (ours / best - 1):+.1f}%"
    )


def refined(centroids: Tensor, s: float) -> Tensor:
    """Lloyd's iteration from E8P: the centroid of the cell of every word, over fresh normal vectors.

    One step, with cells those of E8P, for which no search is needed. Cells of few samples keep their point in
    part: a mean of few samples is noise, so the point counts as much as eight.
    """
    total, count = 8 * centroids.clone(), torch.full((len(centroids),), 8.0)
    for seed in range(STEPS):
        x = normal(100_000, 100 + seed)
        words, _ = e8p.encode(s * x)
        total.index_add_(0, words, x)
        count += torch.bincount(words, minlength=len(count))
    return total / count.unsqueeze(1)


def k_means(x: Tensor, count: int) -> Tensor:
    """Lloyd's iteration from a product of Lloyd-Max levels: (count, width)"""
    levels = torch.from_numpy(lloyd_max.levels(2).copy()).float()
    levels = torch.cat([-levels, levels])
    centroids = torch.cartesian_prod(*[levels] * x.shape[1]).view(count, -1)
    for _ in range(40):
        words = nearest(x, centroids)
        sums = torch.zeros_like(centroids).index_add_(0, words, x)
        counts = torch.bincount(words, minlength=count).clamp(min=1)
        centroids = sums / counts.unsqueeze(1)
    return centroids


def nearest(x: Tensor, points: Tensor) -> Tensor:
    """The peer: every vector with every point."""
    half = points.square().sum(1) / 2
    rows = CHUNK if len(points) > 1000 else 1 << 16
    return torch.cat([torch.addmm(-half, part, points.T).argmax(1) for part in x.split(rows)])


def normal(n: int, seed: int) -> Tensor:
    return torch.randn(n, 8, generator=torch.Generator().manual_seed(seed))


def seconds(job: Callable[[], object]) -> float:
    start = time.process_time()
    job()
    return time.process_time() - start


def search(bits: int) -> tuple[float, ...]:
    """Scales of least error on 8,000 normal vectors, by the simplex search from ours."""
    from scipy.optimize import minimize

    x = normal(8000, 0)

    def error(scales: Tensor) -> float:
        s = list(map(float, scales))
        return ((residual.encode(s[0] * x, bits, s)[1] / s[0] - x) ** 2).mean().item() * 4**bits

    options = {"xatol": 0.005, "fatol": 1e-4, "maxfev": 60}
    found = minimize(error, residual.SCALES[bits], method="Nelder-Mead", options=options)
    return tuple(round(float(v), 3) for v in found.x)


if __name__ == "__main__":
    main()
