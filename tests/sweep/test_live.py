"""What a sweep shows while it runs: the table of its store, and what goes wrong between the lines."""

import io
import json
from pathlib import Path

import pytest

from precisionlaws.store import Store, publish
from precisionlaws.sweep.live import LINE_SECONDS, Live
from precisionlaws.sweep.points import Study, study
from precisionlaws.sweep.rates import Rates
from precisionlaws.sweep.recorded import record
from precisionlaws.sweep.schedule import units


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def made() -> Study:
    return study("demo", ["size=7k", "seed=0", "tokens=62.5k"])


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    clock = [100.0]
    monkeypatch.setattr("precisionlaws.sweep.live.time.monotonic", lambda: clock[0])
    return clock


def begin(live: Live, made: Study, store: Store) -> None:
    live.begin(units(made.points), 2, store, record(store, made.name, [], made.points).key)


def finish(store: Store, run: str) -> None:
    publish(store.result(run), {"run_id": run, "loss": 2.125, "status": "finished"})


def test_plain_lines_from_time_to_time(made: Study, tmp_path: Path, now: list[float]) -> None:
    store, live = Store(tmp_path), Live(io.StringIO(), known=Rates(overall=2.0, runs=5))
    begin(live, made, store)
    first = live.out.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert first.startswith("7 runs to train, 12 points in all, on 2 workers: about ")
    assert "calibrated on 5 runs (2 times that of idle cores)" in first
    for _ in range(3):
        live.tick()
    finish(store, made.points[0].run_id)
    now[0] += LINE_SECONDS
    live.tick()
    live.end()
    assert live.out.getvalue()[len(first) :].splitlines() == [  # pyright: ignore[reportAttributeAccessIssue]
        "demo: 0 of 7 runs done, 7 to go, 0/12 points, after 0 s",
        "demo: 0 of 7 runs done, 7 to go, 1/12 points, after 15 s",
        "demo: 0 of 7 runs done, 7 to go, 1/12 points, after 15 s",
    ]


def test_a_table_on_a_terminal_below_what_went_wrong(
    made: Study, tmp_path: Path, now: list[float]
) -> None:
    store, live = Store(tmp_path), Live(Terminal())
    begin(live, made, store)
    finish(store, made.points[0].run_id)
    live.tick()
    live.event(0, units(made.points)[0], {"event": "failed", "error": "no room"})
    now[0] += LINE_SECONDS
    live.tick()
    text = live.out.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    before, failed, after = text.partition("failed: llama-")
    assert "\x1b[" in before  # erased, to be drawn again below
    assert failed
    for part in (before, after):
        assert "study  done  running  stalled  failed  to go  points  tokens/s  left" in part
        assert "2.1250" in part


def test_a_store_that_cannot_be_read_for_a_moment_ends_nothing(
    made: Study, tmp_path: Path, now: list[float]
) -> None:
    store, live = Store(tmp_path), Live(io.StringIO())
    begin(live, made, store)
    (store.root / "studies" / "other-0.json").write_text("{")  # of no concern here
    live.tick()
    assert "0 of 7 runs done" in live.out.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    (mine,) = store.root.glob("studies/demo-*")
    mine.write_text(json.dumps({"schema": 99}))
    other = Live(io.StringIO())
    other.begin([], 1, store, mine.stem)
    other.tick()
    other.end()
