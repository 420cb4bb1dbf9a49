"""What a fit does not know, in words: bounds, flat profiles, wide intervals, widths not told from 16."""

from typing import TYPE_CHECKING

import numpy as np

from precisionlaws.fitting import diagnose
from precisionlaws.fitting.resample import Draws, Solved
from precisionlaws.fitting.solve import NOTHING
from precisionlaws.laws.base import OFF

if TYPE_CHECKING:
    from precisionlaws.fitting.fit import Fit

MISFIT = 1e-2  # p of the lack-of-fit test below which a base is said to misfit
FLAT = 1e-7  # scaled curvature, of 1, below which a direction counts as free
DRAWS = 100  # below, a 95% interval is the range of a few
ALIKE = 0.98  # an efficiency whose interval reaches this is not told from 16 bits (Kumar's form never reaches 1)


def doubts(fit: "Fit", solved: tuple[Solved, ...], draws: Draws) -> list[str]:
    """Warnings of a fit, most basic first."""
    out: list[str] = []
    for s in solved:
        out += diagnose.design_gaps(s.block)
        n, p = len(s.block.y), len(s.block.own)
        if n < 2 * p and s.block.kind == "delta":
            out.append(f"{n} δ for {p} parameters: fewer than two each")
    if (fit.law.scales or fit.law.added) and not fit.measured:
        out.append("no run below 16 bits: nothing is learnt of bits, and the law is its base")
    out += _unpaired(fit)
    out += _not_certified(fit)
    if draws.clusters == 1:
        out.append("one family: intervals take its runs as independent, and are too narrow")
    elif draws.clusters < 5:
        out.append(
            f"{draws.clusters} families: intervals rest on {draws.clusters - 1} degrees of freedom"
        )
    if draws.converged < 0.99:
        out.append(f"{1 - draws.converged:.0%} of the refits behind the intervals did not converge")
    if fit.one_cluster:
        out.append(f"no interval for {', '.join(fit.one_cluster)}: measured in one family only")
    out += _misfit(solved[0])
    out += _flat_E(fit)
    out += _wide(fit)
    out += _like_16(fit)
    if fit.interaction is not None and fit.interaction.rejected:
        out.append(
            f"the product law does not hold ({', '.join(fit.interaction.rejected)}): efficiencies of single roles are "
            f"drawn towards the joint formats; fit {fit.law.full_name}+interaction"
        )
    if len(next(iter(fit.samples.values()))) < DRAWS:
        out.append(f"fewer than {DRAWS} draws: the ends of intervals are noise")
    return out


def _not_certified(fit: "Fit") -> list[str]:
    out = []
    for what, c in (("loss", fit.certificate), ("δ", fit.penalty_certificate)):
        if c is None:
            continue
        bounds = [b for b in c.bounds if b != "E"]  # E has its own warning
        if bounds:
            out.append(f"{', '.join(bounds)} at a bound: the data push further than the law allows")
        if min(c.eigenvalues, default=1.0) < FLAT:
            out.append(
                f"{what}: some combination of the parameters is free (curvature {min(c.eigenvalues):.1g} of 1): "
                "these data do not determine all of them"
            )
        if c.agreeing < c.starts / 4:
            out.append(
                f"{what}: only {c.agreeing} of {c.starts} starts reached the minimum ({c.minima} distinct minima)"
            )
    return out


def _unpaired(fit: "Fit") -> list[str]:
    """Where `family` is another word for the format, nothing is compared within a family."""
    low = (fit.rows[["P_w", "P_a", "P_kv"]].to_numpy(float) < OFF).any(1)
    family = fit.rows["family"].to_numpy(str)
    quantized, plain = np.unique(family[low]), np.unique(family[~low])
    repeated = len(np.unique(family)) < len(family)
    if not (len(quantized) and len(plain) and repeated) or np.isin(quantized, plain).any():
        return []
    return [
        "no family holds both a quantized and an unquantized run: a family is the runs of one size and seed at all widths "
        f"(here {', '.join(np.unique(family)[:3])}); without pairs efficiencies carry the noise between families"
    ]


def _misfit(s: Solved) -> list[str]:
    """Lack of fit: residuals on which the seeds of one (N, D) agree, against those on which they differ."""
    from scipy import stats

    r = s.block.y - s.block.predict(s.u[None])[0]
    cells = np.stack([s.block.x["N"], s.block.x["D"]], 1)
    places, cell = np.unique(cells, axis=0, return_inverse=True)
    # Mean residual of each cluster in each place, then what the clusters of a place share.
    groups, group = np.unique(np.stack([np.ravel(cell), s.cluster], 1), axis=0, return_inverse=True)
    means = np.bincount(np.ravel(group), r) / np.bincount(np.ravel(group))
    many = np.bincount(groups[:, 0], minlength=len(places))
    common = np.bincount(groups[:, 0], means) / many
    shared = float((many * common**2).sum())
    pure = float(((means - common[groups[:, 0]]) ** 2).sum())
    spare = len(groups) - len(places)
    worst = int(np.argmax(np.abs(common)))
    bends = len(places) - len(s.block.law.base.params(dict(s.block.x)))
    if bends < 1 or spare < 3 or pure < NOTHING * len(r):
        return []
    if stats.f.sf((shared / bends) / (pure / spare), bends, spare) > MISFIT:
        return []
    N, D = (places[worst, k] * s.block.centre[c] for k, c in enumerate("ND"))
    return [
        f"the base misfits: all seeds agree on residuals up to {abs(common[worst]):.1%} (at N = {N:.3g}, D = {D:.3g}), more than seeds "
        "differ; intervals do not hold this error, least of all beyond the data"
    ]


def _flat_E(fit: "Fit") -> list[str]:
    if "E" not in diagnose.open_ones(fit):
        return []
    low, high = fit.interval("E")
    top = float(np.min(fit.rows["loss"]))
    return [
        f"E not identified: anything from {low:.2g} to {high:.2g} nats fits within 95% (lowest loss {top:.3g}); "
        f"A, B, α and β move with it{', efficiencies hardly' if fit.law.scales else ''}"
    ]


def _wide(fit: "Fit") -> list[str]:
    """Exponents whose interval is wide, or holds zero where it may."""
    found = diagnose.open_ones(fit)
    text = {
        q.name: f"{q.name} {fit.params[q.name]:.2g} ({low:.2g} to {high:.2g})"
        for q in fit.law.params
        for low, high in [fit.interval(q.name)]
    }
    wide = [text[name] for name in found if name != "E"]
    zero = [
        text[q.name]
        for q in fit.law.params
        if q.unit == "" and q.link == "identity" and q.name not in fit.one_cluster
        for low, high in [fit.interval(q.name)]
        if low <= 0 <= high
    ]
    out = []
    if wide:
        at = fit.rows.groupby(["N", "D"]).ngroups
        out.append(
            f"not identified: {', '.join(wide)}; {fit.objective.n} losses at {at} (N, D) leave the base open: use "
            "L_centre and what stands above it, and no prediction beyond the data"
        )
    if zero:
        out.append(f"not told from zero: {', '.join(zero)}")
    return out


def _like_16(fit: "Fit") -> list[str]:
    if not fit.law.on("N"):
        return []
    alike, smooth = [], all(getattr(t, "CONTINUOUS", False) for t in fit.law.on("N"))
    for role, P in fit.measured.items():
        for bits in P:
            low, high = fit.interval(f"eff_{role}({bits:g})")
            if high >= 1 or (high >= ALIKE and (smooth or low < ALIKE)):
                alike.append(f"{role} at {bits:g} ({low:.2f} to {high:.2f})")
    return (
        [f"not told from 16 bits, eff interval reaches {ALIKE:g}: {', '.join(alike)}"]
        if alike
        else []
    )
