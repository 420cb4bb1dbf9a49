"""Filters are parsed, never executed."""

import pandas as pd
import pytest

from precisionlaws.config import ConfigError
from precisionlaws.where import LONGEST, arithmetic, where

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
        ("P_w + 1 == 4", [0]),
        ("0.35 < optim.lr * P_w < 0.85", [1]),
        ("seed / (P_w - 3) >= 0", [1, 2, 3]),  # 0/0 is no number
        ("16 == P_w ** 2 and not -seed - 1 < -1", [3]),
    ],
)
def test_rows(text: str, rows: list[int]) -> None:
    expected = FRAME.iloc[rows]  # rows keep their numbers
    pd.testing.assert_frame_equal(where(FRAME, text), expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("__import__('os').system('true')", "is not a comparison"),
        ("P_w.__class__ == 3", "no column 'P_w.__class__'"),
        ("(lambda: 1)() == 1", "is not a comparison"),
        ("P_w + '1' == 4", "is not arithmetic of columns"),
        ("arch * 2 == 4", "column 'arch' holds text"),
        ("P_q / N < 4", "no column 'P_q'; did you mean 'P_w'?"),
        ("P_w + __import__('os') == 4", "is not arithmetic of columns"),
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


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("seed + 1", [1.0, 2.0, 1.0, 1.0]),
        ("6 * P_w / (2 - seed)", [9.0, 24.0, 48.0, 12.0]),
        ("-optim.lr * 1e1", [-1.0, -2.0, -1.0, -3.0]),
        ("P_w ** 2 - 9", [0.0, 7.0, 247.0, 7.0]),
    ],
)
def test_arithmetic(text: str, values: list[float]) -> None:
    assert list(arithmetic(FRAME, text)) == pytest.approx(values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("__import__('os').system('true')", "is not arithmetic of columns"),
        ("P_w if seed else 1", "is not arithmetic of columns"),
        ("P_w << 3", "is not arithmetic of columns"),
        ("P_w * True", "is not arithmetic of columns"),
        ("P_w.__class__", "no column 'P_w.__class__'"),
        ("P_q * 2", "no column 'P_q'; did you mean 'P_w'?"),
        ("arch * 2", "column 'arch' holds text"),
        ("P_w *", "cannot be read"),
        ("-" * LONGEST + "P_w", "cannot be read"),
        ("(" * 500 + "P_w" + ")" * 500, "cannot be read"),
    ],
)
def test_other_arithmetic_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        arithmetic(FRAME, text)
    assert message in str(caught.value)


def test_a_tower_of_powers_is_a_float() -> None:
    assert arithmetic(FRAME, "P_w * 9 ** 9 ** 9 ** 9").tolist() == [float("inf")] * 4
