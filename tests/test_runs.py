"""One run and two beside each other: found by part of a name, told apart by what differs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from precisionlaws.cli import app
from precisionlaws.config import ConfigError
from precisionlaws.heldout import to_bytes
from precisionlaws.runs import curve, describe, difference, find, spread
from precisionlaws.store import Store, load, publish
from precisionlaws.training.evaluate import standard_error

ROW = {"eval_id": "final", "N": 10, "D": 20, "loss_se": 0.03, "status": "finished", "optim.lr": 0.1, "exec.threads": 1}  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    for name, loss, more in (
        ("llama-fp-s0-aa", 2.0, {}),
        ("llama-w4-s0-ab", 2.25, {"P_w": 4, "optim.lr": 0.2, "exec.threads": 2, "extra": "x"}),
    ):
        publish(store.result(name), ROW | {"run_id": name, "loss": loss} | more)
        lines = ({"step": float(s), "loss": loss + 1 / (s + 1), "lr": 0.1} for s in range(100))
        (store.run(name) / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    point = {"run_id": "llama-fp-s0-aa", "eval_id": "rtn4", "P_post": 4, "delta_ptq": 0.5}
    publish(store.point("llama-fp-s0-aa", "rtn4"), ROW | point)
    return store


@pytest.mark.parametrize("part", ["llama-fp-s0-aa", "llama-f", "aa", "fp-s0"])
def test_a_unique_part_names_a_run(store: Store, part: str) -> None:
    assert find(load(store.root), part) == "llama-fp-s0-aa"


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("llama", "2 runs match 'llama': llama-fp-s0-aa, llama-w4-s0-ab"),
        ("lama-fp-s0-ab", "no run 'lama-fp-s0-ab'; did you mean 'llama-fp-s0-aa'"),
        ("zzz", "no run 'zzz'; valid: llama-fp-s0-aa, llama-w4-s0-ab"),
    ],
)
def test_others_are_told(store: Store, part: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find(load(store.root), part)


def test_thousands_of_names_are_not_listed() -> None:
    frame = pd.DataFrame({"run_id": [f"run{i}" for i in range(3000)]})
    with pytest.raises(ConfigError, match="no run 'zzz' among 3,000; `runs list` shows them"):
        find(frame, "zzz")
    with pytest.raises(ConfigError, match="3000 runs match 'run': .* and 2995 more"):
        find(frame, "run")


def test_a_run_in_words(store: Store) -> None:
    found = describe(load(store.root), store, "llama-fp-s0-aa")
    assert found["result"] == {"eval_id": "final", "loss": 2.0, "loss_se": 0.03, "status": "finished"}  # fmt: skip
    assert found["settings"]["optim.lr"] == 0.1
    assert "exec.threads" not in found["settings"]
    assert found["facts"] == {"exec.threads": 1}
    assert [(p["eval_id"], p["delta_ptq"]) for p in found["points"]] == [("rtn4", 0.5)]
    assert [c["step"] for c in found["curve"]] == spread(list(range(100)))


def test_what_differs(store: Store) -> None:
    found = difference(load(store.root), store, "llama-fp-s0-aa", "llama-w4-s0-ab")
    assert found["settings"] == {"P_w": [16.0, 4.0], "optim.lr": [0.1, 0.2], "extra": [None, "x"]}
    assert found["facts"] == {"exec.threads": [1, 2]}
    assert found["loss"]["difference"] == 0.25
    assert found["loss"]["se_at_most"] == pytest.approx(0.03 * 2**0.5)
    assert found["curve"]["steps"] == 100
    assert found["curve"]["last_tenth"] == pytest.approx(0.25)
    assert all(row["difference"] == pytest.approx(0.25) for row in found["curve"]["shown"])
    assert found["loss"]["se"] is None  # no losses by document
    same = difference(load(store.root), store, "llama-fp-s0-aa", "llama-fp-s0-aa")
    assert (same["settings"], same["facts"], same["loss"]["difference"]) == ({}, {}, 0)


def test_a_difference_on_the_same_text_is_paired(store: Store) -> None:
    """Documents are as hard for the one as for the other: 0.25 more on each, a little more on the third."""
    a, b = "llama-fp-s0-aa", "llama-w4-s0-ab"
    count = np.array([3.0, 1, 2])
    one = np.stack([count, count * [1.0, 2, 3]], 1)
    other = np.stack([count, count * [1.25, 2.25, 3.28]], 1)
    (store.run(a) / "held_out.npy").write_bytes(to_bytes(one))
    assert difference(load(store.root), store, a, b)["loss"]["se"] is None
    (store.run(b) / "held_out.npy").write_bytes(to_bytes(other))
    each = np.repeat([0.25, 0.25, 0.28], [3, 1, 2])
    expected = standard_error(each, np.repeat([0, 1, 2], [3, 1, 2]))
    assert difference(load(store.root), store, a, b)["loss"]["se"] == pytest.approx(expected)
    text = CliRunner().invoke(app, ["runs", "compare", str(store.root), a, b]).stdout
    assert f"standard error {expected:.6f}, paired by held-out document" in text
    (store.run(b) / "held_out.npy").write_bytes(to_bytes(other[:2]))  # of another text
    assert difference(load(store.root), store, a, b)["loss"]["se"] is None
    (store.run(b) / "held_out.npy").write_bytes(b"junk")
    with pytest.raises(ConfigError, match=r"held_out\.npy cannot be read"):
        difference(load(store.root), store, a, b)


def test_curves_are_compared_where_both_have_steps(store: Store) -> None:
    """A resumed log may hold a step twice: the later one counts. Without a curve there is no comparison."""
    path = store.run("llama-w4-s0-ab") / "metrics.jsonl"
    rows: list[Any] = [{"step": s, "loss": v} for s, v in ((98, 9.0), (98, 3.0), (99, 4.0), (150, 1.0))]  # fmt: skip
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    found = difference(load(store.root), store, "llama-fp-s0-aa", "llama-w4-s0-ab")["curve"]
    assert [(r["step"], r["loss_b"]) for r in found["shown"]] == [(98, 3.0), (99, 4.0)]
    path.unlink()
    assert difference(load(store.root), store, "llama-fp-s0-aa", "llama-w4-s0-ab")["curve"] is None
    path.write_text('{"step": 1, "lo')
    with pytest.raises(ConfigError, match="metrics.jsonl cannot be read"):
        curve(store, "llama-w4-s0-ab")


@pytest.mark.parametrize("count", [1, 2, 9, 10, 100, 12345])
def test_steps_are_spread_from_first_to_last(count: int) -> None:
    shown = spread(list(range(count)))
    assert (shown[0], shown[-1]) == (0, count - 1)
    assert shown == sorted(set(shown))
    assert len(shown) <= 9
