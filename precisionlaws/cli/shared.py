"""Arguments that several commands take, and how results are printed."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Hydra overrides, e.g. size=20k quant.weights.bits=4", show_default=False),
]
StoreOption = Annotated[Path, typer.Option("--store", help="Folder of the runs.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON at full precision.")]
Out = Annotated[
    Path | None, typer.Option("-o", "--out", help="Where to write.", show_default=False)
]


def print_json(value: Any) -> None:
    print(json.dumps(finite(value), indent=1))


def finite(value: Any) -> Any:
    """NaN and infinity as null: the rest of the world reads no other JSON."""
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def pairs(text: str | None, option: str) -> dict[str, str]:
    """'N=params,D=tokens' -> {'N': 'params', 'D': 'tokens'}"""
    out: dict[str, str] = {}
    for part in filter(None, (text or "").split(",")):
        name, equals, value = part.partition("=")
        if not (name and equals and value):
            raise ValueError(f"{option} takes NAME=VALUE pairs with commas between, got {part!r}")
        out[name.strip()] = value.strip()
    return out


def printable(text: str) -> str:
    """Lines without what a foreign table may hold to move the cursor or colour the terminal."""
    return "\n".join(
        "".join(c if c.isprintable() else repr(c)[1:-1] for c in line) for line in text.split("\n")
    )
