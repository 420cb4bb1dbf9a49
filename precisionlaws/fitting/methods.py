"""PTQ methods side by side: the same law fitted to the δ of each, and what differs, exponents or constants.

Widths are those that are stored (`bits_effective`): scales, zero points and codebooks cost up to a bit per
weight in small models, and by nominal widths a method would look better for what it does not count.

Every fit draws with the same seed. Where two methods rounded the same families, a draw of one and the same
draw of the other give families the same weight, so that differences of draws are paired and what families
share cancels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from precisionlaws import laws
from precisionlaws.config import nearest
from precisionlaws.fitting.fit import Fit, fit
from precisionlaws.fitting.rows import Table
from precisionlaws.laws import Law
from precisionlaws.laws.base import OFF, Array

WIDTHS = ("effective", "nominal")
AT = 4.0  # bits, where constants are compared
LEVEL = 0.95


def by_method(
    frame: Table, law: Law | str, bits: str = "effective", **options: Any
) -> dict[str, Fit]:
    """`fit` for every PTQ method of `frame`, to the runs that all have in common and to its δ.

    Raises: ValueError if the law has no PTQ term, or the frame does not name methods.
    """
    law = laws.law(law) if isinstance(law, str) else law
    if not law.paired:
        raise ValueError(f"{law.full_name} has no PTQ term: take ptq_kumar or ptq_qid, say")
    if "ptq" not in frame:
        raise ValueError("the frame has no column ptq that names the method of each rounded run")
    after: Any = frame["P_post"] < OFF
    names = [str(n) for n in frame.loc[after, "ptq"].dropna().unique()]
    if not names:
        raise ValueError("no row was rounded after training: precisionlaws quantize makes them")
    names.sort(key=lambda n: n != "rtn")  # what others are held against
    frame = with_bits(frame, law, bits)
    after = after[frame.index]
    return {n: fit(frame[~after | (frame["ptq"] == n)], law, **options) for n in names}


def with_bits(frame: Table, law: Law, bits: str) -> Table:
    """The frame with P_post as widths of this kind. A regime of the law is one of nominal widths.

    Raises: ValueError where effective bits are missing, or would be held against nominal ones.
    """
    if bits not in WIDTHS:
        raise ValueError(f"bits must be effective or nominal, got {bits!r}{nearest(bits, WIDTHS)}")
    if bits == "nominal" or not law.paired:
        return frame
    if any(c != "P_post" for t in law.paired for c in t.COLUMNS if c.startswith("P_")):
        raise ValueError(
            f"{law.full_name} compares P_post with the bits in training, which are nominal: bits=nominal"
        )
    after: Any = frame["P_post"] < OFF
    if "bits_effective" not in frame or frame.loc[after, "bits_effective"].isna().any():
        raise ValueError("bits=effective needs bits_effective of every rounded run: bits=nominal")
    least = max(getattr(t, "MIN_BITS", 0.0) for t in law.paired)
    said = list(frame.attrs.get("left_out", ()))
    outside = after & (frame["P_post"] < least)
    if outside.any():
        said.append((f"P_post < {least:g}: outside the regime of the term", int(outside.sum())))
    out = frame[~outside].copy()
    out.attrs = {**frame.attrs, "left_out": said}
    out["P_post"] = out["P_post"].astype(float).where(~after[~outside], out["bits_effective"])
    return out


def table(fits: Mapping[str, Fit], level: float = LEVEL) -> Table:
    """A row per method and quantity: estimate, low, high; and the same for its difference from the first method
    (`δ at 4 bits`: its ratio).

    The quantities: every parameter of the PTQ term but its constant, and δ at 4 bits and the centre of N and D.
    """
    import pandas as pd

    first, rows = next(iter(fits.values())), []
    at = centre(first)
    base = quantities(first, at)
    for name, one in fits.items():
        paired = one.clusters == first.clusters and families(one) == families(first)
        for what, (value, draws) in quantities(one, at).items():
            reference, others = base[what]
            ratio = what == constant()
            change = value / reference if ratio else value - reference
            shifted = mixed(draws, others, ratio, paired)
            low, high = one.interval(what, level) if what in one.params else span(draws, level)
            less, more = span(shifted, level) if one is not first else (change, change)
            rows.append(
                {"method": name, "rows": len(one.delta_rows), "quantity": what, "estimate": value, "low": low,
                 "high": high, "change": change, "change_low": less, "change_high": more, "certified": one.certified}
            )  # fmt: skip
    return pd.DataFrame(rows)


def quantities(one: Fit, at: Mapping[str, float]) -> dict[str, tuple[float, Array]]:
    """Value and draws of what methods are compared by."""
    linear = {name for t in one.law.paired for name in getattr(t, "LINEAR", ())}
    of_term = {q.name for t in one.law.paired for q in t.params(one.law.read(one.delta_rows))}
    names = [q.name for q in one.law.params if q.name in of_term - linear]
    x = one.law.read({**at, "P_post": AT})
    here = [one.law.penalty(p, x, one.law.paired) for p in (one.params, one.samples)]
    out = {name: (one.params[name], one.samples[name]) for name in names}
    return {**out, constant(): (float(here[0]), np.asarray(here[1], float))}


def constant() -> str:
    return f"δ at {AT:g} bits"


def centre(one: Fit) -> dict[str, float]:
    return {
        c: float(np.exp(np.mean(np.log(one.delta_rows[c].to_numpy(float))))) for c in ("N", "D")
    }


def families(one: Fit) -> set[str]:
    return set(map(str, one.delta_rows["family"]))


def mixed(a: Array, b: Array, ratio: bool, paired: bool) -> Array:
    """a - b or a / b, draw by draw; independent where the draws are not of the same families."""
    n = min(len(a), len(b))
    a, b = a[:n], b[:n] if paired else np.roll(b[:n], n // 3)
    with np.errstate(all="ignore"):
        return a / b if ratio else a - b


def span(draws: Array, level: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], method="nearest")
    return float(low), float(high)


def verdict(rows: Table) -> list[str]:
    """A sentence per method: does it change the exponents, or only the constant?"""
    out: list[str] = []
    names = list(dict.fromkeys(rows["method"]))
    for name in names[1:]:
        mine = rows[rows["method"] == name]
        powers, ratio = mine[mine["quantity"] != constant()], mine[mine["quantity"] == constant()].iloc[0]  # fmt: skip
        moved = [
            f"{r.quantity} is {r.change:+.3g} ({r.change_low:+.3g} to {r.change_high:+.3g})"
            for r in powers.itertuples()
            if r.change_low > 0 or r.change_high < 0
        ]
        said = "; ".join(moved) or "no exponent differs beyond its interval"
        out.append(
            f"{name} against {names[0]}: {said}; {constant()} is {ratio['change']:.3g} times "
            f"({ratio['change_low']:.3g} to {ratio['change_high']:.3g})"
        )
    return out


def warnings(fits: Mapping[str, Fit]) -> list[str]:
    """Of all fits, each once, with the methods that it is of unless it is of all."""
    said: dict[str, list[str]] = {}
    for name, one in fits.items():
        for text in one.warnings:
            said.setdefault(text, []).append(name)
    return [t if len(of) == len(fits) else f"{', '.join(of)}: {t}" for t, of in said.items()]


def shown(rows: Table) -> list[str]:
    """Methods as lines, quantities as columns: estimate [low, high]."""
    quantities_ = list(dict.fromkeys(rows["quantity"]))
    head = ["method", "rows", *quantities_]
    body: list[Sequence[str]] = []
    for name, part in rows.groupby("method", sort=False):
        cells = [f"{r.estimate:.3g} [{r.low:.3g}, {r.high:.3g}]" for r in part.itertuples()]
        body.append([str(name), str(part["rows"].iloc[0]), *cells])
    wide = [max(len(line[i]) for line in (head, *body)) for i in range(len(head))]
    return ["  ".join(c.ljust(w) for c, w in zip(line, wide, strict=True)).rstrip() for line in (head, *body)]  # fmt: skip
