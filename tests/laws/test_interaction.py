"""The factor of joint formats: recovered, neutral elsewhere, refused where the data cannot speak of it."""

from typing import Any

import numpy as np
import pytest

from precisionlaws.fitting import Fit, fit
from precisionlaws.fitting.objective import STEP, block
from precisionlaws.fitting.rows import centre
from precisionlaws.fitting.simulate import crossed, simulate
from precisionlaws.laws import law
from precisionlaws.laws.interaction import joint

TRUE = {
    "A": 6.53, "alpha": 0.278, "B": 17.3, "beta": 0.188, "E": 1.0, "eff_w[4]": 0.87, "eff_a[4]": 0.75, "eff_kv[4]": 0.92,
    "kappa[w4a4]": 1.0, "kappa[w4a4kv4]": 0.8,
}  # fmt: skip
ALONE: list[dict[str, float]] = [{"P_w": 4}, {"P_a": 4}, {"P_kv": 4}]
JOINT: list[dict[str, float]] = [{"P_w": 4, "P_a": 4}, {"P_w": 4, "P_a": 4, "P_kv": 4}]
SIZES, TOKENS = (7e3, 2e4, 5e4, 2e5), (1e5, 4e5, 2e6)


def study(widths: list[dict[str, float]]) -> Any:
    return crossed(SIZES, TOKENS, widths, seeds=1)


def test_recovers_its_own_factors() -> None:
    one = law("neff_free+interaction")
    frame = simulate(one, TRUE, study(ALONE + JOINT))
    found = fit(frame, one, loss="ls", resamples=2)
    assert found.certified
    assert {k: found.params[k] for k in TRUE} == pytest.approx(TRUE, rel=1e-4)
    again = Fit.from_json(found.to_json())
    assert again.params == found.params
    assert again.law.full_name == "chinchilla+neff_free+interaction"
    # one part alone has no factor, so its profile belongs to the efficiency too
    assert found.interval("eff_w(4)") == found.interval("eff_w[4]")
    at4 = TRUE["eff_w[4]"] * TRUE["eff_a[4]"] * TRUE["eff_kv[4]"] * 0.8
    assert found.quantity("eff(4)")[0] == pytest.approx(at4, rel=1e-4)


def test_other_formats_are_left_alone() -> None:
    one, without = law("neff_free+interaction"), law("neff_free")
    plain = {k: v for k, v in TRUE.items() if not k.startswith("kappa")}
    for bits in ({}, *ALONE, {"P_w": 4, "P_kv": 4}, {"P_a": 4, "P_kv": 4}, {"P_w": 32, "P_a": 4}):
        x = {"N": 1e5, "D": 1e6, **bits}
        assert one.loss(TRUE, x) == without.loss(plain, x)
    x = {"N": 1e5, "D": 1e6, "P_w": 4, "P_a": 4, "P_kv": 32}
    assert one.loss({**TRUE, "kappa[w4a4]": 0.5}, x) > one.loss(TRUE, x)


@pytest.mark.parametrize("name", ["neff_free+interaction", "nd_eff"])
def test_given_slopes_are_those_of_the_scale(name: str) -> None:
    frame = study(ALONE + JOINT).assign(loss=3.0)
    one = law(name).bind(frame)
    b = block("loss", one, frame, centre(frame))
    u = np.random.default_rng(0).normal(0.2, 0.1, (3, len(b.params)))
    J = b.jacobian(u)[1]
    for j in range(len(b.params)):
        z = u.astype(complex)
        z[:, j] += 1j * STEP
        assert J[:, j] == pytest.approx(np.imag(b.predict(z)) / STEP, rel=1e-10, abs=1e-14)


@pytest.mark.parametrize(
    ("name", "widths", "message"),
    [
        ("neff_free+interaction", ALONE, "no run quantizes two roles at once"),
        ("neff_free+interaction", [ALONE[0], *JOINT], r"w4a4 lacks a4; alone there are w4\)"),
        ("neff_free+interaction", JOINT, "alone there are none"),
        ("interaction", ALONE + JOINT, r"corrects another scale of N and says nothing alone: neff_free\+interaction"),
    ],
)  # fmt: skip
def test_where_the_data_cannot_speak_of_it(name: str, widths: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(study(widths).assign(loss=3.0), name)


def test_a_format_whose_parts_were_not_trained_alone_has_no_factor() -> None:
    frame = study([*ALONE, *JOINT, {"P_w": 4, "P_a": 8}]).assign(loss=3.0)
    one = law("neff_free+interaction").bind(frame)
    assert [q.name for q in one.params if "kappa" in q.name] == ["kappa[w4a4]", "kappa[w4a4kv4]"]
    found, alone = joint(one.read(frame))
    assert found == {"w4a4": (), "w4a4kv4": (), "w4a8": ("a8",)}
    assert alone == ("a4", "kv4", "w4")
    assert one.terms[1].notes(one.read(frame)) == (
        "w4a8: a8 never trained alone, the product law is taken for it",
    )
