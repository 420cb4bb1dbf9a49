"""The live view of a sweep: the table of `jobs watch` on a terminal, plain lines elsewhere."""

import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any

from precisionlaws.config import ConfigError
from precisionlaws.costs import duration
from precisionlaws.store import Store
from precisionlaws.sweep.dry_run import rests_on, wall
from precisionlaws.sweep.rates import IDLE, Rates
from precisionlaws.sweep.schedule import Unit
from precisionlaws.sweep.watch import Look, Watch, summary, table

LINE_SECONDS = 15.0  # between plain lines
LOOK_SECONDS = 1.0  # between looks for a terminal
SHARE = 0.05  # of the time that may go into looking


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
    """Shows a sweep on `out` as its store tells it, and what goes wrong between the lines."""

    out: IO[str] = field(default_factory=lambda: sys.stderr)
    known: Rates = IDLE
    due: float = 0.0  # when to look again, by time.monotonic

    def begin(self, todo: list[Unit], workers: int, store: Store, plan: str) -> None:
        self.screen, self.start = Screen(self.out), time.monotonic()
        self.watch = Watch(store, plan, slower=self.known.overall)
        train = sum(len(u.runs) - len(u.trained) for u in todo)
        points = train + sum(len(p) for u in todo for p in u.ptqs)
        left = duration(wall([self.known.seconds(u) for u in todo], workers))
        rests = rests_on({"runs": self.known.runs, "factor": self.known.overall})
        work = f"{count(train, 'run')} to train, {count(points, 'point')} in all"
        self.tell(f"{work}, on {count(workers, 'worker')}: about {left}, {rests}")

    def event(self, worker: int, unit: Unit, message: dict[str, Any]) -> None:
        if message["event"] == "note":
            self.tell(message["text"])
        if message["event"] in ("failed", "died"):
            self.tell(f"failed: {unit.name}: {message['error']}")

    def tell(self, text: str) -> None:
        self.screen.clear()
        print(text, file=self.out, flush=True)

    def tick(self) -> None:
        if (now := time.monotonic()) < self.due:
            return
        terminal = self.out.isatty()
        with suppress(ConfigError, OSError):  # a file that cannot be read must not end the work
            look = self.watch.look()
            self.screen.draw(table(look)) if terminal else self.tell(self.line(look))
        spent = time.monotonic() - now
        self.due = now + max(LOOK_SECONDS if terminal else LINE_SECONDS, spent / SHARE)

    def line(self, look: Look) -> str:
        return f"{summary(look.rows[0])}, after {duration(time.monotonic() - self.start)}"

    def end(self) -> None:
        self.screen.clear()
        with suppress(ConfigError, OSError):
            self.tell(self.line(self.watch.look()))


class Silent:
    """A view for those who do not look."""

    def begin(self, todo: list[Unit], workers: int, store: Store, plan: str) -> None: ...
    def event(self, worker: int, unit: Unit, message: dict[str, Any]) -> None: ...
    def tell(self, text: str) -> None: ...
    def tick(self) -> None: ...
    def end(self) -> None: ...


def count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"
