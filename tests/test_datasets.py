"""pkg:NAME reads what shipped, and nothing else."""

import hashlib
from pathlib import Path

import pandas as pd
import pytest

from precisionlaws import datasets
from precisionlaws.config import ConfigError
from precisionlaws.store import load
from precisionlaws.sweep.schedule import elsewhere


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "toy"
    folder.mkdir()
    row = {"eval_id": "final", "N": 1e4, "D": 1e6, "loss": 2.0, "status": "finished"}
    pd.DataFrame([row | {"run_id": "a"}]).to_parquet(folder / "1.parquet")
    pd.DataFrame([row | {"run_id": "b", "P_w": 4.0}]).to_parquet(folder / "2.parquet")
    lines = [
        f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}"
        for p in sorted(folder.glob("*.parquet"))
    ]
    (folder / datasets.SUMS).write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(datasets, "HERE", tmp_path)
    return folder


def test_shards_become_one_frame_with_neutral_values(shipped: Path) -> None:
    frame = load("pkg:toy")
    assert list(frame.run_id) == ["a", "b"]
    assert list(frame.P_w) == [16.0, 4.0]
    assert load(Path("pkg:toy")).equals(frame)  # as the command line has it


def test_a_sweep_goes_on_from_what_shipped(shipped: Path) -> None:
    assert elsewhere("pkg:toy").done == {("a", "final"), ("b", "final")}


def test_a_changed_shard_is_refused(shipped: Path) -> None:
    (shipped / "2.parquet").write_bytes(b"other")
    with pytest.raises(ConfigError, match=r"2\.parquet is not what shipped.*install again"):
        load("pkg:toy")


def test_a_missing_shard_is_refused(shipped: Path) -> None:
    (shipped / "1.parquet").unlink()
    with pytest.raises(ConfigError, match=r"1\.parquet is not what shipped: its sha256 is missing"):
        load("pkg:toy")


def test_an_unknown_name(shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"no data set 'pkg:tpy'.*did you mean .toy."):
        load("pkg:tpy")
    monkeypatch.setattr(datasets, "HERE", shipped)
    with pytest.raises(ConfigError, match="ships none"):
        load("pkg:toy")


@pytest.mark.parametrize("name", datasets.names())
def test_what_ships_is_whole_and_small(name: str) -> None:
    files = datasets.shards(datasets.HERE / name)
    assert {p.name for p in files} == {p.name for p in (datasets.HERE / name).glob("*.parquet")}
    assert max(p.stat().st_size for p in files) <= 2e6
    frame = load(f"pkg:{name}")
    assert not frame.duplicated(["run_id", "eval_id"]).any()
    assert frame.loss[frame.status == "finished"].between(0, 20).all()
