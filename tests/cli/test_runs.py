"""precisionlaws runs: what is printed, and what is written."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from precisionlaws.cli import app
from precisionlaws.config import ConfigError
from precisionlaws.store import Store, load, publish


@pytest.fixture
def store(tmp_path: Path) -> Path:
    root = tmp_path / "s"
    for i, (name, bits) in enumerate((("fp-aa", 16), ("w4-bb", 4), ("w3-cc", 3))):
        row = {"run_id": name, "eval_id": "final", "N": 10, "D": 20, "P_w": bits, "loss": 2 + i / 3}
        more = {"status": "finished", "mixed": (1, 2.5, "one")[i], "optim.lr": 0.1 * i}
        publish(Store(root).result(name), row | more)
        lines = (json.dumps({"step": s, "loss": 3 + i}) + "\n" for s in range(4))
        (root / "runs" / name / "metrics.jsonl").write_text("".join(lines))
    return root


def runs(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["runs", *map(str, arguments)])


def listed(*arguments: object) -> list[str]:
    done = runs("list", *arguments, "--json")
    assert done.exit_code == 0, done.output
    return [r["run_id"] for r in json.loads(done.stdout)]


def test_list(store: Path) -> None:
    assert listed(store, "--where", "P_w<=4 and loss<3") == ["w3-cc", "w4-bb"]
    assert listed(store, "--sort", "-loss") == ["w3-cc", "w4-bb", "fp-aa"]
    assert listed(store, "--sort", "loss", "--limit", 1) == ["fp-aa"]
    assert listed(store, "--sort", "mixed") == ["fp-aa", "w4-bb", "w3-cc"]
    text = runs("list", store, "--columns", "run_id,optim.lr").stdout.splitlines()
    assert text[0].split() == ["run_id", "optim.lr"]
    assert len(text) == 4


def test_show(store: Path) -> None:
    text = runs("show", store, "w4").stdout
    assert text.splitlines()[0] == "w4-bb"
    assert "  loss                         2.333333333" in text
    assert "settings\n" in text
    assert "  P_w                          4\n" in text
    assert json.loads(runs("show", store, "w4", "--json").stdout)["curve"][-1] == {"step": 3, "loss": 4}  # fmt: skip


def test_compare(store: Path) -> None:
    text = runs("compare", store, "fp", "w4").stdout
    assert "  P_w                          16 -> 4" in text
    assert "loss  2 -> 2.33333: +0.333333 nats per token" in text
    assert "curve  4 common steps; mean difference over the last tenth +1.000000" in text
    assert json.loads(runs("compare", store, "fp", "w4", "--json").stdout)["settings"]["P_w"] == [16, 4]  # fmt: skip


@pytest.mark.parametrize("suffix", ["csv", "parquet", "json"])
def test_export(store: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"t.{suffix}"
    done = runs("export", store, "-o", out, "--where", "P_w > 3")
    assert done.exit_code == 0, done.output
    mine = load(store).query("P_w > 3")
    again = pd.DataFrame(json.loads(out.read_text())) if suffix == "json" else load(out)
    assert again.run_id.tolist() == ["fp-aa", "w4-bb"]
    assert again.loss.tolist() == mine.loss.tolist()
    assert again["optim.lr"].tolist() == mine["optim.lr"].tolist()
    assert list(map(float, again.mixed)) == [1, 2.5]
    assert list(again.columns) == list(mine.columns)


def test_export_of_what_is_new(store: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "1.parquet", tmp_path / "2.parquet"
    runs("export", store, "-o", first, "--where", "P_w == 3")
    assert runs("export", store, "-o", second, "--without", first).exit_code == 0
    assert load(second).run_id.tolist() == ["fp-aa", "w4-bb"]
    rest = runs("export", store, "--without", first, "--without", second).stdout.splitlines()
    assert len(rest) == 1  # the header


def test_tables_of_others_can_be_shown_and_compared(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("run_id,N,D,loss\na,1,2,3\nb,2,2,2.5\n")
    assert "a  N" not in runs("show", path, "a").stdout
    assert "  N                            1 -> 2" in runs("compare", path, "a", "b").stdout


MISTAKES = {
    ("list", "--sort", "lss"): "no column 'lss'; did you mean 'loss'?",
    ("list", "--columns", "run_id,P_q"): "no column 'P_q'; did you mean 'P_w'?",
    ("list", "--where", "P_q < 4"): "no column 'P_q'; did you mean 'P_w'?",
    ("list", "--where", "loss <"): "cannot be read",
    ("show", "fq-aa"): "no run 'fq-aa'; did you mean 'fp-aa'?",
    ("show", "w"): "2 runs match 'w': w3-cc, w4-bb",
    ("compare", "fp", "w"): "2 runs match 'w'",
    ("export", "-o", "t.xlsx"): "--out must end in .csv, .json, .parquet, got 't.xlsx'",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_mistakes(store: Path, line: tuple[str, ...]) -> None:
    error = runs(line[0], store, *line[1:]).exception
    assert isinstance(error, (ConfigError, ValueError))
    assert MISTAKES[line] in str(error)
