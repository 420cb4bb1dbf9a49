"""Tables made elsewhere: reading them with care, and recipes of known public ones (`conf/table/*.yaml`).

A recipe says where a file is, under which licence, what its columns mean and which rows its authors leave
out. Nothing is downloaded: the checksum tells whether a file is the one that the recipe speaks of.
"""

import bz2
import csv
import gzip
import hashlib
import json
import lzma
from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precisionlaws.config import ConfigError, nearest
from precisionlaws.where import arithmetic, where

if TYPE_CHECKING:
    import pandas as pd

CONF = Path(__file__).resolve().parent / "conf" / "table"
JSON = (".json", ".jsonl", ".ndjson")
OPEN: Mapping[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
SHOWN = 40  # characters of a foreign cell that a message repeats


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is known of one public table."""

    name: str
    about: str
    url: str
    source: str  # who measured it
    licence: str
    sha256: tuple[str, ...]  # of the files that have been checked
    columns: Mapping[
        str, str | list[str]
    ]  # frame name: name in the file (or several), or arithmetic
    leave_out: tuple[
        Mapping[str, Any], ...
    ] = ()  # {where: ...} or {highest: column, count: n}; why

    def where_to_get(self) -> str:
        return f"table {self.name} is at {self.url} (licence: {self.licence})"


def names() -> list[str]:
    return sorted(p.stem for p in CONF.glob("*.yaml"))


def recipe(name: str) -> Recipe:
    """Raises: ConfigError for a name that conf/table lacks."""
    import yaml

    if name not in names():
        raise ConfigError(f"no table {name!r}{nearest(name, names())}")
    spec = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    odd = set(spec) ^ {f.name for f in fields(Recipe)} - {"name", "leave_out"}
    if odd - {"leave_out"}:
        raise ConfigError(f"conf/table/{name}.yaml: missing or unknown: {', '.join(sorted(odd))}")
    for key in ("sha256", "leave_out"):
        spec[key] = tuple(spec.get(key) or ())
    return Recipe(name=name, **spec)


def apply(frame: "pd.DataFrame", table: Recipe, path: Path) -> "pd.DataFrame":
    """The frame as the recipe reads it. What it left out and what it doubts are in `frame.attrs`."""
    frame = mapped(frame, table.columns, path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    said = []
    if found not in table.sha256:
        said.append(
            f"{path} is not the file that table {table.name} was checked with: its sha256 is {found}, "
            f"not {' or '.join(table.sha256)}"
        )
    left_out = []
    for rule in table.leave_out:
        kept = frame.loc[keep(frame, rule)]
        left_out.append([rule["why"], len(frame) - len(kept)])
        frame = kept
    frame.attrs.update(warnings=said, left_out=[[why, n] for why, n in left_out if n])
    return frame


def keep(frame: Any, rule: Mapping[str, Any]) -> Any:
    """Rows that stay: below the `count` highest of a column, or outside of a condition."""
    if "highest" in rule:
        values = frame[rule["highest"]]
        return values < values.nlargest(rule["count"]).iloc[-1]
    return ~frame.index.isin(where(frame, rule["where"]).index)


def mapped(
    frame: "pd.DataFrame", columns: Mapping[str, str | list[str]], path: Path
) -> "pd.DataFrame":
    """The frame with columns of our names, each copied from the file or computed from columns so far."""
    frame = frame.copy(deep=False)
    for name, source in columns.items():
        choices = [source] if isinstance(source, str) else source
        known = next((s for s in choices if s in frame), None)
        frame[name] = frame[known] if known else computed(frame, choices[0], path)
    return frame


def computed(frame: "pd.DataFrame", text: str, path: Path) -> Any:
    if text.replace("_", "").replace(" ", "").replace(".", "").isalnum() and not text[0].isdigit():
        have = ", ".join(map(str, frame.columns))
        raise ConfigError(f"{path} has no column {text!r}; it has {have}")
    return arithmetic(frame, text)


def read(path: Path) -> "pd.DataFrame":
    """A CSV, TSV, parquet or JSON file as it is; `attrs["line"]` is the line of row 0 where that is known.

    Raises: ConfigError, one line.
    """
    import pandas as pd

    if not path.exists():
        raise ConfigError(
            f"{str(path)!r} does not exist; a store, a CSV or a parquet file is wanted"
        )
    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
        elif path.suffix in JSON:
            frame = pd.json_normalize(records(path))
        else:
            frame = read_csv(path)
    except (ValueError, OSError, csv.Error) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, UnicodeDecodeError):
            text = f"byte 0x{error.object[error.start]:02x} is not UTF-8 text; save it as UTF-8"
        raise ConfigError(f"{path} cannot be read as a table: {text}") from None
    frame.columns = [str(c).strip() for c in frame.columns]
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise ConfigError(f"{path} has two columns {twice[0]!r}")
    return frame


def read_csv(path: Path) -> "pd.DataFrame":
    """Comma, semicolon or tab, whichever the header holds most of."""
    import pandas as pd

    with OPEN.get(path.suffix, open)(path, "rt", encoding="utf-8-sig") as file:
        header = file.readline()
    separator = max(",;\t", key=header.count)
    heads = [h.strip() for h in next(csv.reader([header], delimiter=separator), [])]
    twice = sorted({h for h in heads if heads.count(h) > 1 and h})
    if twice:  # pandas would rename the second
        raise ValueError(f"two columns are called {twice[0]!r}")
    # Empty lines are read and then dropped, so that a row keeps the number of its line.
    frame = pd.read_csv(
        path, sep=separator, low_memory=False, skip_blank_lines=False, encoding="utf-8-sig"
    ).dropna(how="all")
    frame.attrs["line"] = 2
    return frame


def records(path: Path) -> list[Any]:
    """A list of objects, one object per line, or lists of objects under names, which become `group`."""
    text = path.read_text()
    lines = path.suffix != ".json" or (text.lstrip().startswith("{") and "\n{" in text.strip())
    value = (
        [json.loads(line) for line in text.splitlines() if line.strip()]
        if lines
        else json.loads(text)
    )
    if isinstance(value, dict):
        value = [
            {"group": name, **row}
            for name, rows in value.items()
            for row in (rows if isinstance(rows, list) else [])
            if isinstance(row, dict)
        ]
    if not isinstance(value, list) or not value or not all(isinstance(row, dict) for row in value):
        raise ValueError("it holds no list of objects")
    return value


def place(table: Any, row: Any) -> str:
    """Where a row stands: its number from 0, and its line in the file if the table is a file."""
    line = table.attrs.get("line")
    known = line is not None and isinstance(row, Integral)
    return f"row {row} (line {row + line})" if known else f"row {row}"


def cell(value: Any) -> str:
    """A foreign cell in a message: quoted, short, on one line, without control characters."""
    text = repr(value.item() if hasattr(value, "item") else value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
