"""One run of a store, and two beside each other."""

import json
import math
from typing import TYPE_CHECKING, Any

from precisionlaws.config import ConfigError, nearest
from precisionlaws.heldout import from_bytes, paired
from precisionlaws.store import COLUMNS, Store

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

MEASURED = {  # columns of a row that are no setting
    "run_id", "eval_id", "family", "loss", "loss_se", "delta_ptq", "delta_ptq_se", "status", "flops", "seconds",
    "checkpoint.sha256",
}  # fmt: skip
FACTS = ("exec.", "code.", "host.", "data.fingerprint")  # where it was computed, and on which bytes
SHOWN = 9  # steps of a curve


def find(frame: "pd.DataFrame", name: str) -> str:
    """The run called `name`, or the only one whose name begins with it, ends in it or contains it.

    Raises: ConfigError when there is none, or more than one.
    """
    known = set(frame.run_id)
    if name in known:
        return name
    for fits in (str.startswith, str.endswith, str.__contains__):
        found = sorted(n for n in known if fits(n, name))
        if len(found) == 1:
            return found[0]
        if found:
            more = f" and {len(found) - 5} more" if len(found) > 5 else ""
            raise ConfigError(f"{len(found)} runs match {name!r}: {', '.join(found[:5])}{more}")
    close = nearest(name, known) if len(known) <= 5 else near(name, known)
    raise ConfigError(f"no run {name!r}{close}")


def near(name: str, known: set[str]) -> str:
    """A list of thousands of names helps nobody."""
    text = nearest(name, known)
    return text if "did you mean" in text else f" among {len(known):,}; `runs list` shows them"


def final(frame: "pd.DataFrame", run: str) -> dict[str, Any]:
    """The row of the run itself, without columns that it has not."""
    rows = frame[(frame.run_id == run) & (frame.eval_id == "final")]
    if rows.empty:
        raise ConfigError(f"run {run!r} has PTQ points here and no row of its own")
    return {k: v for k, v in rows.iloc[0].to_dict().items() if v is not None and v == v}


def new(frame: "pd.DataFrame", before: "pd.DataFrame") -> "pd.DataFrame":
    """Rows whose point (run, evaluation) `before` does not have."""
    import pandas as pd

    had, points = (pd.MultiIndex.from_arrays([f.run_id, f.eval_id]) for f in (before, frame))
    return frame.loc[~points.isin(had)]


def settings(row: dict[str, Any]) -> dict[str, Any]:
    """What was chosen, by dotted path; bits and sizes too."""
    return {k: v for k, v in row.items() if k not in MEASURED and not k.startswith(FACTS)}


def facts(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k.startswith(FACTS)}


def points(frame: "pd.DataFrame", run: str) -> list[dict[str, Any]]:
    """Its PTQ points."""
    shown = ["eval_id", "P_post", "bits_effective", "loss", "delta_ptq", "delta_ptq_se"]
    rows: Any = frame[(frame.run_id == run) & (frame.eval_id != "final")]
    return rows.filter(shown).to_dict("records")


def curve(store: Store, run: str) -> "pd.DataFrame | None":
    """metrics.jsonl: step, loss, lr, grad_norm; None where a run kept none.

    Raises: ConfigError when it is damaged.
    """
    import pandas as pd

    path = store.run(run) / "metrics.jsonl"
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines() if line]
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    frame = pd.DataFrame(rows)
    return frame if {"step", "loss"} <= set(frame) else None


def spread(steps: list[int], count: int = SHOWN) -> list[int]:
    """First, last and some between, at equal ratios: losses fall by the logarithm."""
    if len(steps) <= count:
        return steps
    places = {round((len(steps)) ** (i / (count - 1))) - 1 for i in range(count)}
    return [steps[i] for i in sorted(places)]


def describe(frame: "pd.DataFrame", store: Store | None, run: str) -> dict[str, Any]:
    """Result, settings, facts, PTQ points and a summary of the curve."""
    row = final(frame, run)
    out: dict[str, Any] = {
        "run_id": run,
        "result": {k: row[k] for k in COLUMNS if k in row and k in MEASURED - {"run_id"}},
        "settings": settings(row),
        "facts": facts(row),
        "points": points(frame, run),
    }
    line = curve(store, run) if store else None
    if line is not None:
        line = line.drop_duplicates("step", keep="last")
        shown: Any = line[line.step.isin(spread(line.step.tolist()))]
        out["curve"] = shown.filter(["step", "loss", "lr", "grad_norm"]).to_dict("records")
    return out


def difference(frame: "pd.DataFrame", store: Store | None, a: str, b: str) -> dict[str, Any]:
    """What differs between two runs; numbers are b minus a.

    se: of the loss difference, paired by document where both runs kept their held-out losses of the same
    text, else None. se_at_most: as if the two had been measured on different text. Losses of two objectives
    (next or hidden tokens) have no difference.
    """
    left, right = final(frame, a), final(frame, b)
    alike = left.get("objective") == right.get("objective")
    losses = [row.get("loss", math.nan) for row in (left, right)]
    errors = [row.get("loss_se", math.nan) for row in (left, right)]
    return {
        "runs": [a, b],
        "settings": differing(settings(left), settings(right)),
        "facts": differing(facts(left), facts(right)),
        "loss": {
            "values": losses, "difference": losses[1] - losses[0] if alike else None,
            "se": paired_error(store, left, right) if store and alike else None, "se_at_most": math.hypot(*errors),
        },
        "curve": curves(curve(store, a), curve(store, b)) if store and alike else None,
    }  # fmt: skip


def paired_error(store: Store, left: dict[str, Any], right: dict[str, Any]) -> float | None:
    """Standard error of the loss difference of two runs on the same held-out sequences.

    Raises: ConfigError for damaged sums.
    """
    if any(left.get(k) != right.get(k) for k in ("data.fingerprint", "data.context", "data.eval_tokens")):  # fmt: skip
        return None
    sums = [held_out(store, row["run_id"]) for row in (left, right)]
    found = None if sums[0] is None or sums[1] is None else paired(sums[0], sums[1])
    return found[1] if found else None


def held_out(store: Store, run: str) -> "np.ndarray | None":
    """Losses by document; None of a run that kept none: of another loop, an older version, or diverged."""
    path = store.run(run) / "held_out.npy"
    try:
        return from_bytes(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None


def differing(left: dict[str, Any], right: dict[str, Any]) -> dict[str, list[Any]]:
    names = dict.fromkeys((*left, *right))
    return {k: [left.get(k), right.get(k)] for k in names if left.get(k) != right.get(k)}


def curves(left: "pd.DataFrame | None", right: "pd.DataFrame | None") -> dict[str, Any] | None:
    """Training losses at common steps: some of them, and the mean difference over the last tenth."""
    if left is None or right is None:
        return None
    one, two = (c.drop_duplicates("step", keep="last")[["step", "loss"]] for c in (left, right))
    both = one.merge(two, on="step", suffixes=("_a", "_b")).sort_values("step")
    if both.empty:
        return None
    both["difference"] = both.loss_b - both.loss_a
    last = both.difference.iloc[-max(1, len(both) // 10) :]
    shown: Any = both[both.step.isin(spread(both.step.tolist()))]
    return {
        "steps": len(both), "last_tenth": float(last.mean()), "shown": shown.to_dict("records"),
    }  # fmt: skip
