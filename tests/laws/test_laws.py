"""Every law of conf/law keeps the same contract; published constants give the published numbers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import precisionlaws
from precisionlaws import laws
from precisionlaws.fitting import fit
from precisionlaws.fitting.simulate import crossed, simulate
from precisionlaws.laws import OFF, Law, law
from precisionlaws.laws.base import BITS

NAMES = sorted(
    p.stem for p in (Path(precisionlaws.__file__).parent / "conf" / "law").glob("*.yaml")
)
POINT = {"N": 1e8, "D": 1e10}


def accepted(one: Law, column: str) -> list[float]:
    """Widths at which the law with its published constants has a value."""
    found = []
    for P in (3.0, 4.0, 5.0, 6.0, 8.0, 12.0) if column in one.columns else ():
        try:
            one.loss(published(one), {**POINT, column: P})
        except ValueError:
            continue
        found.append(P)
    return found


def published(one: Law) -> Mapping[str, float]:
    assert one.published, f"conf/law/{one.name}.yaml has no published constants to test with"
    return one.published


@pytest.fixture(params=NAMES)
def one(request: pytest.FixtureRequest) -> Law:
    return law(request.param)


def test_recovers_its_own_parameters(one: Law) -> None:
    widths = [{c: P} for c in BITS[:3] for P in accepted(one, c)]
    design = crossed(
        (3e7, 6e7, 1.1e8, 2.2e8), (1.5e9, 6e9, 2.6e10), widths, post=accepted(one, "P_post")
    )
    frame = simulate(one, published(one), design)
    found = fit(frame, one, loss="ls", resamples=2)
    fitted = {k: v for k, v in published(one).items() if k in found.params}
    assert found.certified
    assert set(found.params) == set(fitted)
    for name, true in fitted.items():
        assert found.params[name] == pytest.approx(true, rel=1e-4, abs=1e-4), name


def test_more_bits_never_hurt(one: Law) -> None:
    for column in BITS:
        widths = [*accepted(one, column), OFF]
        losses = [float(one.loss(published(one), {**POINT, column: P})) for P in widths]
        assert losses == sorted(losses, reverse=True)


def test_16_bits_are_exactly_off(one: Law) -> None:
    x = {**POINT, **dict.fromkeys(BITS, OFF)}
    p = published(one)
    assert one.loss(p, x) == one.base.loss(p, POINT["N"], POINT["D"])
    assert one.loss(p, {**x, "P_w": np.nan}) == one.loss(
        p, x
    )  # an empty cell is an unquantized run


@pytest.mark.parametrize("column", ["N", "D"])
def test_names_the_missing_column(one: Law, column: str) -> None:
    left = {k: v for k, v in POINT.items() if k != column}
    with pytest.raises(ValueError, match=rf"needs the column\(s\) {column}; there are"):
        one.loss(published(one), left)
    frame = pd.DataFrame({**left, "loss": [3.0]}, index=[0])
    with pytest.raises(ValueError, match=rf"needs the column\(s\) {column}; the frame has"):
        fit(frame, one)


def test_cites_its_source(one: Law) -> None:
    assert "20" in one.source
    assert all(m.__doc__ for m in (one.base, *one.terms))


def test_parameter_arrays_broadcast_over_rows(one: Law) -> None:
    p = {k: np.array([[v], [v]]) for k, v in published(one).items()}
    out = one.loss(p, {"N": np.array([1e8, 2e8, 3e8]), "D": np.full(3, 1e10)})
    assert out.shape == (2, 3)
    assert (out[0] == out[1]).all()


def test_gradient_of_a_base_is_that_of_its_loss(one: Law) -> None:
    if not hasattr(one.base, "grad"):
        pytest.skip(f"{one.full_name}: the base gives no gradient")
    p, N, D, h = dict(published(one)), 1e8, 1e10, 1e-30
    grad = one.base.grad(p, N, D)
    assert grad["loss"] == pytest.approx(one.base.loss(p, N, D), rel=1e-14)
    for name in set(grad) & set(p):
        step = np.imag(one.base.loss({**p, name: p[name] + 1j * h}, N, D)) / h
        assert grad[name] == pytest.approx(step, rel=1e-12)
    assert grad["N"] == pytest.approx(
        np.imag(one.base.loss(p, N * np.exp(1j * h), D)) / h, rel=1e-12
    )
    assert grad["D"] == pytest.approx(
        np.imag(one.base.loss(p, N, D * np.exp(1j * h))) / h, rel=1e-12
    )


@pytest.mark.golden
@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("chinchilla/hoffmann2022", "chinchilla"),
        ("chinchilla/epoch2024", "chinchilla"),
        ("chinchilla/kumar2024", "chinchilla"),
        ("chinchilla/chen2025", "chinchilla"),
        ("kumar_neff/offset", "neff_kumar"),
        ("kumar_neff/no_offset", "neff_kumar"),
        ("kumar_ptq/no_b", "ptq_kumar"),
    ],
)
def test_reference_losses(goldens: Path, key: str, name: str) -> None:
    laws_file = json.loads((goldens / "law_goldens.json").read_text())["laws"]
    if key not in laws_file:
        pytest.skip(f"{key} is not in this folder of reference vectors")
    entry = laws_file[key]
    params = {
        k: v for k, v in entry["params"].items() if "no_offset" not in key or not k.startswith("n_")
    }
    for case in entry["cases"]:
        x: dict[str, Any] = {k: OFF if v is None else v for k, v in case["inputs"].items()}
        assert law(name).loss(params, x) == pytest.approx(case["loss"], rel=1e-10)


def test_composes_on_the_spot() -> None:
    assert (
        law("chinchilla+neff_kumar").full_name
        == law("neff_kumar").full_name
        == "chinchilla+neff_kumar"
    )
    assert law("neff_free+ptq_kumar").full_name == "chinchilla+neff_free+ptq_kumar"
    assert "Kumar" in law("neff_free+ptq_kumar").source


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("neff_kumer", "did you mean 'neff_kumar'"),
        ("chinchila+neff_free", "did you mean 'chinchilla'"),
        ("", "no law or term ''"),
        ("chinchilla+neff_free+neff_free", "names a term twice"),
        ("chinchilla+chinchilla", "one base comes first"),
        ("../law/chinchilla", "no law or term"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        law(name)


def test_outside_its_domain_a_law_says_so() -> None:
    """The published constants make the factor of activations negative below 3.11 bits."""
    one = law("neff_kumar")
    with pytest.raises(ValueError, match=r"P_a = 3 bits.*up to 3\.11 bits"):
        one.loss(published(one), {**POINT, "P_a": 3})
    free = law("neff_free")
    with pytest.raises(ValueError, match=r"P_w = 5 bits was not measured"):
        free.loss(published(free), {**POINT, "P_w": 5})


def test_a_role_without_parameters_cannot_be_quantized() -> None:
    with pytest.raises(ValueError, match="no gamma_kv"):
        law("neff_kumar").loss(
            {**published(law("chinchilla")), "gamma_w": 2.0}, {**POINT, "P_kv": 4}
        )


def test_parameters_are_those_the_data_speak_of() -> None:
    frame = crossed((1e8, 2e8), (1e9, 2e9), [{"P_w": 3}, {"P_w": 4}, {"P_kv": 4}]).assign(loss=3.0)
    assert [q.name for q in law("neff_free").bind(frame).params[5:]] == [
        "eff_w[3]",
        "eff_w[4]",
        "eff_kv[4]",
    ]
    assert [q.name for q in law("neff_kumar").bind(frame).params[5:]] == [
        "gamma_w",
        "n_w",
        "gamma_kv",
    ]


def test_names_lists_every_law() -> None:
    assert {"chinchilla", "neff_free", "neff_kumar", "ptq_kumar"} <= set(laws.names())


def test_an_unknown_key_of_a_yaml_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.yaml").write_text("base: chinchilla\nterm: [neff_free]\n")
    monkeypatch.setattr(laws, "_conf", lambda: tmp_path)
    with pytest.raises(ValueError, match="unknown key\\(s\\) term"):
        law("mine")
