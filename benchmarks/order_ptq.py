"""In which order the PTQ methods of a study stand, and why that is not the order of their proxies.

    precisionlaws sweep ptq_two_bits --store two_bits ptq.bits=2 ptq.phase=final,stable
    python benchmarks/order_ptq.py two_bits [--why RUN_ID]

Per checkpoint and over all: δ of every method, and by how much it lies below the method before it, with
95% intervals: Student's t over seeds, each seed the mean of its checkpoints. First with a scale per row for
the scalar methods, which is .06 to .1 bits more than QuIP and QuIP# store; then at equal stored bits, where
GPTQ has one scale for a matrix.

--why: for one checkpoint, the change of the loss to second order, summed over linears,

    δ ≈ Σ g·E + ½ Σ tr(G E H Eᵀ),   E = Ŵ - W, g the gradient of the loss, G the mean square of gradients of
                                    outputs with labels that the model draws (K-FAC's approximation)

The proxy tr(E H Eᵀ) has neither g nor G. Of Σ g·E we print what shrinking is to blame for: Ŵ is W times some a
along every eigenvector v of H, and (a - 1) g·W along v is what that costs. Steps that are best for a normal
source (QuIP, QuIP#) shrink weights along inputs of little power, where training with weight decay leaves the
loss falling as weights grow; the range of GPTQ, which holds every weight, shrinks them less.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
from collections.abc import Iterator, Sequence
from typing import cast

import pandas as pd
import torch
import torch.nn.functional as F
from scipy.stats import t as student
from torch import Tensor, nn

from precisionlaws.config import build
from precisionlaws.models.parts import linears
from precisionlaws.overrides import option
from precisionlaws.ptq.application import method_of, quantize_model
from precisionlaws.ptq.calibration import calibrate, sample
from precisionlaws.run import Exec, stored_config
from precisionlaws.store import Store, load
from precisionlaws.sweep.quantize import restored

ORDER = ("rtn", "awq", "gptq", "quip", "quip_sharp")  # expected: from the most to the least damage
EQUAL = ("gptq, one scale", "quip", "quip_sharp")
TOKENS, FISHER = 65536, 16384  # of training text: for the gradient, for G


def main() -> None:
    torch.set_num_threads(1)
    frame = load(sys.argv[1])
    frame = cast(pd.DataFrame, frame[frame.ptq.isin(ORDER) & (frame.P_post == 2)].copy())
    frame.loc[frame["ptq.granularity"] == "tensor", "ptq"] += ", one scale"
    for at, part in frame.groupby(["phase", "D"]):
        print(*cast(tuple[str, int], at))
        tables(cast(pd.DataFrame, part))
    print("all checkpoints")
    tables(frame)
    if "--why" in sys.argv:
        why(sys.argv[1], sys.argv[sys.argv.index("--why") + 1])


def tables(frame: pd.DataFrame) -> None:
    table(frame, ORDER)
    if EQUAL[0] in set(frame.ptq):
        print("  at equal stored bits")
        table(frame, EQUAL)


def table(frame: pd.DataFrame, order: Sequence[str]) -> None:
    means = frame.pivot_table(index="seed", columns="ptq", values="delta_ptq")
    before = None
    for name in order:
        rows = frame[frame.ptq == name]
        said = f"  {name:15} {rows.bits_effective.mean():.3f} bits   δ {interval(means[name])}"
        if name != "rtn":
            said += f"   proxy {rows['ptq.info.relative_proxy'].mean():.4f}"
        if before:
            said += f"   below {before}: {interval(means[before] - means[name])}"
        print(said)
        before = name


def interval(of: object) -> str:
    values = cast(pd.Series, of)
    n = len(values)
    half = student.ppf(0.975, n - 1) * values.std() / n**0.5 if n > 1 else float("nan")
    return f"{values.mean():+.4f} ± {half:.4f} ({n})"


def why(store: str, name: str) -> None:
    run, _ = stored_config(Store(store).run(name) / "config.yaml")
    exec = cast(Exec, build(option("exec", "default"), Exec))
    weights, model = restored(run, Store(store), exec)
    calibration = calibrate(model, sample(run.data, 16384, 0))
    ids = torch.from_numpy(sample(run.data, TOKENS, 7).copy()).long()
    g, G = gradients(model, ids)
    before = loss(model, ids)
    print(f"{name}: loss to second order, on {TOKENS:,} training tokens")
    for method in ORDER:
        scalar = {"granularity": "row", "grid": "full"} if method in ORDER[:3] else {}
        model.load_state_dict(weights)
        quantize_model(model, method_of(method, bits=2, **scalar), run.seed, calibration)
        after = loss(model, ids)
        first = second = shrunk = proxy = 0.0
        for n, linear in linears(model):
            W = weights[f"{n}.weight"].double()
            E, H = linear.weight.detach().double() - W, calibration.hessians[n]
            first += (g[n] * E).sum().item()
            second += ((G[n] @ E @ H) * E).sum().item() / 2
            shrunk += shrinking(E, W, g[n], H)
            proxy += (E @ H * E).sum().item()
        print(
            f"  {method:10} proxy {proxy:7.1f}   first order {first:+.4f} (shrinking {shrunk:+.4f})   "
            f"second {second:.4f}   both {first + second:.4f}   δ {after - before:.4f}"
        )


def shrinking(E: Tensor, W: Tensor, g: Tensor, H: Tensor) -> float:
    V = torch.linalg.eigh(H)[1]
    e, w, d = E @ V, W @ V, g @ V
    return ((e * w).sum(0) / w.square().sum(0) * (d * w).sum(0)).sum().item()


def loss(model: nn.Module, ids: Tensor) -> float:
    with torch.no_grad():
        return sum(entropy(model, b).item() * len(b) for b in ids.split(32)) / len(ids)


def entropy(model: nn.Module, ids: Tensor) -> Tensor:
    return F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


def gradients(model: nn.Module, ids: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """g (out, in), and G (out, out): mean over tokens, of every linear."""
    found, outputs = dict(linears(model)), dict[str, Tensor]()

    def watch(name: str, output: object) -> None:
        outputs[name] = cast(Tensor, output)
        outputs[name].retain_grad()

    for b in ids.split(32):
        (entropy(model, b) * len(b) / len(ids)).backward()
    g = {n: taken(m.weight) for n, m in found.items()}
    handles = [m.register_forward_hook(lambda _, i, o, n=n: watch(n, o)) for n, m in found.items()]
    G = {n: torch.zeros(len(m.weight), len(m.weight)).double() for n, m in found.items()}
    for b, generator in chunks(ids):
        logits = model(b).flatten(0, 1)
        drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)[:, 0]
        F.cross_entropy(logits, drawn, reduction="sum").backward()
        for n, o in outputs.items():
            x = cast(Tensor, o.grad).flatten(0, -2).double()
            G[n] += x.T @ x / FISHER
    for handle in handles:
        handle.remove()
    model.zero_grad()
    return g, G


def taken(weight: Tensor) -> Tensor:
    return cast(Tensor, weight.grad).double().clone()


def chunks(ids: Tensor) -> Iterator[tuple[Tensor, torch.Generator]]:
    generator = torch.Generator().manual_seed(0)
    for b in ids[: FISHER // ids.shape[1]].split(16):
        yield b, generator


if __name__ == "__main__":
    main()
