"""PTQ methods side by side: known exponents and constants come out again, in stored bits."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from precisionlaws.cli import app
from precisionlaws.fitting.methods import by_method, constant, table, verdict, warnings, with_bits
from precisionlaws.fitting.simulate import crossed, simulate
from precisionlaws.laws import law

TRUE = {
    "A": 6.53, "alpha": 0.278, "B": 17.3, "beta": 0.188, "E": 0.0,
    "C_T": 0.018, "gamma_D": 0.69, "gamma_N": 0.25, "gamma_post": 0.63,
}  # fmt: skip
OVERHEAD = 1.0  # bits of scales


def study(**other: dict[str, float]) -> Any:
    """RTN, and methods whose parameters differ as said; nominal widths are one bit below the stored ones."""
    design = crossed((6656, 20480, 50000), (125e3, 250e3, 500e3), post=(4, 5, 6))
    parts = []
    for k, (name, change) in enumerate({"rtn": {}, **other}.items()):
        noise: dict[str, Any] = {"family_sd": 0.01, "delta_sd": (1e-4, 0.05)}
        frame: Any = simulate(law("chinchilla+ptq_kumar"), TRUE | change, design, **noise, seed=k)
        after = frame["P_post"] < 16
        frame["ptq"] = pd.Series(name, frame.index).where(after)
        frame["eval_id"] = np.where(after, [f"{name}{p:g}" for p in frame["P_post"]], "final")
        frame["bits_effective"] = frame["P_post"]
        frame["P_post"] = frame["P_post"].where(~after, frame["P_post"] - OVERHEAD)
        parts.append(frame if not k else frame[after])
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def frame() -> Any:
    return study(half={"C_T": 0.009}, steeper={"gamma_D": 0.99, "C_T": 0.018 * 250e3**-0.3})


def test_exponents_and_constants(frame: Any) -> None:
    fits = by_method(frame, "ptq_kumar", resamples=300)
    rows = table(fits)
    assert list(fits) == ["rtn", "half", "steeper"]
    assert len(warnings(fits)) == len(set().union(*(f.warnings for f in fits.values())))
    assert warnings({"a": fits["rtn"], "b": fits["rtn"]}) == list(fits["rtn"].warnings)
    assert (rows["rows"] == 3 * 3 * 2 * 3).all()
    assert list(dict.fromkeys(rows["quantity"])) == ["gamma_D", "gamma_N", "gamma_post", constant()]
    of = rows.set_index(["method", "quantity"])
    for name, value in (("gamma_D", 0.69), ("gamma_N", 0.25), ("gamma_post", 0.63)):
        r = of.loc[("rtn", name)]
        assert r["low"] < r["estimate"] < r["high"]
        assert r["estimate"] == pytest.approx(value, abs=0.1)
    half, steeper = of.loc["half"], of.loc["steeper"]
    assert half.loc[constant(), "change"] == pytest.approx(0.5, abs=0.05)
    assert half.loc[constant(), "change_high"] < 0.6
    assert half.loc["gamma_D", "change_low"] < 0 < half.loc["gamma_D", "change_high"]
    assert steeper.loc["gamma_D", "change_low"] > 0
    assert steeper.loc["gamma_D", "change"] == pytest.approx(0.3, abs=0.1)
    said = verdict(rows)
    assert "half against rtn: no exponent differs beyond its interval; δ at 4 bits is 0." in said[0]
    assert "steeper against rtn: gamma_D is +0.3" in said[1]


def test_stored_bits_and_nominal_ones(frame: Any) -> None:
    """A bit of scales on top multiplies the constant and leaves the exponents alone."""
    rtn = frame[frame["ptq"] != "half"]
    rtn = rtn[rtn["ptq"] != "steeper"]
    stored, nominal = (by_method(rtn, "ptq_kumar", b, resamples=50)["rtn"] for b in ("effective", "nominal"))  # fmt: skip
    assert stored.params["gamma_post"] == pytest.approx(nominal.params["gamma_post"], rel=1e-3)
    ratio = stored.params["C_T"] / nominal.params["C_T"]
    assert ratio == pytest.approx(np.exp(OVERHEAD / stored.params["gamma_post"]), rel=0.02)
    assert set(stored.delta_rows["P_post"]) == {4, 5, 6}
    two = rtn.assign(P_post=np.where(rtn["P_post"] == 3, 2.0, rtn["P_post"]))
    fit = by_method(two, "ptq_kumar", resamples=50)["rtn"]  # 2 nominal bits are outside its regime
    assert set(fit.delta_rows["P_post"]) == {5, 6}
    assert ("P_post < 3: outside the regime of the term", 18) in fit.left_out


def test_errors(frame: Any) -> None:
    with pytest.raises(ValueError, match="chinchilla has no PTQ term"):
        by_method(frame, "chinchilla")
    with pytest.raises(ValueError, match="no column ptq"):
        by_method(frame.drop(columns="ptq"), "ptq_kumar")
    with pytest.raises(ValueError, match="no row was rounded"):
        by_method(frame[frame["P_post"] == 16], "ptq_kumar")
    with pytest.raises(ValueError, match="needs bits_effective of every rounded run"):
        with_bits(frame.drop(columns="bits_effective"), law("ptq_kumar"), "effective")
    with pytest.raises(ValueError, match="compares P_post with the bits in training"):
        with_bits(frame, law("ptq_kumar_trained"), "effective")
    with pytest.raises(ValueError, match="did you mean 'effective'"):
        with_bits(frame, law("ptq_kumar"), "efective")


def test_the_command(frame: Any, tmp_path: Any) -> None:
    path, out = tmp_path / "rows.csv", tmp_path / "fits"
    frame.to_csv(path, index=False)
    command = ["fit", str(path), "--law", "ptq_kumar", "--by-method", "--resamples", "50"]
    run = CliRunner().invoke(app, [*command, "-o", str(out)])
    assert run.exit_code == 0, run.output
    lines = run.stdout.splitlines()
    assert lines[0] == "chinchilla+ptq_kumar, P_post in effective bits, 95% intervals"
    assert lines[2].split()[:3] == ["method", "rows", "gamma_D"]
    assert [line.split()[:2] for line in lines[3:6]] == [
        [m, "54"] for m in ("rtn", "half", "steeper")
    ]
    assert "half against rtn" in run.stdout
    assert sorted(p.name for p in out.iterdir()) == [
        f"ptq_kumar-{m}.json" for m in ("half", "rtn", "steeper")
    ]
