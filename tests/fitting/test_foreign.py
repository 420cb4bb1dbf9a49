"""Other people's tables through the command: what is read, what is said, what is refused."""

from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from precisionlaws.cli import app


def test_a_table_with_ptq_rows_and_no_eval_id(demo: Any, tmp_path: Path) -> None:
    """One run_id at several P_post is no repeated point; a text in a column of no law is no error."""
    table = demo[[c for c in demo if c != "eval_id"]].copy()
    table["run_id"] = (
        table["family"]
        + "-"
        + table["D"].astype(str)
        + "-"
        + (table[["P_w", "P_a", "P_kv"]].astype(str).agg("-".join, axis=1))
    )
    table["seconds"] = "1h 3m"
    table.to_csv(tmp_path / "runs.csv", index=False)
    found = CliRunner().invoke(app, ["fit", str(tmp_path / "runs.csv"), "--law", "ptq_kumar"])
    assert found.exit_code == 0, found.output
    assert "column 'seconds' holds text in 288 rows" in found.output


def test_empty_widths_are_16_bits_and_said(demo: Any, tmp_path: Path) -> None:
    table = demo.copy()
    table.loc[table["P_w"] == 16, "P_w"] = None
    table.to_csv(tmp_path / "runs.csv", index=False)
    found = CliRunner().invoke(app, ["fit", str(tmp_path / "runs.csv"), "--law", "neff_free"])
    assert "P_w is empty in 216 rows" in found.output


def test_out_is_for_fits(demo: Any, tmp_path: Path) -> None:
    demo.to_csv(tmp_path / "runs.csv", index=False)
    args = ["fit", str(tmp_path / "runs.csv"), "--compare", "-o", str(tmp_path / "x.json")]
    found = CliRunner().invoke(app, args)
    assert found.exit_code != 0
    assert not (tmp_path / "x.json").exists()
