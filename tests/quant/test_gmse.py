"""Errors on normal values: those of the literature where it has them, and what a row says of a run."""

from typing import Any

import pytest

from precisionlaws.config import build
from precisionlaws.laws.neff_gmse import gmse as uniform
from precisionlaws.overrides import option
from precisionlaws.quant.formats.base import Format
from precisionlaws.quant.gmse import columns, gmse, of_matrices
from precisionlaws.run import compose
from precisionlaws.training.result import base_row


def made(name: str, **fields: Any) -> Format:
    spec = build(option("format", name) | fields, Format)
    assert isinstance(spec, Format)
    return spec


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6])
def test_the_uniform_quantizer_has_the_error_of_the_law(bits: int) -> None:
    """One scale of a long vector is nearly the best for N(0, 1)."""
    assert gmse(made("quest", bits=bits), 8192) == pytest.approx(uniform(bits)[0], rel=0.03)


@pytest.mark.parametrize(
    ("name", "fields", "worse"),
    [
        ("int4", {}, ("int", {"bits": 3})),
        ("int4", {"granularity": "group", "group": 16}, ("int4", {})),
        ("int", {"bits": 3, "scale": "mse"}, ("int", {"bits": 3})),
        ("nvfp4", {"outer": "none"}, ("mxfp4", {})),
        ("mxfp6", {}, ("mxfp4", {})),
        ("fp6_e2m3", {}, ("fp6", {})),
    ],
)
def test_order(name: str, fields: dict[str, Any], worse: tuple[str, dict[str, Any]]) -> None:
    assert gmse(made(name, **fields), 256) < gmse(made(worse[0], **worse[1]), 256)


def test_scales_that_span_a_tensor_are_of_all_its_rows() -> None:
    over_all = made("int_tensor", bits=4)
    assert gmse(over_all, 64, 64) > 1.2 * gmse(made("int4"), 64)
    assert gmse(over_all, 64, 1) == pytest.approx(gmse(made("int4"), 64), rel=1e-6)
    assert of_matrices(over_all, [("w", 64, 64)]) == pytest.approx(gmse(over_all, 64, 64), rel=1e-3)


def test_a_learned_scale_counts_as_the_one_of_least_error() -> None:
    learned = made("int", bits=3, scale="learned", estimator="lsq")
    assert gmse(learned, 128) == gmse(made("int", bits=3, scale="mse"), 128)


def test_rows_have_it_where_something_is_rounded() -> None:
    run = compose(["size=7k", "tokens=4k", "format@quant.weights=nvfp4", "quant.kv.bits=4"])
    row = base_row(run, build(option("exec", "default")))  # type: ignore[arg-type]
    assert row["gmse_w"] == pytest.approx(0.0091, rel=0.05)
    assert row["gmse_a"] is None
    assert row["gmse_kv"] == float(f"{gmse(run.quant.kv, 16):.4g}")
    off = compose(["size=7k", "tokens=4k"]).quant
    assert set(columns(off, [("w", 4, 4)], 4).values()) == {None}
