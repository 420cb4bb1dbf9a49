"""How fast this machine really is: seconds of finished runs against their estimates.

The estimate (costs.py) is of an idle core. A busy machine, another processor, quantization in training and
a GPU are all in the ratio of what finished runs took to what was estimated for them; later estimates are
multiplied by its median.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from precisionlaws.costs import cpu_seconds
from precisionlaws.run import Exec, RunConfig
from precisionlaws.store import Store, listed, read_json

if TYPE_CHECKING:
    from precisionlaws.sweep.schedule import Unit

READ = 300  # runs of a store that are looked at, evenly over their names
ENOUGH = 3  # runs of one architecture and size before their own median is believed


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Seconds per estimated second; 1 where nothing is known. runs: how many it rests on."""

    overall: float = 1.0
    runs: int = 0
    by_size: Mapping[str, float] = field(default_factory=dict)
    by_ptq: Mapping[str, float] = field(default_factory=dict)  # short name of a method

    def factor(self, run: RunConfig) -> float:
        return self.by_size.get(
            f"{run.model.SHORT} {run.size.depth} {run.size.width}", self.overall
        )

    def seconds(self, unit: "Unit") -> float:
        """Of one worker, for a unit: training, evaluation, PTQ."""
        factor = self.factor(unit.runs[0])
        out = factor * unit.seconds
        for ptq in (p for ps in unit.ptqs for p in ps):
            out += (self.by_ptq.get(ptq.SHORT, factor) - factor) * unit.eval_seconds
        return out


IDLE = Rates()


def rates(store: Store, exec: Exec) -> Rates:
    """From the finished runs of a store, on the device and with the threads that `exec` asks for."""
    names = sorted(listed(store.root / "runs"))
    wanted = {"exec.device": device(exec), "exec.threads": exec.threads}
    by_size: dict[str, list[float]] = {}
    by_ptq: dict[str, list[float]] = {}
    for name in names[:: max(1, -(-len(names) // READ))]:
        files = listed(store.run(name))
        row = read_json(store.result(name)) if "result.json" in files else {}
        if any(row.get(k) != v for k, v in wanted.items()) or row.get("status") != "finished":
            continue
        found = ratio(row)
        if found is None:
            continue
        by_size.setdefault(f"{row['arch']} {row['size.depth']} {row['size.width']}", []).append(
            found
        )
        for point in sorted(listed(store.run(name) / "points")) if "points" in files else ():
            rounded = read_json(store.run(name) / "points" / point)
            slower = ratio(rounded)
            if slower is not None and "ptq" in rounded:
                by_ptq.setdefault(str(rounded["ptq"]), []).append(slower)
    every = [r for group in by_size.values() for r in group]
    return Rates(
        overall=median(every) if every else 1.0,
        runs=len(every),
        by_size={k: median(v) for k, v in by_size.items() if len(v) >= ENOUGH},
        by_ptq={k: median(v) for k, v in by_ptq.items() if len(v) >= ENOUGH},
    )


def ratio(row: Mapping[str, Any]) -> float | None:
    """Seconds of a row over the estimate of its work; None for a row that does not say."""
    try:
        per_token = row["flops"] / row["D"]
        if row["eval_id"] == "final":
            steps = row["D"] / row["batch_tokens"] / row.get("exec.pack", 1)  # one launch for all
            estimate = cpu_seconds(row["flops"], steps, 0, per_token)
        else:
            estimate = cpu_seconds(0, 0, row["data.eval_tokens"], per_token)
        found = row["seconds"] / estimate
    except (KeyError, TypeError, ZeroDivisionError):  # of another loop, or an older version
        return None
    return found if found > 0 else None


def device(exec: Exec) -> str:
    """The device that workers will find, without importing torch: a driver's node says that it is a GPU."""
    if exec.device != "auto":
        return exec.device
    return "cuda" if any(Path("/dev").glob("nvidia[0-9]*")) else "cpu"
