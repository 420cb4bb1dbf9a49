"""Frames that ship with the package: `pkg:NAME` wherever a store or table is read.

A data set is a folder here: parquet shards of `runs export`, one per sitting, and their checksums in
`SHA256SUMS`, as `sha256sum *.parquet` writes them.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from precisionlaws.config import ConfigError, nearest

if TYPE_CHECKING:
    import pandas as pd

HERE = Path(__file__).resolve().parent
PREFIX = "pkg:"
SUMS = "SHA256SUMS"


def is_name(path: str | Path) -> bool:
    return str(path).startswith(PREFIX)


def names() -> list[str]:
    return sorted(p.parent.name for p in HERE.glob(f"*/{SUMS}"))


def frame(name: str) -> "pd.DataFrame":
    """All shards of `pkg:NAME`, in the order of their names.

    Raises: ConfigError for a data set that does not ship, or a shard that is not the one that shipped.
    """
    import pandas as pd

    short = name.removeprefix(PREFIX)
    if short not in names():
        raise ConfigError(
            f"no data set {name!r} in this installation{nearest(short, names())}"
            if names()
            else f"no data set {name!r}: this installation ships none"
        )
    return pd.concat([pd.read_parquet(p) for p in shards(HERE / short)], ignore_index=True)


def shards(folder: Path) -> list[Path]:
    """The files of a data set, checked. Raises: ConfigError naming the one that differs."""
    lines = (line.split(maxsplit=1) for line in (folder / SUMS).read_text().splitlines())
    sums = {file: expected for expected, file in lines}
    for file, expected in sums.items():
        path = folder / file
        found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"
        if found != expected:
            raise ConfigError(
                f"{path} is not what shipped: its sha256 is {found}, not {expected}; install again"
            )
    return [folder / file for file in sorted(sums)]
