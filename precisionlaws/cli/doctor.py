"""precisionlaws doctor: will a sweep work here?"""

from dataclasses import asdict
from pathlib import Path

import typer

from precisionlaws.cli.shared import Json, StoreOption, print_json, printable


def command(store: StoreOption = Path("results"), json: Json = False) -> None:
    """What this machine can do, and what is missing; exit 1 when a sweep cannot work here."""
    from precisionlaws.doctor import BAD, examine

    found = list(examine(store))
    if json:
        print_json([asdict(f) for f in found])
    else:
        print("\n".join(printable(f"{f.state:5} {f.what:9} {f.says}") for f in found))
    raise typer.Exit(int(any(f.state == BAD for f in found)))
