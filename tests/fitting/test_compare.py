"""Laws side by side on the same rows."""

from typing import Any

import numpy as np
import pytest

from precisionlaws.fitting import compare


def test_the_richer_law_fits_no_worse_and_the_table_says_what_was_held_out(
    demo: Any,
) -> None:
    table: Any = compare(demo, ["neff_kumar", "neff_free"]).set_index("law")
    assert (table["n"] == 168).all()
    assert (table["heldout"] >= 17).all()
    assert table.loc["neff_free", "huber"] <= table.loc["neff_kumar", "huber"] * (1 + 1e-9)
    assert np.isfinite(table[["rms", "aicc", "heldout_rms"]].to_numpy(float)).all()


def test_laws_are_compared_on_the_rows_that_all_speak_of(demo: Any) -> None:
    assert set(compare(demo, ["chinchilla", "neff_free"])["n"]) == {24}


def test_too_few_rows_to_hold_out(demo: Any) -> None:
    with pytest.raises(ValueError, match="outside the hold-out cannot determine"):
        compare(demo[demo["P_post"] == 16][:8], ["neff_free"])
