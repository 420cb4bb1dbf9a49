"""Figures: they draw, they are labelled with units, they touch no global state, and they refuse in words."""

import importlib
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from precisionlaws.fitting import Fit
from precisionlaws.plots import kinds, plot

DATA = {"optimal-bits": ("neff_kumar", "neff_free"), "ptq": ("ptq_kumar",), "fit": ("neff_free",)}


@pytest.mark.parametrize("kind", kinds())
def test_every_figure_draws_from_json_alone(
    fits: dict[str, Fit], kind: str, tmp_path: Path
) -> None:
    chosen = [Fit.from_json(fits[name].to_json()) for name in DATA[kind]]
    figure = plot(kind, chosen)
    assert isinstance(figure, Figure)
    for suffix in ("png", "pdf", "svg"):
        figure.savefig(tmp_path / f"figure.{suffix}")
        assert (tmp_path / f"figure.{suffix}").stat().st_size > 5000
    text = " ".join(t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text")))  # pyright: ignore[reportAttributeAccessIssue]
    assert {"optimal-bits": "bits", "ptq": "nats per token", "fit": "nats per token"}[kind] in text
    assert (
        "matplotlib.pyplot" not in sys.modules
        or not importlib.import_module("matplotlib.pyplot").get_fignums()
    )


@pytest.mark.parametrize("kind", kinds())
def test_no_label_overlaps_another(fits: dict[str, Fit], kind: str) -> None:
    figure = plot(kind, [fits[name] for name in DATA[kind]])
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()  # pyright: ignore[reportAttributeAccessIssue]
    for axes in (a for a in figure.axes if a.get_visible()):
        labels = [t for t in axes.get_xticklabels() if t.get_text() and t.get_visible()]
        boxes = [t.get_window_extent(renderer) for t in labels]
        left, right = axes.get_window_extent(renderer).intervalx
        boxes = sorted(
            (b for b in boxes if left - 1 <= (b.x0 + b.x1) / 2 <= right + 1), key=lambda b: b.x0
        )
        assert all(a.x1 <= b.x0 for a, b in pairwise(boxes))


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
        ("optimal-bits", "chinchilla", "needs laws with an efficiency of bits"),
        ("ptq", "neff_free", "needs a law with a PTQ term"),
    ],
)
def test_what_cannot_be_drawn_is_said(
    fits: dict[str, Fit], kind: str, law: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plot(kind, fits[law])


def test_no_fits() -> None:
    with pytest.raises(ValueError, match="at least one fit"):
        plot("fit", [])
