# %% [markdown]
# # Your own training loop
# Any torch model, any loop: `attach` puts quantizers into it, `record` makes a valid row of what comes out.

# %%
import os

import torch
import torch.nn.functional as F
from torch import nn

import precisionlaws as pl

STORE = os.environ.get("PRECISIONLAWS_STORE", "results")
STEPS = int(os.environ.get("STEPS", "300"))
int_format = pl.compose(["format@quant.weights=int4"]).quant.weights  # any of conf/format


def net(width: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Linear(2, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(width, 2))


def batch(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two spirals, with one label in ten wrong."""
    g = torch.Generator().manual_seed(seed)
    t, y, flip = (
        3 * torch.rand(n, generator=g),
        torch.arange(n) % 2,
        torch.rand(n, generator=g) < 0.1,
    )
    angle = 2 * t + torch.pi * y
    return torch.stack((t * angle.cos(), t * angle.sin()), 1) / 3, y ^ flip


# %% [markdown]
# Two widths, four bits or none, two seeds. `run.done` makes the loop resumable.

# %%
for width, bits, seed in [(w, b, s) for w in (16, 48) for b in (4, 16) for s in (0, 1)]:
    model = net(width, seed)
    with pl.record(
        STORE, N=width * width, D=STEPS * 64, seed=seed, P_w=bits, arch="spirals"
    ) as run:
        if run.done:
            continue
        if bits < 16:
            pl.quant.attach(model, weights=int_format, keep=("0", "4"))  # first and last stay
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for step in range(STEPS):
            x, y = batch(64, seed * STEPS + step)
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(step, loss.item())
        with torch.no_grad():
            x, y = batch(4096, 10**6)
            run.loss(F.cross_entropy(model(x), y).item())

# %%
frame = pl.load(STORE).query("arch == 'spirals'")
print(frame.pivot_table("loss", "N", "P_w").round(3))
