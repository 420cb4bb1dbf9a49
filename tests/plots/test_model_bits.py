"""Bits of whole models, and the front of loss against them."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from precisionlaws.plots import numbers, plot


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Two seeds of two sizes, rounded by two methods; a run at low activations, which has no place here."""
    out: list[dict[str, Any]] = []
    for N, loss in ((1000, 3.0), (4000, 2.5)):
        for seed in (0, 1):
            run = {"run_id": f"{N}-{seed}", "N": N, "N_head": 100, "N_emb": 50, "D": 1e6, "seed": seed, "family": f"{N}-{seed}"}  # fmt: skip
            out.append(
                run | {"eval_id": "final", "loss": loss + 0.1 * seed, "bits_effective": 16.0}
            )
            for ptq, cost in (("rtn", 0.4), ("gptq", 0.2)):
                for bits in (3, 4):
                    point = {"eval_id": f"{ptq}{bits}", "ptq": ptq, "P_post": bits, "bits_effective": bits + 0.5}  # fmt: skip
                    out.append(
                        run
                        | point
                        | {"loss": loss + 0.1 * seed + cost / (bits - 2), "delta_ptq": cost}
                    )
            out.append(run | {"run_id": f"{N}-{seed}-a", "eval_id": "final", "P_a": 4, "loss": 1.0})
    path = tmp_path / "rows.csv"
    pd.DataFrame(out).to_csv(path, index=False)
    return path


def test_bits_are_those_of_the_whole_model(rows: Path) -> None:
    table = numbers("model-bits", rows)
    assert len(table) == 2 * (1 + 4)
    assert list(dict.fromkeys(table["method"])) == ["16 bits", "gptq", "rtn"]
    assert (table["seeds"] == 2).all()
    row = table[(table.method == "gptq") & (table.N == 4000) & (table.bits == 3)].iloc[0]
    assert row["model_bits"] == 4000 * 3.5 + 16 * 150
    assert row["loss"] == pytest.approx(2.5 + 0.05 + 0.2)
    front = table[table["front"]].sort_values("model_bits")
    assert front["loss"].is_monotonic_decreasing
    assert not (front["method"] == "rtn").any()  # never better than gptq at the same bits
    for r in table[~table["front"]].itertuples():
        assert ((front["model_bits"] <= r.model_bits) & (front["loss"] < r.loss)).any()


def test_settings_are_told_apart(rows: Path) -> None:
    frame = pd.read_csv(rows)
    rounded = frame["ptq"].notna()
    frame["ptq.group"] = 16
    frame["ptq.granularity"] = "row"
    frame.loc[rounded & (frame["ptq"] == "rtn"), "ptq.granularity"] = "group"
    frame.to_csv(rows, index=False)
    names = set(numbers("model-bits", rows)["method"])
    assert names == {"16 bits", "gptq row", "rtn g16"}
    assert "nats per token" in plot("model-bits", rows).axes[0].get_ylabel()


def test_a_store_without_such_runs(rows: Path) -> None:
    frame = pd.read_csv(rows)
    frame[frame["P_a"] == 4].to_csv(rows, index=False)
    with pytest.raises(ValueError, match="activations and KV at 16 bits"):
        plot("model-bits", rows)
