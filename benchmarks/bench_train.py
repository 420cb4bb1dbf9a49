"""Training steps of this library beside a plain GPT-2 step, and quantized beside unquantized.

    python benchmarks/bench_train.py [rounds [pairs [size ...]]]

One thread, models of equal size, context 256, bytes, fp32, AdamW (fused), clipping. The peer is the training
step that everybody writes: GPT-2 of the published shape from torch.nn parts, in a process of its own, as it
would run. Ours is the trainer's own loop in the process of a worker, with its batches, its schedule and its
log. The two processes take turns: steps are interleaved, in an order that is drawn anew every round, and timed in
CPU seconds; ratios are medians over rounds, so that a busy machine changes little. Where tensors come to lie in
memory changes a process by 1 to 3%: every size is measured in several pairs of processes, and the median of their
ratios is printed with its range. A second copy of the peer, in the peer's process, says what a ratio can resolve; a
third, in our process, has its memory as well, which a worker keeps between steps (`training.heap`).
Wanted: ours >= 1.0x the peer; W+A+KV in 8-bit integers <= 1.25x the time of the unquantized step. Measured at 100k,
1M, 10M on a quiet machine (four, five, four pairs): gpt 1.07x (1.06 to 1.08), 1.06x (1.06 to 1.09), 1.04x (1.03 to
1.05) the plain one; 1.07x (1.06 to 1.08), 1.06x (1.03 to 1.07), 1.03x (1.02 to 1.05) that in our process; the plain
one's copy 1.00x, 1.00x, 1.01x. What ours gains is attention in blocks (`models/blocked.py`) and a GELU of one sigmoid
(`models/parts.py`). int8: 1.14x, 1.09x, 1.06x the time at most, worst pair 1.15x. Beside other work (seven pairs): gpt
1.06x (.91 to 1.10), 1.05x (1.00 to 1.07), 1.01x (.97 to 1.10); int8 1.12x at most, worst pair 1.21x.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import multiprocessing
import random
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precisionlaws.training import heap
from precisionlaws.training.speed import Job, job

SIZES = {"100k": 4, "1M": 4, "10M": 4}  # size: sequences of 256 a step
ROUNDS, PAIRS = 8, 7  # rounds of each pair of processes
INT8 = [f"quant.{role}.bits=8" for role in ("weights", "activations", "kv")]
GROUPS = [*INT8, *(f"quant.{role}.granularity=group" for role in ("weights", "activations", "kv"))]
OURS = {
    "gpt": ["model=gpt"],
    "llama": ["model=llama"],
    "llama int8 rows": ["model=llama", *INT8],
    "llama int8 groups of 16": ["model=llama", *GROUPS],
    "gpt int8 rows": ["model=gpt", *INT8],
    "gpt int8 groups of 16": ["model=gpt", *GROUPS],
}
PEER, AGAIN, GUEST = "plain GPT-2", "plain GPT-2, a copy", "plain GPT-2, our process"
AGAINST = [(AGAIN, PEER), (GUEST, PEER), ("gpt", PEER), ("gpt", GUEST), ("llama", PEER)]
AGAINST += [(name, name.split()[0]) for name in OURS if "int8" in name]


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.c_attn(x).split(C, 2)
        q, k, v = (t.view(B, T, self.heads, C // self.heads).transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(width), Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Plain(nn.Module):
    """GPT-2 as published: learned positions, pre-norm, GELU (tanh), biases, tied head."""

    def __init__(self, depth: int, width: int, heads: int, vocab: int, context: int) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab, width), nn.Embedding(context, width)
        self.h = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.ln_f, self.lm_head = nn.LayerNorm(width), nn.Linear(width, vocab, bias=False)
        self.lm_head.weight = self.wte.weight
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
        logits = self.lm_head(self.ln_f(self.h(x)))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))


def plain(ours: Job) -> Callable[[int], None]:
    """The peer at the size, batch and data of one of our jobs: a function that makes steps."""
    size, data = ours.run.size, ours.run.data
    model = Plain(size.depth, size.width, size.heads, data.vocab, data.context)
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), fused=True)
    rng, tokens = np.random.default_rng(0), torch.from_numpy(data.corpus().train.copy())
    rows, T = ours.run.batch // data.context, data.context

    def steps(count: int) -> None:
        for _ in range(count):
            starts = rng.integers(0, len(tokens) - T - 1, rows)
            ids = torch.stack([tokens[i : i + T + 1] for i in starts]).long()
            model(ids[:, :-1], ids[:, 1:]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return steps


def cpu_seconds(steps: Callable[[int], None], count: int) -> float:
    start = time.process_time()
    steps(count)
    return time.process_time() - start


def serve(pipe: Connection, ours: bool, size: str, rows: int) -> None:
    """In a process of its own: seconds of the steps that are asked for by name."""
    torch.set_num_threads(1)
    if ours:
        heap.keep()
        overrides = {name: ["data.context=256", *own] for name, own in OURS.items()}
        jobs = {name: job(size, rows * 256, own) for name, own in overrides.items()}
        contestants: dict[str, Callable[[int], None]] = {n: one.steps for n, one in jobs.items()}
        contestants[GUEST] = plain(jobs["gpt"])
    else:
        one = job(size, rows * 256, ["data.context=256", "model=gpt"])
        contestants = {name: plain(one) for name in (PEER, AGAIN)}
    for steps in contestants.values():
        steps(2)
    pipe.send(list(contestants))
    for name, count in iter(pipe.recv, None):
        pipe.send(cpu_seconds(contestants[name], count))


def meet(size: str, rows: int, rounds: int, seed: int) -> dict[str, list[float]]:
    """Seconds per step in each round, by contestant, of one pair of processes."""
    spawn = multiprocessing.get_context("spawn")
    host: dict[str, Connection] = {}
    for ours in (True, False):
        here, there = spawn.Pipe()
        spawn.Process(target=serve, args=(there, ours, size, rows), daemon=True).start()
        host |= dict.fromkeys(here.recv(), here)

    def seconds(name: str, count: int) -> float:
        host[name].send((name, count))
        return float(host[name].recv()) / count

    count = 1 + int(0.15 / seconds(PEER, 2))  # of about 0.3 s
    order = random.Random(seed)
    out: dict[str, list[float]] = {name: [] for name in host}
    for _ in range(rounds):
        for name in order.sample(list(host), len(host)):
            out[name].append(seconds(name, count))
    for pipe in set(host.values()):
        pipe.send(None)
    return out


def compare(size: str, rows: int, rounds: int, pairs: int) -> None:
    print(f"\n{size}: {rows} sequences of 256 tokens a step")
    met = [meet(size, rows, rounds, seed) for seed in range(pairs)]
    for name, other in ((PEER, None), *AGAINST):
        seconds = statistics.median(t for one in met for t in one[name])
        line = f"  {name:<26}{rows * 256 / seconds:>9,.0f} tokens per CPU second"
        if other:
            quantized = "int8" in name
            ratios = sorted(
                statistics.median(
                    a / b if quantized else b / a
                    for a, b in zip(one[name], one[other], strict=True)
                )
                for one in met
            )
            what = "the time" if quantized else "the speed"
            line += f"  {statistics.median(ratios):.2f}x {what} of {other} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(line, flush=True)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    pairs = int(sys.argv[2]) if len(sys.argv) > 2 else PAIRS
    sizes = sys.argv[3:] or list(SIZES)
    for size in sizes:
        compare(size, SIZES[size], rounds, pairs)


if __name__ == "__main__":
    main()
