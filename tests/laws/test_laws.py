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
    known = [float(k.partition("[")[2][:-1]) for k in published(one) if k.startswith("eff_w[")]
    for P in (known or (3.0, 4.0, 6.0, 8.0, 12.0)) if column in one.columns else ():
        try:
            one.loss(published(one), {**POINT, column: P})
        except ValueError:
            continue
        found.append(P)
    return found


LAYOUTS = [(2.0, 1.0), (3.0, 2.0), (4.0, 3.0), (5.0, 2.0), (2.0, 3.0)]  # exponent and mantissa bits


def design(one: Law) -> pd.DataFrame:
    """Crossed sizes and tokens at every width, format or layout that the published constants speak of."""
    if "E" in one.columns:
        widths = [{"P_w": E + M + 1, "E": E, "M": M, "G": G} for E, M in LAYOUTS for G in (32, 128)]
    elif "G" in one.columns:
        widths = [{"P_w": 4.0, "P_a": 4.0, "G": float(G)} for G in (32, 64, 256)]
    else:
        widths = [{c: P} for c in BITS[:3] for P in accepted(one, c)]
    post = accepted(one, "P_post")
    if any("P_w" in t.COLUMNS for t in one.paired):
        widths += [{**w, "P_post": P} for w in widths for P in (3.0, 5.0) if max(w.values()) < 12]
    N, D = (3e7, 6e7, 1.1e8, 2.2e8, 4.4e8), (1.5e9, 3e9, 6e9, 1.2e10, 2.6e10)
    return crossed(N, D, widths, seeds=1, post=post)


def published(one: Law) -> Mapping[str, float]:
    assert one.published, f"conf/law/{one.name}.yaml has no published constants to test with"
    return one.published


@pytest.fixture(params=NAMES)
def one(request: pytest.FixtureRequest) -> Law:
    return law(request.param)


def test_recovers_its_own_parameters(one: Law) -> None:
    frame = simulate(one, published(one), design(one))
    found = fit(frame, one, loss="ls", resamples=2)
    assert found.certified
    assert set(found.params) == set(published(one))
    for name, true in published(one).items():
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
    p, n, d, h = dict(published(one)), np.log(1e8), np.log(1e10), 1e-30
    links = {q.name: q.link for q in one.base.params({"loss": np.array([3.0])})}

    def slope(moved: dict[str, Any], n: Any = n, d: Any = d) -> float:
        return float(np.imag(one.base.loss({**p, **moved}, np.exp(n), np.exp(d))) / h)

    grad = one.base.grad(p, n, d)
    assert grad["loss"] == pytest.approx(one.base.loss(p, np.exp(n), np.exp(d)), rel=1e-12)
    for name in set(grad) & set(p):
        unit = p[name] if links[name] == "log" else 1.0
        assert grad[name] == pytest.approx(slope({name: p[name] + 1j * h * unit}), rel=1e-12)
    assert grad["N"]() == pytest.approx(slope({}, n=n + 1j * h), rel=1e-12)
    assert grad["D"]() == pytest.approx(slope({}, d=d + 1j * h), rel=1e-12)


LAWS_OF_REFERENCES = {
    "chinchilla": "chinchilla", "kumar_neff": "neff_kumar", "kumar_ptq": "ptq_kumar", "kumar_unified": "kumar_unified",
    "chen_qat": "chen_qat", "sun_fp": "sun_fp", "ouyang_qid": "ouyang_qid", "quartet": "quartet",
}  # fmt: skip
RENAMED: dict[str, dict[str, str]] = {
    "sun_fp": {"n": "A", "d": "B", "eps": "E", "gamma": "gamma_fp", "delta": "delta_fp", "nu": "nu_fp"},
    "ouyang_qid": {"k": "k_qid", "beta": "beta_qid", "alpha": "alpha_qid", "gamma": "gamma_qid"},
    "chen_qat": {"k": "k[w4a4]"},
}  # fmt: skip
COLUMNS_OF: dict[str, str] = {"Eb": "E", "Mb": "M", "block": "G", "P": "P_post"}


def reference(key: str, entry: Mapping[str, Any], case: Mapping[str, Any]) -> Any:
    """Our loss for one case of the reference vectors."""
    stem, _, kind = key.partition("/")
    one = law(LAWS_OF_REFERENCES[stem])
    x: Any = {COLUMNS_OF.get(k, k): OFF if v is None else v for k, v in case["inputs"].items()}
    given: dict[str, Any] = {
        str(RENAMED.get(stem, {}).get(k, k)): v for k, v in entry["params"].items()
    }
    given.update({k: x.pop(k) for k in ("C_w", "C_a", "C_kv") if k in x})
    if kind == "no_offset":
        given = {k: v for k, v in given.items() if not k.startswith("n_")}
    if kind == "with_b":  # C_T e^b is one number
        given["C_T"] = given["C_T"] * np.exp(given["b_post"])
    if stem == "chen_qat":
        x.update(P_w=4, P_a=4)
    if stem == "quartet":
        given.update({"eff_w[4]": x.pop("effN"), "effD_w[4]": x.pop("effD")})
        x.update(P_w=4)
    return one.loss({**published(one), **given} if stem == "ouyang_qid" else given, x)


@pytest.mark.golden
@pytest.mark.parametrize("stem", LAWS_OF_REFERENCES)
def test_reference_losses(goldens: Path, stem: str) -> None:
    entries = json.loads((goldens / "law_goldens.json").read_text())["laws"]
    here = {key: e for key, e in entries.items() if key.partition("/")[0] == stem}
    if not here:
        pytest.skip(f"{stem} is not in this folder of reference vectors")
    for key, entry in here.items():
        for case in entry["cases"]:
            assert reference(key, entry, case) == pytest.approx(case["loss"], rel=1e-10), key


@pytest.mark.golden
def test_reference_quantizers(goldens: Path) -> None:
    from precisionlaws.laws.neff_gmse import gmse, log_gmse, scale

    entries = json.loads((goldens / "law_goldens.json").read_text())["laws"]
    if "panferov_gmse" not in entries:
        pytest.skip("panferov_gmse is not in this folder of reference vectors")
    p = entries["panferov_gmse"]["params"]
    for case in entries["panferov_gmse"]["cases"]:
        bits = case["inputs"]["bits"]
        x = {"P_w": np.array(float(bits)), "P_a": np.array(OFF), "P_kv": np.array(OFF)}
        assert gmse(bits)[0] == pytest.approx(case["gmse"], rel=1e-10)
        assert gmse(bits)[1] == pytest.approx(case["step"], rel=1e-6)
        assert np.exp(log_gmse(np.array(float(bits)))) == pytest.approx(case["gmse"], rel=1e-10)
        assert scale(p, x) == pytest.approx(case["rho"], rel=1e-10)


def test_between_whole_widths_the_quantizer_is_smooth() -> None:
    from precisionlaws.laws.neff_gmse import log_gmse

    P = np.linspace(1, 15.9, 400)
    slope = np.imag(log_gmse(P + 1e-30j)) / 1e-30
    assert (slope < 0).all()
    assert np.abs(np.diff(slope)).max() < 0.02
    assert np.isnan(log_gmse(np.array(0.5)))


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


@pytest.mark.parametrize(
    ("name", "x", "message"),
    [
        ("panferov", {"P_w": 0.5}, "needs two levels"),
        ("kumar_tied", {"P_a": 0.0}, r"0 bits, and 1 − exp\(−P/γ \+ n\) is zero or negative"),
        ("nd_eff", {"P_w": 5}, r"P_w = 5 bits was not measured; eff_w is known at \[4\.0\]"),
        ("deff_free", {"P_w": 5}, "P_w = 5 bits was not measured; effD_w is known at no width"),
        ("chen_qat", {"P_w": 4}, "needs G, the number of values that share a scale"),
        ("chen_qat", {"P_w": 3, "G": 32}, r"format w3 was not measured; there are k\[w4a4\]"),
        ("chen_qat", {"P_w": 4, "quant.weights.group": 32, "quant.weights.granularity": "row"}, "needs G"),
        ("sun_fp", {"P_w": 4}, "needs E, M and G"),
        ("sun_fp", {"P_w": 4, "E": 2}, "needs E, M and G"),
        ("sun_fp", {"P_w": 4, "E": 2, "M": -1, "G": 32}, "E ≥ 0, M ≥ 0 and G ≥ 1"),
    ],
)  # fmt: skip
def test_every_term_says_where_it_ends(name: str, x: dict[str, Any], message: str) -> None:
    p = published(law(name)) if law(name).published else published(law("chinchilla"))
    with pytest.raises(ValueError, match=message):
        law(name).loss(p, {**POINT, **x})


def test_groups_are_read_from_the_format() -> None:
    one = law("chen_qat")
    both = {"quant.weights.group": 64.0, "quant.activations.group": 64.0}
    given = {**POINT, "P_w": 4.0, "P_a": 4.0}
    read = one.loss(published(one), {**given, **both, "quant.weights.granularity": "group"})
    assert read == one.loss(published(one), {**given, "G": 64.0})
    with pytest.raises(ValueError, match="roles of one run differ"):
        one.loss(published(one), {**given, **both, "quant.activations.group": 32.0})


def test_rounding_to_the_training_width_costs_nothing() -> None:
    one = law("kumar_unified")
    for P in (4.0, 5.0, 8.0):
        x = {**POINT, "P_w": 4.0}
        assert one.loss(published(one), {**x, "P_post": P}) == one.loss(published(one), x)
    few = {k: v for k, v in published(one).items() if k != "C_w"}
    with pytest.raises(ValueError, match="no C_w, but P_w is below 16"):
        one.loss(few, {**POINT, "P_w": 4.0, "P_post": 3.0})


def test_terms_that_cannot_be_together_are_refused() -> None:
    frame = pd.DataFrame({**POINT, "loss": [3.0]}, index=[0])
    with pytest.raises(ValueError, match=r"fp_sun reads alpha, beta of the base, which kaplan"):
        law("kaplan+fp_sun").bind(frame)
    with pytest.raises(ValueError, match="two terms both have C_T"):
        law("ptq_kumar+ptq_kumar_trained").bind(frame)


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
