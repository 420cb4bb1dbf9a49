"""Every row of a store as a table, through a parquet cache: 100,000 points load in about a second.

The JSON files are the truth; the cache may be deleted at any time, may be damaged, and is not needed to
read a store that one cannot write. Result files are never changed, so a cached row stands for a file as
long as the listing of its folder still shows the file and the folder has not been touched since; all
others are read. Folders are listed and files never stat'ed: on NFS a stat can stay wrong for a minute.

JSON columns mix kinds (16, 4.25, null), those of Arrow do not. So every (kind, name) is a column of its
own, `int:P_w` beside `float:P_w`: rows are kept exactly, new ones are a concatenation and lost ones a
filter, and what the cache held before never decides a type. Nothing in it is ever executed.
"""

import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precisionlaws.store import SCHEMA, Store, listed, read_row, write

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

File = tuple[str, str, int]  # run, path inside it, mtime of the folder that it stands in, ns
KEY = ("key:run", "key:file", "key:stamp")
KINDS = {
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
    type(None): "null",
    type(...): "absent",
}
ABSENT = ...  # JSON has no such value
WORTH = 200  # files: fewer are read faster than a cache of them is kept
SHARE = 0.02  # of all files that may be read again and again before the cache is written anew


def frame(store: Store) -> "pd.DataFrame":
    """A row per finished point, by run and evaluation; columns as found, in no particular order.

    Raises: ConfigError naming a file that is damaged or of a newer version.
    """
    files, rows = list(scan(store)), read(store)
    have = keys(rows)
    if have != files:
        rows, again = current(store, rows, have, files)
        if again >= max(WORTH, SHARE * len(files)):
            keep(store, rows)
    return unfolded(rows)


def current(
    store: Store, rows: "pa.Table", have: Sequence[File], files: Sequence[File]
) -> "tuple[pa.Table, int]":
    """The rows of `files`, in their order, and how many of the cache's rows are missing or too many."""
    import pyarrow as pa

    place = {key: i for i, key in enumerate(have)}
    fresh = [f for f in files if f not in place]
    gone = len(have) + len(fresh) - len(files)
    place |= {key: len(have) + i for i, key in enumerate(fresh)}
    new = table(fresh, [read_row(store.run(run) / file) for run, file, _ in fresh])
    every = pa.concat_tables([rows, new], promote_options="default")
    return every.take(pa.array([place[f] for f in files], pa.int64())), len(fresh) + gone


def scan(store: Store) -> Iterator[File]:
    """Every result file, in the order of the frame."""
    runs = f"{store.root}/runs"
    for run in sorted(n for n in listed(runs) if not n.startswith(".")):
        with suppress(FileNotFoundError, NotADirectoryError):  # removed meanwhile
            stamp = os.stat(f"{runs}/{run}").st_mtime_ns  # before the listing: a later change shows
            names = listed(f"{runs}/{run}")
            if "result.json" not in names:
                continue
            yield run, "result.json", stamp
            if "points" not in names:
                continue
            stamp = os.stat(f"{runs}/{run}/points").st_mtime_ns
            for name in sorted(listed(f"{runs}/{run}/points")):
                if name.endswith(".json") and not name.startswith("."):
                    yield run, f"points/{name}", stamp


def table(files: Sequence[File], rows: Sequence[dict[str, Any]]) -> "pa.Table":
    """Rows as one column per (kind, name), null where a row has no such value."""
    import pyarrow as pa

    columns = {
        name: pa.array([f[i] for f in files], type())
        for i, (name, type) in enumerate(zip(KEY, (pa.string, pa.string, pa.int64), strict=True))
    }
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name, ABSENT) for row in rows]
        try:
            columns |= by_kind(name, values)
        except OverflowError:
            columns |= by_kind(name, [Huge(v) if huge(v) else v for v in values])
    return pa.table(columns)


class Huge(int):
    """A whole number beyond 64 bits, kept as JSON text."""


def huge(value: Any) -> bool:
    return type(value) is int and not -(2**63) <= value < 2**63


def by_kind(name: str, values: Sequence[Any]) -> "dict[str, pa.Array]":
    import pyarrow as pa

    types = {"null": pa.bool_(), "bool": pa.bool_(), "int": pa.int64(), "float": pa.float64()}
    columns = {}
    for kind in {KINDS.get(t, "json") for t in set(map(type, values))} - {"absent"}:
        mine = [v if KINDS.get(type(v), "json") == kind else None for v in values]
        if kind == "null":
            mine = [True if v is None else None for v in values]
        elif kind == "json":
            mine = [None if v is None else json.dumps(v) for v in mine]
        columns[f"{kind}:{name}"] = pa.array(mine, types.get(kind, pa.string()))
    return columns


def keys(rows: "pa.Table") -> list[File]:
    return list(zip(*(rows[k].to_pylist() for k in KEY), strict=True))


def unfolded(rows: "pa.Table") -> "pd.DataFrame":
    """The columns of a name as one, as pandas would make it of the rows themselves."""
    import pandas as pd

    names: dict[str, dict[str, Any]] = {}
    for label in rows.column_names:
        kind, _, name = label.partition(":")
        if kind != "key" and rows[label].null_count < len(rows):
            names.setdefault(name, {})[kind] = rows[label]
    return pd.DataFrame({name: merged(kinds) for name, kinds in names.items()})


def merged(kinds: dict[str, Any]) -> Any:
    """Columns by kind as one: numbers together, every other mixture as objects."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute

    pc: Any = pyarrow.compute  # its functions are made at run time
    length = len(next(iter(kinds.values())))
    kinds = {k: v for k, v in kinds.items() if k != "null"}
    if kinds.keys() == {"int", "float"}:
        return pc.coalesce(kinds["float"], pc.cast(kinds["int"], pa.float64(), safe=False)).to_pandas()  # fmt: skip
    if len(kinds) == 1 and "json" not in kinds:
        return next(iter(kinds.values())).to_pandas()
    out = np.full(length, None, object)
    for kind, values in kinds.items():
        for i, value in enumerate(values.to_pylist()):
            if value is not None:
                out[i] = json.loads(value) if kind == "json" else value
    return out


def path(store: Store) -> Path:
    return store.root / "cache" / f"points-{SCHEMA}.parquet"


def read(store: Store) -> "pa.Table":
    """The cache; without a row where there is none that can be used."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    empty = table([], [])
    try:
        rows = pq.read_table(path(store), page_checksum_verification=True)
    except (OSError, pa.ArrowException):
        return empty
    same = set(empty.schema) <= set(rows.schema)
    return rows if same and all(rows[k].null_count == 0 for k in KEY) else empty


def keep(store: Store, rows: "pa.Table") -> None:
    """Replace the cache by a whole file: of several writers the last wins, and each is right."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(rows, buffer, write_page_checksum=True)
    with suppress(OSError):  # a store that one may only read, a full disk: files are read again
        write(path(store), buffer.getvalue())
