# %% [markdown]
# # “Scaling Laws for Precision”, re-derived
# Kumar et al. 2024 (arXiv 2411.04330) fit 465 runs and conclude that 7 to 8 bits are compute-optimal. Everything here
# follows from their printed constants (Appendix K, Table 2): no run is needed, and it takes seconds.

# %%
import numpy as np
import pandas as pd

import precisionlaws as pl
from precisionlaws.planning.costs import FLOPS_PER_TOKEN, cost
from precisionlaws.planning.critical import critical_D
from precisionlaws.planning.optimum import best_width, split
from precisionlaws.planning.surface import Budget, Question, best_P

ROLES = ("w", "a", "kv")
PAPER = cost("paper").relative  # C = (6/16) N D P
kumar = pl.law("neff_kumar")
constants = dict(kumar.published or {})
print(kumar.source, constants, sep="\n")


def eff(P: np.ndarray, p: dict[str, float]) -> np.ndarray:
    """N_eff/N with weights, activations and KV cache at P bits."""
    return np.asarray(kumar.scale(p, {f"P_{r}": P for r in ROLES}))


def optimum(p: dict[str, float], low: float, flops: float = 1e20, **fixed: float) -> float:
    columns = {k: np.array([v]) for k, v in p.items()}
    return float(best_width(kumar, columns, flops, PAPER, low, ROLES, fixed)[0])


# %% [markdown]
# ## The offsets
# The main text prints N_eff = N ∏ (1 − e^(−P/γ)); the fits have offsets n, 1 − e^(−P/γ + n). The best P maximises eff(P)/P,
# whatever the budget and the base law: the budget fixes N_eff·D = 16 C eff(P) / (6 P).

# %%
printed = {k: v for k, v in constants.items() if not k.startswith("n_")}
with_offsets, without = optimum(constants, 3.2), optimum(printed, 1.0)
print(f"P* with offsets {with_offsets:.4f} bits, as printed in the main text {without:.4f} bits")

# %% [markdown]
# Check by the first-order condition, Σ (P/γ) e^(−P/γ+n) / (1 − e^(−P/γ+n)) = 1, and by brute force.

# %%
terms = [np.exp(-with_offsets / constants[f"gamma_{r}"] + constants[f"n_{r}"]) for r in ROLES]
total = sum(with_offsets / constants[f"gamma_{r}"] * t / (1 - t) for r, t in zip(ROLES, terms, strict=True))  # fmt: skip
grid = np.arange(3.2, 16, 1e-4)
brute = grid[np.argmax(eff(grid, constants) / grid)]
print(f"condition {total:.6f} (1 at the optimum); brute force {brute:.4f}")
assert abs(total - 1) < 1e-6
assert abs(brute - with_offsets) < 1e-4

# %% [markdown]
# How sharp is it? The widths that waste at most 5% of compute, and where the law ends: a factor is zero at n·γ bits.

# %%
gain = eff(grid, constants) / grid
fine = grid[gain >= 0.95 * gain.max()]
print(f"within 5% of the best: {fine.min():.1f} to {fine.max():.1f} bits")
ends = {r: constants[f"n_{r}"] * constants[f"gamma_{r}"] for r in ROLES}
print("undefined at and below", {r: f"{b:.2f} bits" for r, b in ends.items()})

# %% [markdown]
# ## N* and D* against P at equal compute
# Eq. 6 prints exponents of P with which N*·D*·P is not constant. The right ones follow from the budget:
# N*/N₁₆ = eff^(−α/(α+β)) (P/16)^(−β/(α+β)) and D*/D₁₆ = eff^(α/(α+β)) (P/16)^(−α/(α+β)); with P fewer bits the model
# grows by more than the data wherever eff falls.

# %%
a, b = constants["alpha"], constants["beta"]
rows = []
N16, D16, _ = split(kumar, constants, np.array(1e20 / FLOPS_PER_TOKEN), np.array(1.0), {})
for P in (4.0, 6.0, 8.0, 12.0):
    e = eff(np.array(P), constants)
    N, D, loss = split(kumar, constants, 1e20 / (FLOPS_PER_TOKEN * PAPER(P)), e, {})
    formula = e ** (-a / (a + b)) * (P / 16) ** (-b / (a + b))
    rows.append({"P": P, "eff": e, "N*/N16": N / N16, "by formula": formula, "D*/D16": D / D16, "budget": 6 / 16 * N * D * P, "loss": loss})  # fmt: skip
table = pd.DataFrame(rows).astype(float)
assert np.allclose(table["N*/N16"], table["by formula"])
assert np.allclose(table["budget"], 1e20)
print(table.to_string(index=False, float_format="{:.4g}".format))

# %% [markdown]
# ## When the budget does matter
# With N held, P* grows with the logarithm of C until nothing is quantized. And where bits *add* nats, as in Sun et al. 2025 (arXiv 2501.02423), the
# best width grows with compute: two published laws that disagree on a fact, which `plan --cost` and `beliefs` ask your data.

# %%
sun = pl.law("sun_fp")
published = {k: np.array([v]) for k, v in (sun.published or {}).items()}
rows = []
for C in (1e18, 1e19, 1e20, 1e21, 1e26, 1e31):
    q = Question(law=sun, budget=Budget(flops=C, cost=cost("paper")), roles=ROLES, low=2.0, G=128.0)
    held = optimum(constants, 3.2, C, N=220e6)
    rows.append({"C": C, "Kumar": with_offsets, "Kumar, N = 220M": held, "Sun": float(best_P(q, published)[0])})  # fmt: skip
print(pd.DataFrame(rows).to_string(index=False, float_format="{:.4g}".format))

# %% [markdown]
# ## The data that hurt
# δ after rounding grows as D^γ_D while the base falls as D^−β: beyond D_crit more training makes the rounded model worse.
# Appendix K prints a b that is not separable from C_T; it is left out. Sun's law has such a point already in training.

# %%
ptq = pl.law("ptq_kumar")
after = {f"{N / 1e6:.0f}M at {P} bits": float(critical_D(ptq, ptq.published or {}, {"N": N, "P_post": P}))
         for N, P in ((30e6, 3), (30e6, 4), (220e6, 3), (220e6, 6))}  # fmt: skip
print("Kumar, PTQ:", {k: f"{v / 1e9:.1f}G tokens" for k, v in after.items()})
layouts = {"BF16": (8, 7), "E4M3": (4, 3), "E2M1": (2, 1)}
training = {k: float(critical_D(sun, sun.published or {}, {"N": 1e9, "E": e, "M": m, "G": 128.0}))
            for k, (e, m) in layouts.items()}  # fmt: skip
print("Sun, training 1B:", {k: f"{v / 1e12:.4g}T tokens" for k, v in training.items()})

# %% [markdown]
# ## What this does and does not say
# The headline number is reproduced, and it is a number of *these* constants: the same theorem with QuEST's efficiencies
# (Panferov et al. 2025, arXiv 2502.05003: rotated, group-scaled) gives 4 bits. eff(P) belongs to a quantizer, so measure your own.

# %%
quest = {1: 0.0205, 2: 0.152, 3: 0.433, 4: 0.692, 8: 1.016, 16: 1.0}
best = max(quest, key=lambda P: quest[P] / P)
print(f"QuEST: P* = {best} of the widths {list(quest)}")
