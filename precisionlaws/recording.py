"""A valid row from someone else's training loop.

    with precisionlaws.record("results", N=1_000_000, D=20_000_000, seed=0, P_w=4) as run:
        for step in range(steps):
            ...
            run.log(step, loss)
        run.loss(held_out_loss)

The row stands in the store beside those of our own runs, and loads and fits with them. Its name is a hash of
everything that was given: give as columns all that tells two of your runs apart (`lr=3e-4`). (A module called
record would hide the function of that name.)
"""

import json
import math
import operator
import re
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from precisionlaws.config import ConfigError, canonical, digest, dumps
from precisionlaws.store import COLUMNS, SCHEMA, Store, jsonable, read_json, write

ROLES = {"P_w": "w", "P_a": "a", "P_kv": "kv"}
OURS = {
    "run_id", "eval_id", "schema", "status", "mode", "phase", "loss", "loss_se", "delta_ptq", "delta_ptq_se",
    "P_post", "seconds",
}  # fmt: skip


def record(
    store: str | Path, *, N: int, D: int, seed: int,
    P_w: float = 16, P_a: float = 16, P_kv: float = 16, arch: str = "external", **columns: Any,
) -> "Recording":  # fmt: skip
    """Record one run, trained by any code, into a store; used as a context manager.

    N: parameters of the matrices that are quantized. D: tokens of a schedule that ends there. P_*: bits in
    training, 16 = not quantized. columns: anything else that defines the run; known ones keep their meaning
    (`N_head`, `N_emb`, `flops`, `bits_effective`, `objective`). family: runs that share initialization and
    batches; (arch, N, seed) unless given.
    Raises: ConfigError for a value that no row can have, or when the store cannot be written.
    """
    given = {
        "N": whole("N", N, 1),
        "D": whole("D", D, 1),
        "seed": whole("seed", seed, 0),
        "arch": arch,
    }
    given |= {name: bits(name, P) for name, P in {"P_w": P_w, "P_a": P_a, "P_kv": P_kv}.items()}
    if not isinstance(arch, str) or not arch:
        raise ConfigError(f"arch must be a name, got {arch!r}")
    return Recording(Store(store), given | {k: column(k, v) for k, v in columns.items()})


class Recording:
    """One run being recorded. Nothing of it is a result before the block ends without an exception."""

    def __init__(self, store: Store, given: Mapping[str, Any]):
        self.store, self.given = store, given
        self.run_id = name_of(given)
        self.folder = store.run(self.run_id)
        self.row: dict[str, Any] | None = None
        self.points: dict[str, dict[str, Any]] = {}
        self.log_lines = 0

    @property
    def done(self) -> bool:
        """The store has this run: a loop that asks first need not train it again."""
        return self.store.has(self.run_id)

    def loss(self, value: float, se: float | None = None) -> None:
        """The held-out loss, nats per token, and the sampling error of the held-out set. NaN or infinity:
        the run diverged, and its row says so."""
        if self.row is not None:
            raise ConfigError(f"run {self.run_id} has a loss already: {self.row['loss']}")
        loss = number("loss", value)
        if loss <= 0:
            raise ConfigError(f"loss must be positive, got {loss:g}")
        ok = math.isfinite(loss)
        error = None if se is None or not ok else number("se", se)
        status = "finished" if ok else "diverged"
        self.row = {"loss": loss if ok else None, "loss_se": error, "status": status}

    def delta_ptq(
        self, bits_: float, delta: float, se: float | None = None, *, method: str = "external", **columns: Any
    ) -> None:  # fmt: skip
        """The loss after rounding the weights to `bits_` minus the loss before, on the same sequences."""
        P, rise = bits("bits", bits_), number("delta", delta)
        if not math.isfinite(rise):
            raise ConfigError(
                f"delta must be finite, got {rise:g}: leave out what cannot be measured"
            )
        more = {f"ptq.{k}": column(k, v) for k, v in columns.items()}
        name = f"{slug(method)}{P:g}-{digest(dumps({'ptq': method, 'P_post': P} | more))}"
        if name in self.points:
            raise ConfigError(f"run {self.run_id} has a delta of {method} at {P:g} bits already")
        error = None if se is None else number("se", se)
        self.points[name] = {
            "eval_id": name, "P_post": P, "bits_effective": None, "delta_ptq": rise, "delta_ptq_se": error,
            "ptq": method, **more,
        }  # fmt: skip

    def log(self, step: int, loss: float, **more: float) -> None:
        """A line of metrics.jsonl, on disk at once."""
        line = {"step": whole("step", step, 0), "loss": number("loss", loss)}
        line |= {k: number(k, v) for k, v in more.items()}
        if self.done:
            return  # the metrics of the recorded run stay
        with (self.folder / "metrics.jsonl").open("a" if self.log_lines else "w") as file:
            file.write(json.dumps({k: jsonable(v) for k, v in line.items()}) + "\n")
        self.log_lines += 1

    def __enter__(self) -> Self:
        self.store.check_writable()  # before days of training, not after
        self.folder.mkdir(parents=True, exist_ok=True)
        self.start = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:  # fmt: skip
        if error is None:
            try:
                self.publish()
            except ConfigError as mine:
                self.keep(mine)
                raise
        elif isinstance(error, Exception):  # not Ctrl-C: nothing is wrong with the run
            self.keep(error)

    def keep(self, error: Exception) -> None:
        """error.json, unless an earlier recording of this run succeeded."""
        if not self.done:
            text = "".join(traceback.format_exception(error))
            words = f"{type(error).__name__}: {error}"
            write(self.folder / "error.json", json.dumps({"error": words, "traceback": text}))

    def publish(self) -> None:
        if self.row is None and self.done:  # nothing new, or points of a run recorded before
            known = read_json(self.store.result(self.run_id))
            self.row = {k: known[k] for k in ("loss", "loss_se", "status")}
        if self.row is None:
            raise ConfigError(f"run {self.run_id} ended without a loss: call run.loss(value)")
        if self.points and self.row["status"] == "diverged":
            raise ConfigError(f"run {self.run_id} diverged, so it has no delta_ptq: leave it out")
        seconds = {"seconds": time.perf_counter() - self.start}
        base = self.base()
        once(self.store.result(self.run_id), base | self.row | seconds)
        for name, point in self.points.items():
            after = {"loss": self.row["loss"] + point["delta_ptq"], "status": "finished"}
            once(self.store.point(self.run_id, name), base | after | point | {"seconds": None})
        (self.folder / "error.json").unlink(missing_ok=True)

    def base(self) -> dict[str, Any]:
        """What the points of the run have in common; given columns win over what follows from others."""
        g = self.given
        return {
            "run_id": self.run_id,
            "eval_id": "final",
            "family": f"ext-{g['arch']}-N{g['N']}-s{g['seed']}",
            "objective": "causal",
            "P_post": 16,
            "bits_effective": None,
            "phase": "final",
            "mode": mode(g),
            "flops": None,
            **g,
        }  # fmt: skip


def once(path: Path, row: Mapping[str, Any]) -> None:
    """Publish a row unless it is there. Raises: ConfigError when another is there under the same name."""
    row = {"schema": SCHEMA} | {k: jsonable(v) for k, v in row.items()}
    if write(path, json.dumps(row, indent=1) + "\n", replace=False):
        return
    old = read_json(path)
    differs = [
        k for k in sorted(old.keys() | row.keys()) if k != "seconds" and old.get(k) != row.get(k)
    ]
    if differs:
        what = ", ".join(f"{k} {old.get(k)}, now {row.get(k)}" for k in differs)
        raise ConfigError(
            f"{path} is recorded already with {what}; the first one is kept: give what is different about this "
            "run as a column, e.g. record(..., lr=3e-4)"
        )


def name_of(given: Mapping[str, Any]) -> str:
    """Readable prefix + 12 hex of everything given."""
    label = "".join(f"{r}{given[c]:g}" for c, r in ROLES.items() if given[c] != 16) or "fp"
    prefix = f"ext-{slug(given['arch'])}-{given['N']}-{given['D']}-{label}-s{given['seed']}"
    return f"{prefix}-{digest(dumps(given))}"


def slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "_", text).strip("._")[:40] or "x"


def mode(given: Mapping[str, Any]) -> str:
    low = [c for c in ROLES if given[c] != 16]
    return "none" if not low else "qat" if low == ["P_w"] else "low_precision"


def whole(name: str, value: Any, least: int) -> int:
    """Also numpy's integers, and floats such as 1e6."""
    try:
        number = int(value) if float(value).is_integer() else operator.index(value)
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or isinstance(value, (bool, str)) or number < least:
        raise ConfigError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return number


def bits(name: str, value: Any) -> float:
    P = canonical(number(name, value))
    if not 1 <= P <= 16:
        raise ConfigError(f"{name} must be 1 to 16 (16: not quantized), got {P:g}")
    return P


def number(name: str, value: Any) -> float:
    """Also numpy's numbers and tensors of one element."""
    try:
        if isinstance(value, (bool, str)):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{name} must be a number, got {value!r}") from None


def column(name: str, value: Any) -> Any:
    """A scalar of the row, under a name that the row does not fill itself."""
    if name in OURS:
        use = (
            "run.delta_ptq(...)"
            if name in ("P_post", "delta_ptq", "delta_ptq_se")
            else "run.loss(...)"
        )
        raise ConfigError(
            f"{name} is not a column to give: it comes from {use} or from the other columns"
        )
    value = value.item() if hasattr(value, "item") else value  # numpy, torch
    if isinstance(COLUMNS.get(name, ("",))[0], float):
        value = number(name, value)
    if value is not None and not isinstance(value, (str, int, float, bool)):
        raise ConfigError(f"{name} must be a number, text, true, false or None, got {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{name} must be finite, got {value:g}")
    return value
