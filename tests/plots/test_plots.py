"""Figures: they draw, they are labelled with units, they touch no global state, and they refuse in words."""

import importlib
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure

from precisionlaws.fitting import Fit, fit
from precisionlaws.plots import kinds, numbers, plot

UNITS = {
    "optimal-bits": "bits", "effective": "bits", "beliefs": "FLOP", "next-runs": "tokens", "out-of-sample": "%",
    "profiles": "nats", "residuals": "%", "pareto": "bytes", "formats": "runs",
}  # fmt: skip


def rebuilt(given: Any) -> Any:
    """From JSON alone, as the command has it."""
    return given if isinstance(given, Path) else [Fit.from_json(f.to_json()) for f in given]


@pytest.mark.parametrize("kind", kinds())
def test_every_figure_draws_from_what_is_on_disk(
    drawn: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    figure = plot(kind, rebuilt(drawn[kind]))
    assert isinstance(figure, Figure)
    for suffix in ("png", "pdf", "svg"):
        figure.savefig(tmp_path / f"figure.{suffix}")
        assert (tmp_path / f"figure.{suffix}").stat().st_size > 5000
    texts = [t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text"))]  # pyright: ignore[reportAttributeAccessIssue]
    assert UNITS.get(kind, "nats per token") in " ".join(texts)
    assert any(c.isdigit() for c in " ".join(texts))  # n somewhere, beside the ticks
    assert (
        "matplotlib.pyplot" not in sys.modules
        or not importlib.import_module("matplotlib.pyplot").get_fignums()
    )


@pytest.mark.parametrize("width", ["column", pytest.param("page", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", kinds())
def test_no_label_overlaps_another_or_leaves_the_page(
    drawn: dict[str, Any], kind: str, width: str
) -> None:
    figure = plot(kind, drawn[kind], width=width)
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()  # pyright: ignore[reportAttributeAccessIssue]
    page = figure.bbox
    said = [figure._suptitle] if figure._suptitle else []  # pyright: ignore[reportAttributeAccessIssue]
    for axes in (a for a in figure.axes if a.get_visible()):
        labels = [t for t in axes.get_xticklabels() if t.get_text() and t.get_visible()]
        boxes = [t.get_window_extent(renderer) for t in labels]
        left, right = axes.get_window_extent(renderer).intervalx
        boxes = sorted(
            (b for b in boxes if left - 1 <= (b.x0 + b.x1) / 2 <= right + 1), key=lambda b: b.x0
        )
        assert all(a.x1 <= b.x0 for a, b in pairwise(boxes))
        said += [axes.xaxis.label, axes.yaxis.label, axes.title, axes._left_title]  # pyright: ignore[reportAttributeAccessIssue]
        said += [t for legend in [axes.get_legend()] if legend for t in legend.get_texts()]
    said += [t for legend in figure.legends for t in legend.get_texts()]
    if width == "column":
        assert figure.get_size_inches()[0] == 3.3
        assert figure.get_size_inches()[1] <= 7.5
        assert min(t.get_fontsize() for t in said if t.get_text()) >= 6.5
    for text in (t for t in said if t.get_text()):
        box = text.get_window_extent(renderer)
        assert box.x0 >= page.x0 - 2, text.get_text()
        assert box.x1 <= page.x1 + 2, text.get_text()
        assert page.y0 - 2 <= box.y0 <= box.y1 <= page.y1 + 2, text.get_text()


@pytest.mark.parametrize("kind", kinds())
def test_the_data_behind_a_figure_are_a_table(drawn: dict[str, Any], kind: str) -> None:
    table = numbers(kind, drawn[kind])
    assert len(table) > 0
    for low, high in (("low", "high"), ("run_low", "run_high"), ("D_crit_low", "D_crit_high")):
        if low in table:
            assert (table[low] <= table[high]).all()


def test_points_of_a_figure_are_the_runs(drawn: dict[str, Any]) -> None:
    one = drawn["loss"][0]
    plain = one.rows[(one.rows[["P_w", "P_a", "P_kv"]] >= 16).all(axis=1)]
    for axes in plot("loss", one).axes:
        shown = [y for line in axes.lines if line.get_marker() != "None" for y in line.get_ydata()]  # pyright: ignore[reportGeneralTypeIssues]
        assert sorted(shown) == pytest.approx(sorted(plain["loss"]))


def test_lines_are_the_law(drawn: dict[str, Any]) -> None:
    one = drawn["loss"][0]
    table = numbers("loss", one)
    assert one.law.loss(one.params, table[["N", "D"]]) == pytest.approx(table["loss"].to_numpy())
    along = numbers("isoflop", one)
    assert (6 * along["N"] * along["D"]).to_numpy() == pytest.approx(along["flops"].to_numpy())
    for _, part in along.groupby("flops"):
        best = part.loc[part["loss"].idxmin()]
        from precisionlaws.plots.isoflop import optima

        own = optima(one).set_index("flops").loc[best["flops"]]
        assert own["loss"] <= best["loss"] + 1e-12
        assert own["N_low"] <= own["N"] <= own["N_high"]


def test_efficiencies_and_widths_are_those_of_the_plan(drawn: dict[str, Any]) -> None:
    from precisionlaws.planning import plan

    free = drawn["effective"][0]
    table = numbers("effective", free)
    for r in table.to_dict("records"):
        assert r["eff"] == free.quantity(f"eff_{r['role']}({r['P']:g})")[0]
    gain = numbers("optimal-bits", free).set_index("P")["gain"]
    said = plan(free, flops=1e12).regret.set_index("P")["gain"]
    assert gain.to_numpy() == pytest.approx(said.to_numpy())


def test_pareto_keeps_every_point_of_the_largest_D(drawn: dict[str, Any]) -> None:
    table = numbers("pareto", drawn["pareto"])
    assert set(table["D"]) == {500e3}
    assert set(table["how"]) == {"trained", "rounded"}
    assert (table["bytes"] == table["N"] * table["bits"] / 8).all()
    assert set(table[table["how"] == "rounded"]["bits"]) == {3, 4, 5, 6, 8}


def test_residuals_are_measured_over_fitted(drawn: dict[str, Any]) -> None:
    one = drawn["residuals"][0]
    table = numbers("residuals", one)
    fitted = one.law.loss(one.params, one.rows)
    assert table["percent"].to_numpy() == pytest.approx(100 * (one.rows["loss"] / fitted - 1).to_numpy())  # fmt: skip
    assert table["bits"].min() == 3


def test_curves_end_where_the_runs_do(store: Path) -> None:
    table = numbers("curves", store)
    last = table.groupby("run_id").last()
    assert set(table["format"]) == {"16 bits", "w3", "w4", "w6", "a4", "a6", "kv4"}
    assert last["tokens"].to_numpy() == pytest.approx(500e3)
    with pytest.raises(ValueError, match="drawn of a store, not of fits"):
        plot("curves", [])


def test_roles_that_were_only_trained_together_are_not_drawn_apart(demo: pd.DataFrame) -> None:
    off: Any = demo[(demo["P_w"] == 16) & (demo["P_a"] == 16) & (demo["P_kv"] == 16)]
    joint = off.assign(P_w=8, P_a=8, P_kv=8)
    own: Any = demo[demo["P_w"].isin([4, 16])]
    some, none = (
        fit(pd.concat([rows, joint], ignore_index=True), "neff_free", resamples=50) for rows in (own, off)
    )  # fmt: skip
    table = numbers("effective", some)
    assert set(zip(table["role"], table["P"], strict=True)) == {("w", 4), ("a", 4), ("a", 6), ("kv", 4)}  # fmt: skip
    with pytest.raises(ValueError, match="only trained together"):
        numbers("effective", none)
    assert 8 in set(numbers("optimal-bits", none)["P"])


def test_one_fit_need_not_be_wrapped(fits: dict[str, Fit]) -> None:
    assert plot("optimal_bits", fits["neff_free"]).axes


def test_same_fit_same_picture(fits: dict[str, Fit], tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        plot("fit", fits["neff_free"]).savefig(tmp_path / name, metadata={"Software": None})
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("kind", "law", "message"),
    [
        ("optimal-bit", "neff_free", "did you mean 'optimal-bits'"),
        ("style", "neff_free", "no figure 'style'"),
        ("report", "neff_free", "no figure 'report'"),
        ("optimal-bits", "chinchilla", "needs laws with an efficiency of bits"),
        ("effective", "chinchilla", "needs laws with an efficiency of bits"),
        ("beliefs", "chinchilla", "needs laws with an efficiency of bits"),
        ("pareto", "chinchilla", "needs runs with weights below 16 bits"),
        ("next-runs", "chinchilla", "no width below 16 bits"),
        ("ptq", "neff_free", "needs a law with a PTQ term"),
    ],
)
def test_what_cannot_be_drawn_is_said(
    fits: dict[str, Fit], kind: str, law: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plot(kind, fits[law])


def test_compute_of_large_models_does_not_overflow() -> None:
    """800M parameters on 80G tokens are more than 64 bits count."""
    import pandas as pd

    from precisionlaws.plots.style import spent

    rows = pd.DataFrame({"N": [800_000_000], "D": [80_000_000_000]})
    assert spent(rows) == pytest.approx([3.84e20])


def test_an_unknown_width_is_refused(fits: dict[str, Fit]) -> None:
    with pytest.raises(ValueError, match="width must be one of page, column, got 'wide'"):
        plot("fit", fits["neff_free"], width="wide")


def test_no_fits() -> None:
    with pytest.raises(ValueError, match="at least one fit"):
        plot("fit", [])
    with pytest.raises(ValueError, match="drawn of fits, not of 'results'"):
        plot("fit", "results")
