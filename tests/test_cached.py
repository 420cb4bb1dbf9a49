"""The cache never shows: with it, without it, damaged, shared or out of date, the frame is the same."""

import json
import multiprocessing
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest

from precisionlaws import cached
from precisionlaws.config import ConfigError
from precisionlaws.store import Store, load, publish

KINDS = {  # what one column holds in three rows
    "whole": (1, 2, 3),
    "numbers": (16, 4.25, None),
    "whole_or_none": (1, None, 3),
    "huge": (2**70, 1, None),
    "flags": (True, None, False),
    "anything": (1, "row", True),
    "lists": ([1, 2], {"a": None}, "text"),
    "nothing": (None, None, None),
    "text": ("", "ä\n", None),
    "key:run": ("a", "b", "c"),
}


@pytest.fixture(autouse=True)
def worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached, "WORTH", 1)
    monkeypatch.setattr(cached, "SHARE", 0.0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "s")
    for i, name in enumerate("abc"):
        add(store, name, **{k: v[i] for k, v in KINDS.items()})
    publish(store.point("b", "rtn4"), {"run_id": "b", "eval_id": "rtn4", "loss": 3, "only": 1.5})
    return store


def add(store: Store, name: str, **more: object) -> None:
    row = {"run_id": name, "eval_id": "final", "N": 10, "loss": 2.5} | more
    store.run(name).mkdir(parents=True)
    store.result(name).write_text(json.dumps({"schema": 1} | row))  # also what publish() refuses


def plain(store: Store) -> pd.DataFrame:
    """The frame from the files alone."""
    aside = store.root.parent / "aside"
    cache = store.root / "cache"
    if cache.exists():
        cache.rename(aside)
    frame = load(store.root)
    shutil.rmtree(cache, ignore_errors=True)
    if aside.exists():
        aside.rename(cache)
    return frame


def same(store: Store) -> pd.DataFrame:
    """The frame, which is that of the files, of a first and of a second load."""
    frame = load(store.root)
    pd.testing.assert_frame_equal(load(store.root), frame)
    pd.testing.assert_frame_equal(plain(store), frame)
    return frame


def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every result file that is read from now on."""
    seen: list[Path] = []
    true = cached.read_row
    monkeypatch.setattr(cached, "read_row", lambda path: seen.append(path) or true(path))
    return seen


def test_a_frame_is_what_pandas_makes_of_the_rows(store: Store) -> None:
    frame = same(store)
    rows = [json.loads(p.read_text()) for p in (store.result("a"), store.result("b"), store.point("b", "rtn4"), store.result("c"))]  # fmt: skip
    want = pd.DataFrame(rows)
    for name in ("whole", "numbers", "text", "only", "N", "loss"):
        pd.testing.assert_frame_equal(frame.filter([name]), want.filter([name]))
    for name in KINDS:
        left = [None if v is None or v != v else v for v in frame[name]]
        assert left == [r.get(name) for r in rows], name


def test_what_is_known_is_not_read_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    load(store.root)
    seen = reads(monkeypatch)
    load(store.root)
    assert seen == []
    add(store, "d", late=True)
    assert same(store).run_id.tolist() == ["a", "b", "b", "c", "d"]
    assert seen.count(store.result("d")) == 2  # once for the cache, once without it
    assert seen.count(store.result("a")) == 1


def test_the_first_rows_decide_no_type(tmp_path: Path) -> None:
    """Cached as whole numbers, then a fraction, then only whole numbers again."""
    store = Store(tmp_path / "s")
    add(store, "a", x=1, gone="x")
    assert same(store).x.dtype == "int64"
    add(store, "b", x=1.5)
    assert same(store).x.tolist() == [1.0, 1.5]
    shutil.rmtree(store.run("b"))
    assert same(store).x.dtype == "int64"
    add(store, "c", x="text")
    assert same(store).x.tolist() == [1, "text"]
    shutil.rmtree(store.run("a"))
    frame = same(store)
    assert frame.x.tolist() == ["text"]
    assert "gone" not in frame


def test_a_run_that_was_removed_and_made_again_is_read_again(store: Store) -> None:
    load(store.root)
    shutil.rmtree(store.run("a"))
    assert "a" not in set(same(store).run_id)
    add(store, "a", loss=9.0)
    assert same(store).loss.tolist() == [9.0, 2.5, 3.0, 2.5]
    shutil.rmtree(store.run("a"))
    add(store, "a", loss=8.0)  # no load in between
    assert same(store).loss[0] == 8.0


@pytest.mark.parametrize("damage", ["empty", "junk", "cut", "flipped", "foreign", "folder"])
def test_a_damaged_cache_is_made_anew(store: Store, damage: str) -> None:
    load(store.root)
    path = cached.path(store)
    content = bytearray(path.read_bytes())
    good = bytes(content)
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage == "foreign":
        pd.DataFrame({"key:run": [1], "loss": [0.1]}).to_parquet(path)
    else:
        at = content.index(b"rtn4")
        content[at : at + 4] = b"rtn5"
        path.write_bytes({"empty": b"", "junk": b"junk", "cut": good[:-9], "flipped": bytes(content)}[damage])  # fmt: skip
    assert set(same(store).eval_id) == {"final", "rtn4"}
    if damage != "folder":
        assert path.read_bytes() == good


def test_a_store_that_cannot_be_written_loads_without(store: Store) -> None:
    (store.root / "cache").write_text("in the way of a folder")
    assert len(load(store.root)) == 4


def test_a_small_store_gets_no_cache(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached, "WORTH", 5)
    load(store.root)
    assert not (store.root / "cache").exists()


def test_damage_and_newer_versions_are_named_with_and_without_a_cache(store: Store) -> None:
    load(store.root)
    add(store, "d", schema=2)
    for _ in range(2):
        with pytest.raises(
            ConfigError, match="d/result.json has schema 2, this version .* up to 1"
        ):
            load(store.root)
    store.result("d").write_text('{"run_id": ')
    with pytest.raises(ConfigError, match="d/result.json cannot be read"):
        load(store.root)


def test_many_writers_and_readers_at_once(store: Store) -> None:
    """Four processes load while runs appear; each frame is whole, and so is the cache that stays."""
    with multiprocessing.get_context("fork").Pool(4) as pool:
        pending = [pool.apply_async(count, (store.root,)) for _ in range(12)]
        for i in range(10):
            temporary = store.run(f".new{i}")
            add(store, temporary.name)
            os.rename(temporary, store.run(f"n{i}"))
        counts = [p.get(60) for p in pending]
    assert all(4 <= n <= 14 for n in counts)
    assert len(same(store)) == 14


def count(root: Path) -> int:
    return len(load(root))
