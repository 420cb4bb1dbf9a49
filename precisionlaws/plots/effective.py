"""What a role at P bits leaves of a model's parameters: N_eff / N, a panel per role."""

from typing import TYPE_CHECKING, Any

import numpy as np

from precisionlaws.fitting import Fit
from precisionlaws.fitting.diagnose import inseparable
from precisionlaws.laws import OFF
from precisionlaws.planning.widths import continuous, efficiency
from precisionlaws.plots.fit import NAMES
from precisionlaws.plots.style import GREY, canvas, of_order

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figure(fits: tuple[Fit, ...]) -> "Figure":
    """Form-free efficiencies as points with 95% intervals, formulas as curves with 95% bands."""
    table = numbers(fits)
    roles = list(dict.fromkeys(table["role"]))
    fig, axes = canvas(2.1 * len(roles) + 0.6, 3.4, ncols=len(roles), sharey=True)
    for ax, role in zip(axes, roles, strict=True):
        for i, one in enumerate(usable(fits)):
            color, marker = of_order(i)
            part = table[(table["role"] == role) & (table["law"] == one.law.full_name)]
            if continuous(one.law):
                ax.fill_between(part["P"], part["low"], part["high"], color=color, alpha=0.15, lw=0)
                ax.plot(part["P"], part["eff"], color=color, lw=1.6, label=one.law.name)
            else:
                P = part["P"] + 0.12 * i
                ax.vlines(P, part["low"], part["high"], color=color, lw=1.3)
                ax.plot(P, part["eff"], marker, color=color, ms=5.5, label=one.law.name)
        n = int(table["runs"].to_numpy()[table["role"] == role].max())
        ax.axhline(1.0, color=GREY, lw=0.9, ls=(0, (4, 3)))
        ax.set_title(f"{NAMES[role]} ({n} runs)", fontsize=9.5)
        ax.set_xlabel("bits")
        ax.margins(x=0.12)
        ax.locator_params(axis="x", integer=True)
        ax.set_ylim(0, min(max(1.5, float(table["eff"].max()) * 1.1), 2.0))
    axes[0].set_ylabel(r"effective parameters $N_\mathrm{eff}\,/\,N$")
    axes[-1].legend(loc="lower right")
    return fig


def usable(fits: tuple[Fit, ...]) -> list[Fit]:
    """Fits with an efficiency of N and runs below 16 bits."""
    out = [f for f in fits if f.measured and f.law.on("N")]
    if not out:
        raise ValueError(
            f"effective needs laws with an efficiency of bits and runs below 16 bits; {fits[0].law.full_name} has none"
        )
    return out


def numbers(fits: tuple[Fit, ...]) -> Any:
    """law, role, P, eff, low, high, runs (below 16 bits in that role).

    Without a formula, a width that roles were only trained at together has no row: the data know the
    product of their efficiencies, and not how it splits.
    """
    import pandas as pd

    out = []
    for one in usable(fits):
        joint = inseparable(one)
        for role, measured in one.measured.items():
            known = tuple(b for b in measured if f"eff_{role}[{b:g}]" not in joint)
            if not known:
                continue
            runs = int(np.sum(one.rows[f"P_{role}"].to_numpy(float) < OFF))
            smooth = continuous(one.law)
            P = np.linspace(min(known), max(8.0, *known), 60) if smooth else np.array(known)
            if smooth:
                eff, draws = (
                    efficiency(
                        one.law, {k: np.reshape(v, (-1, 1)) for k, v in p.items()}, P, (role,)
                    )
                    for p in (one.params, one.samples)
                )
                eff = eff[0]
            else:
                both = [one.quantity(f"eff_{role}({b:g})") for b in known]
                eff, draws = np.array([v for v, _ in both]), np.stack([d for _, d in both], 1)
            low, high = np.nanquantile(draws, [0.025, 0.975], axis=0)
            out.append(pd.DataFrame({"law": one.law.full_name, "role": role, "P": P, "eff": eff, "low": low, "high": high, "runs": runs}))  # fmt: skip
    if not out:
        raise ValueError(
            "effective shows roles one by one, and here they were only trained together: optimal-bits shows them so"
        )
    return pd.concat(out, ignore_index=True)
