"""Number formats of one role, ranked by what they cost, and predicted from their error on normal values.

Laws tell formats apart by their width alone, so here each format takes a width of its own: neff_free then gives
every one an efficiency N_eff/N, with intervals over families. Differences to 16 bits are of runs of one family,
which share initialization and batches.

The prediction: neff_gmse (Panferov et al. 2025, arXiv 2506.01863) fitted to all other formats, each at the width
whose best uniform quantizer has its error on N(0, 1) (column gmse_w), says what this one should cost.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from precisionlaws.fitting.comparable import ROLES as PLACES
from precisionlaws.fitting.fit import Fit, fit
from precisionlaws.laws import OFF, law
from precisionlaws.laws.base import ROLES, Array
from precisionlaws.laws.neff_gmse import LEAST, MOST, log_gmse

Table = Any
FEWEST = 3  # formats that neff_gmse is fitted to, for three parameters
NOT_A_KIND = ("bits", "estimator")  # of no meaning where nothing is clipped, which is most formats
COLUMNS = {
    "format": "kind and width, and those fields that tell it from others of its kind",
    "bits": "per value, by its name",
    "gmse": "mean squared error on N(0, 1)",
    "runs": "trained in it",
    "families": "of these that also have a run at 16 bits and equal D: the pairs behind delta",
    "delta": "loss less that at 16 bits, paired, mean over families, nats; delta_low, delta_high: 95%, by t",
    "eff": "N_eff/N by neff_free; eff_low, eff_high: 95% over families",
    "predicted": "eff by neff_gmse fitted to the other formats; predicted_low, predicted_high: 95%",
    "error": "loss predicted for its runs less their loss, mean, nats",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranking:
    """The best format first; columns as in COLUMNS."""

    table: Table
    says: tuple[str, ...]
    measured: Fit
    law: Fit | None  # neff_gmse of all formats; None where errors are unknown


def rank(frame: Table, *, role: str = "w", base: str = "chinchilla", **options: Any) -> Ranking:
    """Formats of one role, the others unquantized. options: of `fit`.

    Raises: ValueError if the frame has no formats to tell apart.
    """
    rows = kept(frame, role)
    rows["format"] = labels(rows, role)
    found = sorted(set(rows["format"]) - {""})
    if len(found) < 2:
        what = f"only {found[0]}" if found else "no run below 16 bits"
        raise ValueError(f"there is nothing to rank: the frame has {what} in P_{role}, with the other roles at 16 bits")  # fmt: skip
    own = dict(zip(found, np.linspace(1, 2, len(found)).round(4), strict=True))
    free = fit(with_width(rows, role, own), law(f"{base}+neff_free"), **options)
    lines = [line(rows, name) | efficiency(free, role, own[name]) for name in found]
    import pandas as pd

    table: Table = pd.DataFrame(lines)
    whole = None
    if len(found) > FEWEST and table["gmse"].notna().all():
        widths = {name: width_of(g) for name, g in zip(found, table["gmse"], strict=True)}
        few = options | {"resamples": min(options.get("resamples", 4000), 1000)}
        foretold = [foretell(rows, name, role, widths, base, few) for name in found]
        table = table.assign(**pd.DataFrame(foretold))
        whole = fit(with_width(rows, role, widths), law(f"{base}+neff_gmse"), **options)
    table = table.sort_values("eff", ascending=False, ignore_index=True)
    return Ranking(table=table, says=tuple(verdict(table)), measured=free, law=whole)


def kept(frame: Table, role: str) -> Table:
    """Final losses with nothing but this role below 16 bits."""
    rows = frame.copy()
    for column in ("P_w", "P_a", "P_kv", "P_post", "P_g"):
        rows[column] = rows[column].fillna(OFF) if column in rows else OFF
    others = [c for c in ("P_w", "P_a", "P_kv", "P_post", "P_g") if c != f"P_{role}"]
    keep = (rows[others] >= OFF).all(axis=1)
    if "phase" in rows:
        keep &= rows["phase"].fillna("final") == "final"
    if "status" in rows:
        keep &= rows["status"].fillna("finished") == "finished"
    return rows[keep].reset_index(drop=True)


def labels(rows: Table, role: str) -> list[str]:
    """Of every row: int4, mx8 element=e4m3; empty at 16 bits."""
    P, place = rows[f"P_{role}"].to_numpy(float), PLACES[f"P_{role}"]
    low = P < OFF
    if place not in rows:
        return [f"{b:g} bits" if here else "" for b, here in zip(P, low, strict=True)]
    out = np.full(len(rows), "", dtype=object)
    for kind, part in rows[low].groupby(place):
        fields = [c for c in part if c.startswith(f"{place}.") and c.rpartition(".")[2] not in NOT_A_KIND]  # fmt: skip
        varied = [c for c in fields if part[c].astype(str).nunique() > 1]
        for i in part.index:
            bits = "" if str(kind)[-1].isdigit() else f"{P[i]:g}"
            said = {c.rpartition(".")[2]: part.loc[i, c] for c in varied}
            more = [f"{k}={_text(v)}" for k, v in said.items() if v is not None and v == v]
            out[i] = " ".join([f"{kind}{bits}", *more])
    return out.tolist()


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def with_width(rows: Table, role: str, widths: dict[str, float]) -> Table:
    """A width per format in the place of its bits, and nothing that tells formats apart otherwise."""
    place = PLACES[f"P_{role}"]
    out = rows[rows["format"].isin(["", *widths])]
    out = out.drop(columns=[c for c in out if c == place or str(c).startswith(f"{place}.")])
    return out.assign(**{f"P_{role}": [widths.get(name, OFF) for name in out["format"]]})


def line(rows: Table, name: str) -> dict[str, Any]:
    """What is known of a format without a law."""
    mine = rows[rows["format"] == name]
    column = next((c for c in (f"gmse_{r}" for r in ROLES) if c in mine and mine[c].notna().all()), "")  # fmt: skip
    bits = next(float(v) for c in ("P_w", "P_a", "P_kv") if (v := mine[c].iloc[0]) < OFF)
    delta = by_family(rows, mine)
    n, mean = len(delta), float(np.mean(delta)) if len(delta) else np.nan
    half = _t(n - 1) * float(np.std(delta, ddof=1)) / np.sqrt(n) if n > 1 else np.nan
    return {
        "format": name, "bits": bits, "gmse": float(mine[column].mean()) if column else np.nan, "runs": len(mine), "families": n,
        "delta": mean, "delta_low": mean - half, "delta_high": mean + half,
    }  # fmt: skip


def by_family(rows: Table, mine: Table) -> Array:
    """Loss less that at 16 bits, of each family the mean over its D."""
    keys = ["family", "N", "D"]
    plain = rows[rows["format"] == ""].groupby(keys)["loss"].mean()
    pairs = mine.merge(plain.rename("plain").reset_index(), on=keys)
    return (pairs["loss"] - pairs["plain"]).groupby(pairs["family"]).mean().to_numpy(float)


def _t(freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))


def efficiency(free: Fit, role: str, width: float) -> dict[str, float]:
    name = f"eff_{role}[{width:g}]"
    low, high = free.interval(name)
    return {"eff": free.params[name], "eff_low": low, "eff_high": high}


def width_of(gmse: float) -> float:
    """Bits of the best uniform quantizer with that error on N(0, 1)."""
    from scipy.optimize import brentq

    ends = [float(log_gmse(float(b))) for b in (LEAST, MOST)]
    if not ends[1] < np.log(gmse) < ends[0]:
        return float(LEAST if np.log(gmse) >= ends[0] else MOST)
    return float(brentq(lambda b: float(log_gmse(b)) - np.log(gmse), LEAST, MOST))  # type: ignore[arg-type]


def foretell(
    rows: Table, name: str, role: str, widths: dict[str, float], base: str, options: dict[str, Any]
) -> dict[str, float]:
    """Of a format, by neff_gmse of all others."""
    others = {k: v for k, v in widths.items() if k != name}
    found = fit(with_width(rows, role, others), law(f"{base}+neff_gmse"), **options)
    at = {f"P_{r}": np.array(widths[name] if r == role else OFF) for r in ROLES}
    samples = {k: np.asarray(v, float) for k, v in found.samples.items()}
    low, high = np.nanquantile(found.law.scale(samples, at), [0.025, 0.975])
    mine = with_width(rows[rows["format"] == name], role, widths)
    return {
        "predicted": float(found.law.scale(found.params, at)), "predicted_low": float(low), "predicted_high": float(high),
        "error": float(np.mean(found.law.loss(found.params, mine) - mine["loss"].to_numpy(float))),
    }  # fmt: skip


def verdict(table: Table) -> list[str]:
    """Which formats are told apart, and how well errors on normal values foretell what they cost."""
    best, worst = table.iloc[0], table.iloc[-1]
    tied = table[table["eff_high"] >= best["eff_low"]]["format"].tolist()[1:]
    said = [
        f"{best['format']} keeps most of the model, N_eff/N {best['eff']:.3g} ({best['eff_low']:.3g} to {best['eff_high']:.3g}), "
        f"{worst['format']} least, {worst['eff']:.3g} ({worst['eff_low']:.3g} to {worst['eff_high']:.3g})"
    ]
    if tied:
        said.append(f"intervals that overlap the first one's: {', '.join(tied)}")
    if table["delta_high"].notna().any():
        costs = table[table["delta_low"] > 0]["format"]
        said.append(f"a cost against 16 bits is certain in {len(costs)} of {len(table)} formats")
    if "predicted" not in table:
        why = "fewer than four formats" if len(table) <= FEWEST else "rows without gmse_w"
        return [*said, f"nothing is predicted from errors on normal values: {why}"]
    return [*said, *foretold(table)]


def foretold(table: Table) -> list[str]:
    from scipy.stats import spearmanr

    rms = float(np.sqrt(np.mean(table["error"] ** 2)))
    spread = float(np.std(table["delta"])) if table["delta"].notna().all() else np.nan
    agreed: Any = spearmanr(table["predicted"], table["eff"])
    rho = float(agreed.statistic)
    within = (table["predicted_low"] <= table["eff_high"]) & (
        table["eff_low"] <= table["predicted_high"]
    )
    furthest = table.loc[table["error"].abs().idxmax()]
    side = "worse" if furthest["error"] > 0 else "better"
    return [
        f"neff_gmse, fitted to the other formats, predicts each within {rms:.2g} nats rms (formats differ by {spread:.2g} nats, "
        f"standard deviation), in their order with rank correlation {rho:.2f}; for {int(within.sum())} of {len(table)} "
        "the two intervals of N_eff/N overlap",
        f"furthest off is {furthest['format']}: {abs(furthest['error']):.2g} nats {side} predicted than it is",
    ]


def shown(table: Table) -> list[str]:
    """The ranking for people."""

    def span(r: Any, name: str, digits: str) -> str:
        return (
            f"{r[name]:{digits}} ({r[f'{name}_low']:{digits}} to {r[f'{name}_high']:{digits}})"
            if np.isfinite(r[name])
            else "-"
        )

    width = max(len(n) for n in table["format"])
    head = f"    {'format':{width}}  bits    gmse  runs  {'nats over 16 bits':26}  {'N_eff/N':22}"
    out = [head + ("  predicted from the others" if "predicted" in table else "")]
    for i, r in enumerate(table.to_dict("records"), 1):
        text = f"{i:3d} {r['format']:{width}}  {r['bits']:4g} {r['gmse']:7.2g} {r['runs']:5d}  {span(r, 'delta', '.4f'):26}  {span(r, 'eff', '.3f'):22}"
        out.append(text + (f"  {span(r, 'predicted', '.3f')}" if "predicted" in table else ""))
    return out
