"""What may stand in one fit, and what must not."""

from typing import Any

import pandas as pd
import pytest

from precisionlaws.fitting import fit


def with_columns(demo: Any) -> pd.DataFrame:
    return demo.assign(
        **{
            "data.fingerprint": "aa",
            "data.context": 128,
            "quant.weights.granularity": "group",
            "ptq.granularity": "group",
            "ptq.group": 16,
            "optim.lr": 1 / demo["N"],
            "lr_schedule": "wsd",
            "arch": "llama",
            "epochs": 0.1,
        }
    )


@pytest.mark.parametrize(
    ("column", "value", "law", "message"),
    [
        (
            "data.fingerprint",
            "bb",
            "chinchilla",
            "data.fingerprint is aa and bb; choose one, e.g. --where",
        ),
        (
            "data.context",
            64,
            "chinchilla",
            "losses on different text do not follow one law: data.context",
        ),
        ("quant.weights.granularity", "row", "neff_free", "quant.weights of different kinds"),
        (
            "ptq.granularity",
            "row",
            "ptq_kumar",
            "PTQ of different kinds do not follow one law: ptq.granularity",
        ),
        ("ptq.group", 32, "ptq_kumar", "ptq.group is 16 and 32"),
    ],
)
def test_mixtures_are_refused(demo: Any, column: str, value: Any, law: str, message: str) -> None:
    frame = with_columns(demo)
    frame.loc[frame["seed"] == 1, column] = value
    with pytest.raises(ValueError, match=message):
        fit(frame, law, resamples=20)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("optim.lr", 0.5, "runs differ in optim.lr .at equal N."),
        ("lr_schedule", "cosine", "runs differ in lr_schedule"),
        ("arch", "gpt", "runs differ in arch"),
        ("epochs", 2.5, "repeat their data .up to 2.5 epochs."),
    ],
)
def test_recipes_are_warned_of(demo: Any, column: str, value: Any, message: str) -> None:
    frame = with_columns(demo)
    frame.loc[frame["D"] == frame["D"].max(), column] = value
    found = " ".join(fit(frame, "chinchilla", resamples=20).warnings)
    assert pd.Series([found]).str.contains(message).all(), found


def test_one_study_passes_and_a_format_that_is_off_says_nothing(demo: Any) -> None:
    frame = with_columns(demo)
    frame.loc[frame["P_w"] == 16, "quant.weights.granularity"] = "row"
    frame.loc[frame["P_post"] == 16, "ptq.granularity"] = float("nan")
    for law in ("neff_free", "ptq_kumar"):
        assert not [w for w in fit(frame, law, resamples=20).warnings if "differ in" in w]


def test_methods_that_no_law_reads_are_not_mixed(demo: Any) -> None:
    frame = with_columns(demo)
    low: Any = frame["P_w"] < 16
    half = low & (frame.index % 2 == 0)
    assert half.sum() > 0
    mixed = frame.assign(**{"quant.rotation": "none"})
    mixed.loc[half, "quant.rotation"] = "hadamard"
    with pytest.raises(
        ValueError, match=r"different methods .* quant.rotation is hadamard and none"
    ):
        fit(mixed, "neff_free")
    backward = frame.assign(P_g=16.0)
    backward.loc[~low & (frame.index % 2 == 0), "P_g"] = 8.0
    with pytest.raises(ValueError, match=r"because no law reads P_g; choose --where"):
        fit(backward, "chinchilla")
