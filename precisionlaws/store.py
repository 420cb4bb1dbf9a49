"""The store on disk and the frame in memory; `load` is the only bridge between the two.

    <store>/runs/<run_id>/  config.yaml  metrics.jsonl  checkpoint.safetensors
                            held_out.npy           losses by document, to pair runs by (heldout.py)
                            result.json            exists if and only if training has ended
                            error.json             the last failure, until a retry succeeds
                            points/<eval_id>.json  one immutable file per PTQ
                            layers/<eval_id>.json  what its method says of every matrix
    <store>/trunks/<trunk_id>/step-N.safetensors   shared stable phases; only checkpoints, deletable
    <store>/claims/<unit>.json                     leases of workers
    <store>/studies/<study>.json                   what sweeps set out to do
    <store>/cache/                                 of `load`; deletable
    <store>/jobs/<batch>/                          what Slurm was given to do
    <store>/logs/<unit>.log                        what a worker printed at a unit, if anything

Files appear whole or not at all, and the first result wins: many writers on a network file system need
no lock and no database.
"""

import functools
import json
import math
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precisionlaws.config import ConfigError

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
NAN = math.nan
YOUNGER = {"exec.parts": "torch"}  # facts that rows of earlier versions lack, as they were

COLUMNS: dict[str, tuple[Any, str]] = {  # name: (value where absent, meaning and unit)
    "run_id": ("", "name of the training"),
    "eval_id": ("final", "name of the evaluation within the run: final, or a PTQ"),
    "family": ("", "(arch, size, data, seed): shares initialization and batches; the unit of resampling"),
    "arch": ("", "short name of the model"),
    "objective": ("causal", "causal or masked: never mixed in one fit"),
    "N": (NAN, "parameters of the block matrices, those that are quantized"),
    "N_head": (NAN, "parameters of the output head"),
    "N_emb": (NAN, "parameters of the embedding"),
    "D": (NAN, "tokens trained on, in a schedule that ends there"),
    "P_w": (16.0, "bits of the weights in training; 16 = not quantized"),
    "P_a": (16.0, "bits of the activations in training"),
    "P_kv": (16.0, "bits of K and V in training"),
    "P_g": (16.0, "bits of the gradients in training; no law reads them"),
    "P_post": (16.0, "bits of the weights after training (PTQ)"),
    "bits_effective": (NAN, "stored bits per block weight, scales included"),
    "gmse_w": (NAN, "squared error of the weights' format on N(0, 1); read by neff_gmse, as gmse_a and gmse_kv"),
    "gmse_a": (NAN, "squared error of the activations' format on N(0, 1)"),
    "gmse_kv": (NAN, "squared error of the format of K and V on N(0, 1)"),
    "loss": (NAN, "mean cross-entropy on held-out tokens, nats per token"),
    "loss_se": (NAN, "sampling error of the held-out set, nats; common to the study"),
    "delta_ptq": (NAN, "loss after PTQ minus loss before it, paired, nats"),
    "delta_ptq_se": (NAN, "standard error of delta_ptq from per-sequence differences, nats"),
    "seed": (0, "initialization and batch order"),
    "phase": ("final", "final, or stable: an undecayed checkpoint"),
    "status": ("finished", "finished or diverged"),
    "mode": ("none", "none, qat, low_precision: from the bits"),
    "flops": (NAN, "training FLOPs, counted"),
    "seconds": (NAN, "wall-clock seconds of the training from its trunk on (in a pack: its share), or of the PTQ"),
}  # fmt: skip


NEEDED = {"N", "D", "P_w", "P_a", "P_kv", "P_post", "loss", "delta_ptq"}  # by some law


class Store:
    """Paths of one store; creates nothing until something is written."""

    def __init__(self, root: str | Path):
        self.root = Path(root)

    def run(self, run_id: str) -> Path:
        return self.root / "runs" / run_id

    def result(self, run_id: str) -> Path:
        return self.run(run_id) / "result.json"

    def point(self, run_id: str, eval_id: str) -> Path:
        return self.run(run_id) / "points" / f"{eval_id}.json"

    def layers(self, run_id: str, eval_id: str) -> Path:
        return self.run(run_id) / "layers" / f"{eval_id}.json"

    def trunk(self, trunk_id: str) -> Path:
        return self.root / "trunks" / trunk_id

    def claim(self, unit: str) -> Path:
        return self.root / "claims" / f"{unit}.json"

    def log(self, unit: str) -> Path:
        return self.root / "logs" / f"{unit}.log"

    def study(self, name: str) -> Path:
        return self.root / "studies" / f"{name}.json"

    def has(self, run_id: str, eval_id: str = "final") -> bool:
        path = self.result(run_id) if eval_id == "final" else self.point(run_id, eval_id)
        return path.exists()

    def check_writable(self) -> None:
        """Raises ConfigError in words when a result could not be stored here."""
        made = not self.root.exists()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root) as probe:
                probe.write(bytes(2**20))
                probe.flush()
                os.fsync(probe.fileno())
        except OSError as error:
            if made and self.root.is_dir():
                self.root.rmdir()
            raise ConfigError(
                f"store {str(self.root)!r} is not writable: "
                + ("it is a file, not a folder" if self.root.is_file() else str(error.strerror))
            ) from None


def opened(root: str | Path) -> Store:
    """An existing store. Raises: ConfigError when there is none."""
    if not any((Path(root) / part).is_dir() for part in ("runs", "studies", "claims", "trunks")):
        what = "has no runs/ in it" if Path(root).is_dir() else "is not a folder"
        raise ConfigError(f"{str(root)!r} is not a store: it {what}")
    return Store(root)


def write(path: Path, data: str | bytes, *, replace: bool = True) -> bool:
    """Write a whole file or none of it. With `replace=False` an existing file is kept; whether this
    call's content is now there (equal content counts)."""
    content = data.encode() if isinstance(data, str) else data
    path = path.resolve() if path.is_symlink() else path
    if path.exists() and not path.is_file():  # a device or a pipe takes bytes, not a new inode
        path.write_bytes(content)
        return True
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o666 & ~umask())  # mkstemp's 0600 would shut colleagues out
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(name, path)
            return True
        return create(Path(name), path) or path.read_bytes() == content
    finally:
        Path(name).unlink(missing_ok=True)


@functools.cache
def umask() -> int:
    """The process's umask, which can only be read by setting it."""
    value = os.umask(0o077)
    os.umask(value)
    return value


def create(temporary: Path, path: Path) -> bool:
    """Give a finished temporary file its name unless the name is taken."""
    try:
        os.link(temporary, path)  # atomic, also on NFS
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        if path.exists():
            return False
        os.replace(temporary, path)
    return True


def publish(path: Path, row: Mapping[str, Any]) -> None:
    """Store a result once. A late duplicate from equal code and machine facts must say the same.

    Raises: RuntimeError when the duplicate disagrees: a result is never overwritten.
    """
    text = (
        json.dumps({"schema": SCHEMA} | {k: jsonable(v) for k, v in row.items()}, indent=1) + "\n"
    )
    if write(path, text, replace=False):
        return
    old, new = (
        {k: v for k, v in json.loads(t).items() if k != "seconds" and not k.startswith("host")}
        for t in (path.read_text(), text)
    )
    differs = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
    if differs and not any(k.startswith(("exec.", "code.")) for k in differs):
        raise RuntimeError(
            f"{path} holds another result for the same run (differs in {', '.join(differs)}); kept the first one"
        )


def jsonable(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return list(value) if isinstance(value, tuple) else value


def read_json(path: Path) -> dict[str, Any]:
    """Raises: ConfigError naming the file when it is not readable as a JSON object."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path} cannot be read: not a JSON object")
    return value


def read_row(path: Path) -> dict[str, Any]:
    """A result file. Raises: ConfigError when it is damaged, or of a version that this code cannot know."""
    row = read_json(path)
    if row.get("schema", 1) > SCHEMA:
        raise ConfigError(
            f"{path} has schema {row['schema']}, this version of precisionlaws reads up to {SCHEMA}: upgrade it"
        )
    return row


def listed(folder: str | Path) -> set[str]:
    """Names in a folder; none where it is missing."""
    try:
        return {entry.name for entry in os.scandir(folder)}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def saved_steps(trunk: Path) -> dict[int, str]:
    """Step -> file name of the checkpoints of a trunk."""
    found = (re.fullmatch(r"step-(\d+)\.safetensors", name) for name in listed(trunk))
    return {int(m[1]): m[0] for m in found if m}


def load(
    path: str | Path, columns: Mapping[str, str] | None = None, table: str | None = None
) -> "pd.DataFrame":
    """A store, CSV, parquet, JSON file or `pkg:NAME` as one frame: a row per point, columns as in `COLUMNS`,
    then dotted ones.

    columns: {frame name: name in the file, or arithmetic of columns}. table: the recipe of a known public
    table (conf/table). Columns that a file lacks take their neutral value, except those without one (N, D,
    loss ...), which stay absent.
    Raises: ConfigError when there is nothing to read.
    """

    from precisionlaws import datasets, tables

    path = Path(path)
    known = tables.recipe(table) if table else None
    if path.is_dir():
        from precisionlaws import cached

        frame = cached.frame(Store(path))
        if frame.empty:
            raise ConfigError(f"store {str(path)!r} holds no finished run")
    elif datasets.is_name(path):
        frame = datasets.frame(str(path))
    elif known and not path.exists():
        raise ConfigError(f"{str(path)!r} does not exist; {known.where_to_get()}")
    else:
        frame = tables.read(path)
    if known:
        if path.is_dir():
            raise ConfigError(f"{str(path)!r} is a folder; {known.where_to_get()}")
        frame = tables.apply(frame, known, path)
    frame = tables.mapped(frame, columns or {}, path)
    return complete(frame)


def complete(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Absent columns at their neutral value, known ones first; numbers as numbers."""
    said = frame.attrs
    frame = frame.drop(columns=["schema"], errors="ignore")
    frame.attrs = said
    for name, (value, _) in COLUMNS.items():
        known = not (value == "" or (isinstance(value, float) and math.isnan(value)))
        if name not in frame and known:
            frame[name] = value
        elif name in frame and isinstance(value, float):
            frame[name] = numbers(frame, name)
            if known:
                said_of_empty(frame, name)
                frame[name] = frame[name].fillna(value)
    older(frame)
    said = frame.attrs
    first = [c for c in COLUMNS if c in frame]
    frame = frame.filter(first + sorted(c for c in frame if c not in COLUMNS))
    frame.attrs = said
    return frame


def older(frame: "pd.DataFrame") -> None:
    """Facts of execution that are younger than a row, as they were when it was made."""
    if "exec.device" not in frame:
        return
    made: Any = frame["exec.device"].notna()
    for name, value in YOUNGER.items():
        empty = frame[name].isna() if name in frame else True
        if (unknown := made & empty).any():
            frame.loc[unknown, name] = value


def said_of_empty(frame: "pd.DataFrame", name: str) -> None:
    """Widths of training that some rows have and others do not: 16 bits, but not without a word."""
    from precisionlaws.tables import place

    empty: Any = frame[name].isna()
    if name in ("P_w", "P_a", "P_kv") and empty.any() and not empty.all():
        frame.attrs.setdefault("warnings", []).append(
            f"{name} is empty in {int(empty.sum())} rows ({place(frame, empty.idxmax())} is the first): "
            "they are taken as 16 bits, not quantized"
        )


def numbers(frame: "pd.DataFrame", name: str) -> Any:
    """A column of whole numbers or floats. Raises: ConfigError naming the first cell that is neither."""
    import pandas as pd

    from precisionlaws.tables import cell, place

    column = frame[name]
    if column.dtype in ("int64", "float64"):
        return column
    found: Any = pd.to_numeric(column, errors="coerce")
    bad = (found.isna() & column.notna()) | column.map(lambda v: isinstance(v, bool))
    if bad.any() and name not in NEEDED:  # of no law: what cannot be read is unknown
        found[bad] = math.nan
        frame.attrs.setdefault("warnings", []).append(
            f"column {name!r} holds text in {int(bad.sum())} rows, which are taken as unknown"
        )
    elif bad.any():
        row = bad.idxmax()
        raise ConfigError(
            f"column {name!r} must hold numbers, got {cell(column[row])} in {place(frame, row)}"
        )
    return found.astype(float)
