"""Tables that are not what they claim: a warning where the fit still means something, else one line."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from precisionlaws.fitting import fit
from precisionlaws.fitting.rows import select
from precisionlaws.laws import law

ONE = law("chinchilla")


def table(n: int = 60, seed: int = 0, **change: Any) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    N, D = 10 ** rng.uniform(7, 9.5, n), 10 ** rng.uniform(9, 11.5, n)
    loss = (1.8 + 480 * N**-0.35 + 2100 * D**-0.37) * np.exp(0.003 * rng.standard_normal(n))
    frame = pd.DataFrame({"N": N, "D": D, "loss": loss, "family": [f"f{i}" for i in range(n)]})
    return frame.assign(**change)


def test_nothing_is_said_of_a_sound_table() -> None:
    assert select(table(), ONE).warnings == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"D": lambda f: f.D / 1e9}, "fewer than 10000 tokens: in millions or billions?"),
        ({"D": lambda f: f.D / 1e6, "N": lambda f: f.N * 10}, "tokens per parameter in the median"),
        ({"N": lambda f: f.N / 1e6}, "fewer than 1000 parameters: in millions or billions?"),
        ({"loss": lambda f: np.exp(f.loss)}, "nats per token are wanted, not perplexity"),
    ],
)
def test_units_are_doubted_by_magnitude(change: dict[str, Any], message: str) -> None:
    (said,) = select(table(**change), ONE).warnings
    assert message in said


def test_a_change_of_units_changes_no_exponent() -> None:
    one, other = (
        fit(f, "chinchilla", resamples=2) for f in (table(), table(D=lambda f: f.D / 1e9))
    )
    for name in ("alpha", "beta", "E"):
        assert one.params[name] == pytest.approx(other.params[name], rel=1e-7)
    assert one.objective.value == pytest.approx(other.objective.value, rel=1e-12)


def test_repeated_rows_are_counted_and_named() -> None:
    frame = table().drop(columns="family")
    rows = select(pd.concat([frame, frame.iloc[3:6]], ignore_index=True), ONE)
    assert len(rows.loss) == 63
    assert any("in every digit: 3, the first is row 60;" in w for w in rows.warnings)


@pytest.mark.parametrize("column", ["N", "D", "loss"])
def test_gaps_are_left_out_and_said(column: str) -> None:
    frame = table()
    frame.loc[[7, 9], column] = np.nan
    rows = select(frame, ONE)
    assert rows.left_out == (("N, D or loss is missing", 2),)
    assert any(f"2, left out; the first lacks {column}, row 7" in w for w in rows.warnings)
    whole = fit(frame, "chinchilla", resamples=2)
    assert dict(whole.params) == dict(fit(frame.drop([7, 9]), "chinchilla", resamples=2).params)


def test_one_size_is_fitted_and_its_gaps_are_said() -> None:
    found = fit(table(N=1e8), "chinchilla", resamples=50)
    assert found.certificate.ok
    assert any(
        w.startswith("N takes 1 value(s): alpha and E are not separable") for w in found.warnings
    )
    assert any("some combination of the parameters is free" in w for w in found.warnings)


@pytest.mark.parametrize("seed", range(4))
def test_random_designs_agree_with_scipy(seed: int) -> None:
    """Other scales, sizes and noise than any table here: scipy from the same starts never ends below."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(12, 300))
    scale = 10 ** rng.uniform(-6, 6, 2)
    frame = table(n, seed, N=lambda f: f.N * scale[0], D=lambda f: f.D * scale[1])
    options = {
        "loss": ["huber", "ls"][seed % 2],
        "delta": 10 ** rng.uniform(-4, -2),
        "resamples": 2,
    }
    ours, theirs = (fit(frame, "chinchilla", solver=s, **options) for s in ("batched", "scipy"))
    assert ours.certificate.ok
    assert ours.objective.value <= theirs.objective.value * (1 + 1e-9)
    assert not any("BELOW" in w for w in theirs.warnings)


def test_many_rows_take_one_step_instead_of_refits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one-step jackknife is told, and is as wide as the bootstrap that it stands for."""
    from precisionlaws.fitting import resample, solve

    frame = table(400)
    refitted = fit(frame, "chinchilla", resamples=1000)
    monkeypatch.setattr(resample, "MOST", 10_000)
    monkeypatch.setattr(solve, "THIN", 100)
    stepped = fit(frame, "chinchilla", resamples=1000)
    assert "one-step jackknife of 400 families" in stepped.intervals
    assert "rows are too many for 1,000 refits" in stepped.intervals
    assert stepped.objective.value == pytest.approx(refitted.objective.value, rel=1e-12)
    for name in stepped.params:
        widths = [np.ptp(f.interval(name)) for f in (stepped, refitted)]
        assert widths[0] == pytest.approx(widths[1], rel=0.25), name


@pytest.mark.parametrize("unit", ["family", "run"])
def test_one_step_of_few_clusters_is_near_their_jackknife(
    unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from precisionlaws.fitting import resample

    frame = table(240, family=[f"f{i % 12}" for i in range(240)])
    frame["loss"] *= np.exp(0.004 * np.random.default_rng(1).standard_normal(12))[
        np.arange(240) % 12
    ]
    exact = fit(frame, "chinchilla", resamples=2000, intervals=unit, loss="ls")
    monkeypatch.setattr(resample, "MOST", 10_000)
    stepped = fit(frame, "chinchilla", resamples=2000, intervals=unit, loss="ls")
    for name in ("alpha", "beta", "E"):
        widths = [np.ptp(f.interval(name)) for f in (stepped, exact)]
        assert widths[0] == pytest.approx(widths[1], rel=0.25), name


@pytest.mark.slow
def test_a_million_rows() -> None:
    found = fit(table(1_000_000), "chinchilla")
    assert found.certificate.ok
    for name, true in {"alpha": 0.35, "beta": 0.37, "E": 1.8}.items():
        low, high = found.interval(name, 0.999)
        assert low <= true <= high
