# %% [markdown]
# # Is there anything to rotate away?
# A scale per vector is set by its largest value, so what rounding costs depends on how far that stands out:
# max|x|/σ of the vectors that share a scale, and their kurtosis (3 for normal values). A Hadamard rotation makes any
# vector nearly normal: where these are near the values of normal numbers, it has nothing to win, and that a study
# finds no gain says nothing about models that have outliers. `STORE` is a store with its checkpoints, such as
# `precisionlaws runs repeat` makes of a table.

# %%
import functools
import os
from collections.abc import Iterator

import pandas as pd
import torch
from torch import Tensor, nn

import precisionlaws as pl
from precisionlaws.config import build
from precisionlaws.kernels.hadamard import block_of, rotate
from precisionlaws.models.parts import Seam, linears
from precisionlaws.overrides import option
from precisionlaws.ptq.calibration import sample
from precisionlaws.run import Exec, stored_config
from precisionlaws.store import Store
from precisionlaws.sweep.quantize import restored

STORE = os.environ.get("PRECISIONLAWS_STORE", "results")
TOKENS, GROUP = 16384, 16  # of training text; values that share a scale where granularity=group
torch.set_num_threads(1)


def vectors(model: nn.Module, ids: Tensor) -> Iterator[tuple[str, Tensor]]:
    """What shares a scale per row: rows of weights; a token's inputs of a linear; a token's key or value in a head."""
    for _, linear in linears(model):
        yield "weights", linear.weight.detach()
    seen: list[tuple[str, Tensor]] = []

    def watch(name: str) -> object:
        kind = "K, V" if name.endswith("cache") else "activations"
        return lambda _, inputs: seen.append((kind, inputs[0].detach()))

    hooks = [m.register_forward_pre_hook(watch(n)) for n, m in model.named_modules() if isinstance(m, Seam)]  # fmt: skip
    for batch in ids.split(32):
        with torch.no_grad():
            model(batch)
        for kind, x in seen:
            yield kind, x.reshape(-1, x.shape[-1])
        seen.clear()
    for hook in hooks:
        hook.remove()


def peak(x: Tensor) -> float:
    """Mean of max|x|/σ over vectors, σ about 0: the scale is symmetric."""
    x = x[x.abs().amax(-1) > 0]
    return float((x.abs().amax(-1) / x.square().mean(-1).sqrt()).mean())


def kurtosis(x: Tensor) -> float:
    """Of values in units of their vector's σ, about 0."""
    x = x[x.abs().amax(-1) > 0]
    return float((x / x.square().mean(-1, keepdim=True).sqrt()).pow(4).mean())


@functools.cache
def of_normal(n: int) -> float:
    return peak(torch.randn(20000, n, generator=torch.Generator().manual_seed(0)))


def shape(x: Tensor) -> dict[str, float]:
    """How the values of vectors stand out, as they are, rotated as `quant.rotation` does, and in groups."""
    n = x.shape[-1]
    turned, groups = rotate(x, block_of(n)), x.reshape(-1, GROUP)
    return {
        "kurtosis": kurtosis(x), "rotated": kurtosis(turned), "normal": 3 * n / (n + 2),
        "max/σ": peak(x), "max/σ rotated": peak(turned), "max/σ normal": of_normal(n),
        "max/σ of 16": peak(groups), "of 16 normal": of_normal(GROUP),
    }  # fmt: skip


# %% [markdown]
# Runs at 16 bits, averaged over tensors and seeds, by size and D.

# %%
store, exec_ = Store(STORE), build(option("exec", "default"), Exec)
frame = pl.load(STORE)
plain = (frame[["P_w", "P_a", "P_kv"]] == 16).all(axis=1) & (frame.status == "finished")
runs = frame[plain & (frame.eval_id == "final")]
rows = []
for _, at in runs.iterrows():
    run, _ = stored_config(store.run(at.run_id) / "config.yaml")
    _, model = restored(run, store, exec_)
    ids = torch.from_numpy(sample(run.data, TOKENS, 0).copy()).long()
    rows += [{"what": what, "N": at.N, "D": at.D} | shape(x) for what, x in vectors(model, ids)]
table = pd.DataFrame(rows).groupby(["what", "N", "D"]).mean()
print(table.to_string(float_format="{:.2f}".format))
