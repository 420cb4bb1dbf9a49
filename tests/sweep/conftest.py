"""Sweeps as processes that tests follow and disturb."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

# Leases that beat and die faster than a test.
SITE = """
import sys
if "precisionlaws" in " ".join(sys.orig_argv):
    import precisionlaws.claims
    precisionlaws.claims.BEAT_SECONDS, precisionlaws.claims.LEASE_SECONDS = 0.2, 2.0
"""


class Sweeps:
    """Of commands that run side by side. Tests wait for what these write, never for a time."""

    def __init__(self, site: Path):
        self.site = site
        self.begun: list[subprocess.Popen[str]] = []

    def command(self, *arguments: object) -> subprocess.Popen[str]:
        paths = (str(self.site), os.environ.get("PYTHONPATH"))
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "precisionlaws.cli", *map(str, arguments)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.begun.append(process)
        return process

    def begin(self, study: Path, store: Path, *more: str) -> subprocess.Popen[str]:
        return self.command("sweep", study, "--store", store, *more)

    def end(self, process: subprocess.Popen[str], code: int = 0) -> str:
        """What it printed."""
        out, errors = process.communicate()
        assert process.returncode == code, out + errors
        return out + errors

    def at_training(self, process: subprocess.Popen[str], store: Path) -> int | None:
        """A worker that is at training; None if the sweep came to its end before one was seen."""
        while process.poll() is None:
            for path in store.glob("claims/*.json"):
                try:
                    note = json.loads(path.read_text())
                except (OSError, ValueError):
                    continue
                if note.get("step", 0) > 0 and alive(note["pid"]):
                    return note["pid"]
            time.sleep(0.02)
        return None

    def holder(self, process: subprocess.Popen[str], store: Path) -> int:
        worker = self.at_training(process, store)
        assert worker is not None, self.end(process)
        return worker


def alive(pid: int) -> bool:
    """Leases of those who died stay until somebody takes over."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def sweeps(tmp_path: Path) -> Iterator[Sweeps]:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE)
    here = Sweeps(site)
    yield here
    for process in here.begun:  # also when the test has failed
        with process:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
