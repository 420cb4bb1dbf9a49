"""The live view of a sweep: a small table on a terminal, plain lines elsewhere."""

import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from precisionlaws.costs import duration
from precisionlaws.sweep.dry_run import wall
from precisionlaws.sweep.rates import IDLE, Rates
from precisionlaws.sweep.schedule import Unit

LINE_SECONDS = 15.0  # between plain lines
SURE = 0.02  # share of the work after which its own pace tells more than any estimate


@dataclass
class Screen:
    """Lines that are drawn over each other on a terminal."""

    out: IO[str]
    drawn: int = 0

    def draw(self, lines: Sequence[str]) -> None:
        """As much as the terminal shows: a line that wraps or scrolls could not be drawn over."""
        width, height = shutil.get_terminal_size()
        shown = list(lines[: height - 1])
        if len(shown) < len(lines):
            shown[-1] = f"... and {len(lines) - len(shown) + 1} more lines"
        self.clear()
        print("\n".join(line[: width - 1] for line in shown), file=self.out, flush=True)
        self.drawn = len(shown)

    def clear(self) -> None:
        if self.drawn:
            self.out.write(f"\x1b[{self.drawn}F\x1b[J")  # to the first drawn line, erase below
            self.drawn = 0


@dataclass
class Live:
    """Shows progress on `out`; knows only what workers tell."""

    out: IO[str] = field(default_factory=lambda: sys.stderr)
    known: Rates = IDLE
    now: dict[int, str] = field(default_factory=dict)
    last: float = 0.0

    def __post_init__(self) -> None:
        self.screen = Screen(self.out)

    def begin(self, todo: list[Unit], workers: int) -> None:
        self.todo, self.workers = todo, workers
        self.start = time.monotonic()
        self.total = sum(self.known.seconds(u) for u in todo)
        self.idle = sum(u.seconds for u in todo)
        self.units_done, self.done, self.part = 0, 0.0, {}
        self.lines: list[str] = []
        runs = sum(len(u.runs) for u in todo)
        points = runs + sum(len(p) for u in todo for p in u.ptqs)
        print(f"{runs} runs, {points} points to go on {workers} workers", file=self.out, flush=True)

    def event(self, worker: int, unit: Unit, message: dict[str, Any]) -> None:
        kind = message["event"]
        if kind == "progress":
            share = message["step"] / message["steps"]
            self.now[worker] = (
                f"{message['run']}  step {message['step']:,}/{message['steps']:,}  {share:4.0%}"
            )
            done = min(message["step"] * message["batch"] / unit.tokens, 1.0)
            self.part[worker] = max(self.part.get(worker, 0.0), done * self.known.seconds(unit))
        elif kind == "quantizing":
            self.now[worker] = f"{message['run']}  quantizing"
            self.part[worker] = 0.9 * self.known.seconds(unit)
        elif kind in ("done", "failed", "died", "busy", "stopped"):
            self.now.pop(worker, None)
            self.part.pop(worker, None)
        if kind == "done":
            self.units_done += 1
            self.done += self.known.seconds(unit)
        if kind == "note":
            self.note(message["text"])
        if kind in ("failed", "died"):
            self.note(f"failed: {unit.name}: {message['error']}")

    def note(self, text: str) -> None:
        self.screen.clear()
        print(text, file=self.out, flush=True)

    def summary(self) -> str:
        elapsed = time.monotonic() - self.start
        share = (self.done + sum(self.part.values())) / self.total if self.total else 1.0
        counts = f"{self.units_done}/{len(self.todo)} units, {share:.0%}, {duration(elapsed)}"
        if share <= SURE:
            seconds = wall([self.known.seconds(u) for u in self.todo], self.workers)
            runs = f", calibrated on {self.known.runs} run(s)" if self.known.runs else ""
            return f"{counts}, about {duration(max(seconds - elapsed, 0))} left{runs}"
        slower = elapsed / share * self.workers / self.idle if self.idle else 1.0
        left = f", about {duration(elapsed * (1 - share) / share)} left" if share < 1 else ""
        return f"{counts}{left} ({slower:.1f} times the estimate for idle cores)"

    def tick(self) -> None:
        if not self.out.isatty():
            if time.monotonic() - self.last > LINE_SECONDS:
                self.last = time.monotonic()
                print(self.summary(), file=self.out, flush=True)
            return
        workers = (f"  {i}: {self.now.get(i, 'waiting')}" for i in range(self.workers))
        self.screen.draw([self.summary(), *workers])

    def end(self) -> None:
        self.screen.clear()
        print(self.summary(), file=self.out, flush=True)
