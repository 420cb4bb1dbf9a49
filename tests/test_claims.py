"""Leases: one holder, takeover of the dead, never of the living."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from precisionlaws import claims
from precisionlaws.claims import Watcher, acquire


def foreign(path: Path, beat: int = 0, host: str = "elsewhere", pid: int = 1) -> str:
    text = json.dumps({"host": host, "pid": pid, "id": "x", "beat": beat})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return text


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "claims" / "unit.json"
    first = acquire(path)
    assert first is not None
    assert acquire(path) is None
    assert Watcher().held(path) == (True, None)
    first.release()
    assert not path.exists()
    second = acquire(path)
    assert second is not None
    second.release()


def test_a_lease_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.01)
    path = tmp_path / "unit.json"
    lease = acquire(path)
    assert lease is not None
    before = path.read_text()
    for _ in range(500):
        if path.read_text() != before:
            break
        lease.done.wait(0.01)
    assert json.loads(path.read_text())["beat"] > 0
    lease.release()


def test_a_beat_on_its_way_does_not_put_a_released_lease_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, busy = tmp_path / "unit.json", threading.Event()
    lease = acquire(path)
    assert lease is not None

    def slow(path: Path, content: str) -> None:
        busy.set()
        time.sleep(0.1)
        path.write_text(content)

    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.001)
    monkeypatch.setattr(claims, "write", slow)
    second = claims.Lease(path, lease.owner)
    assert busy.wait(10)
    second.release()
    second.thread.join()
    assert not path.exists()
    lease.release()


def test_a_silent_foreign_lease_is_taken_over_and_a_beating_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, watcher, clock = tmp_path / "unit.json", Watcher(), [100.0]
    monkeypatch.setattr(claims.time, "monotonic", lambda: clock[0])
    text = foreign(path)
    assert watcher.held(path) == (True, None)
    clock[0] += claims.LEASE_SECONDS - 1
    foreign(path, beat=1)
    assert watcher.held(path) == (True, None)
    clock[0] += claims.LEASE_SECONDS - 1
    assert watcher.held(path) == (True, None)
    clock[0] += 2
    held, stale = watcher.held(path)
    assert not held
    assert stale == text.replace('"beat": 0', '"beat": 1')
    lease = acquire(path, stale)
    assert lease is not None
    lease.release()


def test_a_renewed_lease_is_put_back(tmp_path: Path) -> None:
    """Between the look and the takeover its holder came back."""
    path = tmp_path / "unit.json"
    stale = foreign(path)
    renewed = foreign(path, beat=7)
    assert acquire(path, stale) is None
    assert path.read_text() == renewed
    assert [p.name for p in tmp_path.iterdir()] == ["unit.json"]


def test_a_dead_process_of_this_host_is_seen_at_once(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    path = tmp_path / "unit.json"
    text = foreign(path, host=socket.gethostname(), pid=gone.pid)
    assert Watcher().held(path) == (False, text)
    foreign(path, host=socket.gethostname(), pid=os.getpid())
    assert Watcher().held(path) == (True, None)


def test_no_lease_is_free(tmp_path: Path) -> None:
    assert Watcher().held(tmp_path / "none.json") == (False, None)
