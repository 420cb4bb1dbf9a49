"""Filters are parsed, never executed."""

import pandas as pd
import pytest

from precisionlaws.config import ConfigError
from precisionlaws.where import where

FRAME = pd.DataFrame(
    {
        "P_w": [3, 4, 16, 4],
        "seed": [0, 1, 0, 0],
        "optim.lr": [0.1, 0.2, 0.1, 0.3],
        "arch": list("lglg"),
    }
)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("P_w <= 4", [0, 1, 3]),
        ("P_w <= 4 and seed == 0", [0, 3]),
        ("P_w == 16 or optim.lr > 0.15", [1, 2, 3]),
        ("not P_w == 4", [0, 2]),
        ("3 < P_w < 16", [1, 3]),
        ("P_w in (3, 16)", [0, 2]),
        ("arch not in ['l']", [1, 3]),
        ("arch == 'g' and optim.lr == 0.3", [3]),
        ("P_w > -1", [0, 1, 2, 3]),
    ],
)
def test_rows(text: str, rows: list[int]) -> None:
    expected = FRAME.iloc[rows].reset_index(drop=True)
    pd.testing.assert_frame_equal(where(FRAME, text), expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("__import__('os').system('true')", "is not a comparison"),
        ("P_w.__class__ == 3", "no column 'P_w.__class__'"),
        ("(lambda: 1)() == 1", "is not a comparison"),
        ("P_w + 1 == 4", "is not a comparison"),
        ("P_w", "is not a comparison"),
        ("P_w ==", "cannot be read"),
        ("P_q == 4", "no column 'P_q'; did you mean 'P_w'?"),
        ("P_w in 3", "is not a comparison"),
        ("P_w is 3", "is not a comparison"),
        ("1 < 2", "is not a comparison"),
        ("", "cannot be read"),
        ("P_w < 'a'", "column 'P_w' holds numbers, which do not compare so"),
        ("arch < 3", "column 'arch' holds text, which do not compare so"),
    ],
)
@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        where(FRAME, text)
    assert message in str(caught.value)
