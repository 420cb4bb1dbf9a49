"""The fitted E against a known entropy, in one sentence."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from precisionlaws.cli.fit import command
from precisionlaws.fitting import fit
from precisionlaws.fitting.truth import sentence, truth


def frame(E: float, **columns: object) -> pd.DataFrame:
    """Noisy losses of a Chinchilla law with this E, three seeds."""
    rng = np.random.default_rng(0)
    grid = [(n, d, s) for n in (1e4, 1e5, 1e6, 1e7) for d in (1e6, 1e7, 1e8) for s in range(3)]
    rows = [
        {
            "N": n, "D": d, "seed": s, "family": f"{n}-{s}", "run_id": f"{n}-{d}-{s}",
            "loss": (E + 20 / n**0.4 + 60 / d**0.4) * np.exp(1e-3 * rng.standard_normal()),
        }
        for n, d, s in grid
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(**columns)


@pytest.mark.parametrize(("claimed", "word"), [(2.0, "covers it"), (2.5, "MISSES it")])
def test_a_fit_is_held_against_the_entropy(claimed: float, word: str) -> None:
    table = frame(2.0, **{"data.entropy": claimed})
    fitted = fit(table, "chinchilla", resamples=200)
    said = truth(table, fitted)
    assert said is not None
    assert said.startswith(f"the data's entropy is {claimed:.4f} nats per token, exactly")
    assert word in said
    low, high = fitted.interval("E")
    assert f"{low:.4f} to {high:.4f}" in said


def test_the_command_says_it_after_the_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "runs.csv"
    frame(2.0, **{"data.entropy": 2.0}).to_csv(path, index=False)
    command(path, law="chinchilla", resamples=200)
    out = capsys.readouterr().out.splitlines()
    assert out[-1].startswith(
        "the data's entropy is 2.0000 nats per token, exactly: the 95% interval"
    )
    assert "covers it" in out[-1]
    command(path, law="chinchilla", resamples=200, json=True)
    assert json.loads(capsys.readouterr().out)["fits"][0]["truth"] == out[-1]
    frame(2.0).to_csv(path, index=False)
    capsys.readouterr()
    command(path, law="chinchilla", resamples=20, json=True)
    assert "truth" not in json.loads(capsys.readouterr().out)["fits"][0]


def test_where_nothing_is_known_nothing_is_said() -> None:
    table = frame(2.0)
    fitted = fit(table, "chinchilla", resamples=20)
    assert truth(table, fitted) is None
    assert truth(table.assign(**{"data.entropy": np.nan}), fitted) is None


def test_several_entropies_are_no_one_truth() -> None:
    table = frame(2.0)
    fitted = fit(table, "chinchilla", resamples=20)
    mixed = table.assign(**{"data.entropy": np.where(table.seed == 0, 2.0, 2.1)})
    assert "not one number here (2.0000, 2.1000):" in str(truth(mixed, fitted))
    part = table.assign(**{"data.entropy": np.where(table.seed == 0, 2.0, np.nan)})
    assert "not one number here (2.0000 and unknown)" in str(truth(part, fitted))


def test_the_ends_belong_to_the_interval() -> None:
    assert "covers" in sentence(2.0, 2.1, (2.0, 2.2), 0.95)
    assert "MISSES it (E = 2.1000, +0.1500)" in sentence(1.95, 2.1, (2.0, 2.2), 0.95)
