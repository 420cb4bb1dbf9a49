"""Tables of the report."""

import re
from typing import Any

import numpy as np

from precisionlaws.fitting import Fit
from precisionlaws.fitting.derived import blocks
from precisionlaws.fitting.diagnose import marked
from precisionlaws.fitting.summary import evidence
from precisionlaws.laws.base import ROLES
from precisionlaws.planning import Plan
from precisionlaws.planning.beliefs import POOL
from precisionlaws.planning.next import unit_of
from precisionlaws.planning.summary import grown, hardware
from precisionlaws.plots.pages.findings import Findings
from precisionlaws.plots.pages.html import (
    Html,
    amount,
    bits,
    formula,
    interval,
    join,
    number,
    percent,
    table,
    tag,
)


def coefficients(fit: Fit) -> Html:
    """What a fit determines, best determined first."""
    rows = []
    for name, unit in (row for block in blocks(fit) for row in block):
        low, high = fit.interval(name)
        said = "not identified" if marked(fit, name) else ""
        rows.append((symbol(name), fit.quantity(name)[0], (number(low), low), (number(high), high), unit, said))  # fmt: skip
    o, residual = fit.objective, fit.residual
    note = (
        f"{o.n} losses in {fit.clusters} families; residual sd {percent(residual['family_sd'])} between families, "
        f"{percent(residual['run_sd'])} between runs. Intervals: {fit.intervals}. Certificate: {evidence(fit.certificate)}."
    )
    title = join([tag("b", fit.law.full_name), f", {fit.law.source}" if fit.law.source else ""])
    return table(("quantity", "estimate", "95% low", "high", "unit", ""), rows, caption=title, note=note)  # fmt: skip


def regret(plan: Plan) -> Html:
    """Widths by what they waste."""
    rows = [
        (int(r["P"]), r["eff"], interval(r["gain"], r["gain_low"], r["gain_high"]), interval(r["loss"], r["loss_low"], r["loss_high"]),
         interval(r["regret"], r["regret_low"], r["regret_high"], percent), (percent(r["best"]), r["best"]),
         "interpolated" if r["interpolated"] else "trained")
        for r in plan.regret.to_dict("records")
    ]  # fmt: skip
    head = (
        "bits",
        "eff(P)",
        "worth of a FLOP (95%)",
        "loss (95%)",
        "budget wasted (95%)",
        "best in",
        "",
    )
    title = f"Widths under {plan.law}, cost “{plan.cost}”, {number(plan.flops, 2)} FLOP. Worth is relative to 16 bits; “best in” is the share of draws."
    return table(head, rows, caption=title, note=first_upper(" ".join(hardware(plan))))


def tradeoff(plan: Plan) -> Html:
    """N* and D* against P at equal compute."""
    rows = []
    for r in plan.tradeoff.to_dict("records"):
        row: list[object] = [int(r["P"])]
        for k in ("N", "D"):
            of = f"{k} of 16"
            row += [interval(r[k], r[f"{k}_low"], r[f"{k}_high"], amount), interval(r[of], r[f"{of} low"], r[f"{of} high"])]  # fmt: skip
        rows.append(row)
    head = ("bits", "N* (95%)", "over that at 16 bits", "D* (95%)", "over that at 16 bits")
    title = f"The best N and D at {number(plan.flops, 2)} FLOP, {plan.law}, cost “{plan.cost}”"
    return table(head, rows, caption=title, note=first_upper(grown(plan)) + ".")


def budgets(found: Findings) -> Html:
    """One plan per law."""
    rows = [
        (p.law, *(interval(getattr(p, k), *p.interval(k), form) for k, form in QUANTITIES.items()))
        for p in found.plans
    ]
    head = ("law", "N (95%)", "D (95%)", "bits (95%)", "loss (95%)")
    return table(head, rows, caption=f"What to train for {number(found.flops, 2)} FLOP")


def critical(plan: Plan) -> Html:
    """What rounding costs at the plan's N and D."""
    rows = [
        ((bits(r["P_post"]), r["P_post"]), interval(r["delta"], r["delta_low"], r["delta_high"]),
         interval(r["D_crit"], r["D_crit_low"], r["D_crit_high"], amount), "beyond the data" if r["extrapolated"] else "")
        for r in plan.critical.to_dict("records")
    ]  # fmt: skip
    head = ("bits after training", "δ in nats (95%)", "D_crit in tokens (95%)", "")
    title = f"What rounding adds to the loss at N = {amount(plan.N)} and D = {amount(plan.D)}, and the tokens beyond which more training hurts"
    return table(head, rows, caption=title)


def beliefs(found: Findings) -> Html:
    """The best width by law and cost, a column per budget; then the likeliest widths."""
    rows, budgets = [], sorted(set(found.widths["flops"]))
    for (name, cost, published), part in found.widths.groupby(["law", "cost", "published"], sort=False):  # fmt: skip
        by = part.set_index("flops").loc[budgets].to_dict("records")
        cells = [(bits(r["P"]), r["P"]) if published else interval(r["P"], r["low"], r["high"], bits) for r in by]  # fmt: skip
        shares = sorted(by[-1]["shares"].items(), key=lambda s: -s[1])[:3]
        said = "" if published else ", ".join(f"{b} in {percent(s)}" for b, s in shares)
        rows.append((f"{name}, published" if published else name, cost or "all", *cells, said))
    head = ("law", "cost", *(f"{number(C, 2)} FLOP" for C in budgets), "likeliest, of draws")
    title = (
        f"P* in bits (95%) by law, cost model and budget; “{POOL}” takes each as equally credible"
    )
    return table(head, rows, caption=title)


def out_of_sample(found: Findings) -> Html:
    """Laws by their errors at larger runs."""
    rows = [
        (r["full_name"], int(r["parameters"]), (percent(r["rms"]), r["rms"]),
         interval(r["heldout_rms"], r["low"], r["high"], percent), "among the best" if r["in_set"] else "worse", r["p"])
        for r in found.laws.to_dict("records")
    ]  # fmt: skip
    head = ("law", "parameters", "rms in sample", "rms at larger runs (95%)", "at 95%", "p")
    return table(head, rows, caption="Which law predicts larger runs from smaller ones")


def following(found: Findings) -> Html:
    """The runs to train next."""
    rows = [
        ((amount(r["N"]), r["N"]), (amount(r["D"]), r["D"]), *(int(r[f"P_{x}"]) for x in ROLES), int(r["seed"]),
         r["seconds"], (percent(r["left"]), r["left"]))
        for r in found.next.to_dict("records")
    ]  # fmt: skip
    head = ("N", "D", "P_w", "P_a", "P_kv", "seed", unit_of(found.fits), "variance left")
    title = f"To settle {found.next['aim'].iloc[0]}: the runs that tell most per second, each given those above it"
    return table(head, rows, caption=title)


SHOWN = ("run_id", "family", "N", "D", "P_w", "P_a", "P_kv", "P_post", "seed", "loss", "delta_ptq", "status")  # fmt: skip
DIGITS = 6
QUANTITIES = {"N": amount, "D": amount, "P": bits, "loss": number}
GREEK = {"alpha": "α", "beta": "β", "gamma": "γ", "kappa": "κ", "delta": "δ"}


def rows_of(frame: Any, fits: tuple[Fit, ...]) -> dict[str, Any]:
    """All rows for the script of the page: {columns: [...], rows: {column: [...]}}; None where nothing is known."""
    table = frame.reindex(columns=[c for c in SHOWN if c in frame])
    if "status" in table and (table["status"] == "finished").all():
        table = table.drop(columns="status")
    columns = {str(c): [_plain(v) for v in table[c].tolist()] for c in table}
    residual = _residual(frame, fits)
    if residual is not None:
        columns["residual_%"] = [_plain(v) for v in residual]
    return {"columns": list(columns), "rows": list(columns.values())}


def _residual(frame: Any, fits: tuple[Fit, ...]) -> Any:
    """100 (measured / fitted − 1) of the first fit, where a row is of that fit."""
    if not fits or "run_id" not in frame or "run_id" not in fits[0].rows:
        return None
    fit = fits[0]
    with np.errstate(all="ignore"):
        fitted = fit.law.evaluate(fit.params, fit.law.read(fit.rows))
    own = dict(zip(fit.rows["run_id"], 100 * (fit.rows["loss"].to_numpy(float) / fitted - 1), strict=True))  # fmt: skip
    plain = frame["P_post"] >= 16 if "P_post" in frame else np.ones(len(frame), bool)
    return [own.get(r, np.nan) if p else np.nan for r, p in zip(frame["run_id"], plain, strict=True)]  # fmt: skip


def _plain(value: Any) -> Any:
    """A number of a few digits, or text."""
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, int | float | np.number):
        v = float(value)
        if not np.isfinite(v):
            return None
        short = float(f"{v:.{DIGITS}g}")
        return int(v) if v == int(v) and abs(v) < 1e15 else short
    return str(value)


def symbol(name: str) -> Html:
    """gamma_D as γ with D below."""
    head, mark, rest = name.partition("_")
    head = GREEK.get(head, head)
    plain = len(head) > 1 or not re.fullmatch(r"\w*", rest) or "_" in rest
    return join([head + mark + rest]) if plain else formula(head + mark + rest)


def first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]
