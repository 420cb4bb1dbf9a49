"""The store: whole files, first result wins, everything readable later."""

import json
import math
import os
from pathlib import Path

import pandas as pd
import pytest

from precisionlaws.config import ConfigError
from precisionlaws.store import COLUMNS, Store, load, publish, write

ROW = {
    "run_id": "r",
    "eval_id": "final",
    "N": 10,
    "D": 20,
    "loss": 2.5,
    "seconds": 1.0,
    "optim.lr": 0.1,
}


def test_files_appear_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a" / "b.json"
    assert write(path, "one")
    monkeypatch.setattr(
        os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError, match="No space left"):
        write(path, "two")
    assert path.read_text() == "one"
    assert [p.name for p in path.parent.iterdir()] == ["b.json"]


def test_files_are_for_everyone_that_the_umask_lets_in(tmp_path: Path) -> None:
    write(tmp_path / "shared", "x")
    (tmp_path / "plain").write_text("x")
    assert (tmp_path / "shared").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_links_are_followed_and_devices_stay_devices(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write(tmp_path / "pipe", "through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()


def test_the_first_writer_wins(tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert write(path, "one", replace=False)
    assert not write(path, "two", replace=False)
    assert write(path, "one", replace=False)
    assert path.read_text() == "one"


def test_also_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        os, "link", lambda *_: (_ for _ in ()).throw(OSError(95, "Operation not supported"))
    )
    test_the_first_writer_wins(tmp_path)


def test_a_late_duplicate_is_compared_seconds_aside(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    publish(path, ROW)
    publish(path, ROW | {"seconds": 9.0})
    assert json.loads(path.read_text())["seconds"] == 1.0
    with pytest.raises(
        RuntimeError, match="holds another result for the same run .differs in loss."
    ):
        publish(path, ROW | {"loss": 2.6})
    publish(path, ROW | {"loss": 2.6, "exec.torch": "another"})  # other bits are no contradiction
    assert json.loads(path.read_text())["loss"] == 2.5


def test_a_store_loads_as_one_frame(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name, loss in (("b", 2.0), ("a", math.nan)):
        publish(
            store.result(name),
            ROW
            | {"run_id": name, "loss": loss, "status": "diverged" if loss != loss else "finished"},
        )
    publish(
        store.point("b", "rtn4-x"),
        ROW | {"run_id": "b", "eval_id": "rtn4-x", "P_post": 4, "delta_ptq": 0.1},
    )
    (tmp_path / "runs" / "unfinished").mkdir()
    (tmp_path / "runs" / "b" / "points" / ".partial.json").write_text("{")
    frame = load(tmp_path)
    assert list(frame.run_id + "/" + frame.eval_id) == ["a/final", "b/final", "b/rtn4-x"]
    assert frame.loss.isna().tolist() == [True, False, False]
    assert frame.P_w.tolist() == [16.0] * 3
    assert frame.P_post.tolist() == [16.0, 16.0, 4.0]
    assert list(frame.columns)[-1] == "optim.lr"
    assert "schema" not in frame


def test_a_store_of_the_first_version_is_read_for_ever(tmp_path: Path) -> None:
    """store_v1.json: every text file of a store as version 0.1 wrote it. Never to be written anew."""
    files = json.loads(Path(__file__).with_name("store_v1.json").read_text())
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    frame = load(tmp_path)
    assert frame.eval_id.tolist() == ["final", "gptq3-7743b66b4020", "final"]
    assert frame.P_w.tolist() == [16, 16, 4]
    assert frame.P_post.tolist() == [16, 3, 16]
    assert frame.loss.round(4).tolist() == [2.1595, 2.1644, 2.171]
    assert frame.loss.diff()[1] == pytest.approx(frame.delta_ptq[1])
    later = {"gmse_w", "gmse_a", "gmse_kv"}  # unknown of rows written before they were kept
    known = COLUMNS.keys() - later
    assert set(frame.columns) >= known | {"optim.lr", "ptq.info.damping", "exec.torch"}
    assert frame.family.nunique() == 1


def test_csv_and_parquet_are_the_same_frame(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"params": [10, 20], "D": [1, 2], "loss": [3.0, 2.5], "extra.thing": ["x", "y"]}
    )
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    left = load(tmp_path / "a.csv", {"N": "params"})
    right = load(tmp_path / "a.parquet", {"N": "params"})
    pd.testing.assert_frame_equal(left, right)
    assert left.N.tolist() == [10, 20]
    assert left.P_kv.tolist() == [16.0, 16.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "none", "does not exist; a store, a CSV or a parquet file is wanted"),
        (lambda p: p, "holds no finished run"),
        (lambda p: written(p / "x.parquet", b"junk"), "cannot be read as a table"),
        (lambda p: written(p / "x.csv", b""), "cannot be read as a table"),
        (
            lambda p: written(p / "x.csv", b"N,D,loss\n1,2,high\n"),
            "column 'loss' must hold numbers, got 'high' in row 0",
        ),
    ],
)
def test_unreadable_data_is_one_line(tmp_path: Path, make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(make(tmp_path))


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_missing_renamed_column_lists_what_there_is(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", b"params,D\n1,2\n")
    with pytest.raises(ConfigError, match="has no column 'parms'; it has params, D"):
        load(path, {"N": "parms"})


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    publish(store.result("a"), ROW)
    store.result("a").write_text('{"loss": ')
    with pytest.raises(ConfigError, match="result.json cannot be read"):
        load(tmp_path)


def test_a_store_that_cannot_be_written_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ConfigError, match="is not writable: Not a directory"):
        Store(blocked / "store").check_writable()
    Store(tmp_path / "fine").check_writable()
    assert list((tmp_path / "fine").iterdir()) == []


def test_a_full_disk_is_noticed_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(ConfigError, match="is not writable: No space left on device"):
        Store(tmp_path / "s").check_writable()
    assert not (tmp_path / "s").exists()


def test_every_column_is_explained() -> None:
    assert all(meaning for _, meaning in COLUMNS.values())
