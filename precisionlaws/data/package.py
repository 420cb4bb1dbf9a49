"""Source code of installed Python packages: the same bytes wherever the same version is installed.

The default, sympy, comes with torch on every machine: 16 MB of pure Python, no download, no licence
question, and hard enough that models of a million parameters do not exhaust it.
"""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from precisionlaws.config import ConfigError
from precisionlaws.data.base import Data, held_out

HELD_OUT = 0.05


@dataclass(frozen=True, kw_only=True)
class Package(Data):
    """Byte-level source of `packages`, tests excluded, split by file."""

    SHORT: ClassVar[str] = "package"
    packages: tuple[str, ...]

    def rules(self) -> None:
        super().rules()
        if not self.packages:
            raise ConfigError("packages must name at least one installed package, got []")
        for name in self.packages:
            # a dotted name would import its parent
            if not re.fullmatch(r"[A-Za-z_]\w*", name):
                raise ConfigError(f"packages must be top-level package names, got {name!r}")

    def origin(self) -> str:
        return f"data.packages={','.join(self.packages)}"

    def documents(self) -> tuple[list[bytes], list[bytes]]:
        train, validation = [], []
        for package in self.packages:
            root = folder(package)
            for path in sorted(root.rglob("*.py"), key=lambda p: p.relative_to(root).as_posix()):
                name = path.relative_to(root).as_posix()
                if not is_test(name):
                    part = validation if held_out(f"{package}/{name}", HELD_OUT) else train
                    part.append(path.read_bytes())
        return train, validation


def folder(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ConfigError(f"data.packages: no package {package!r} is installed here")
    return Path(found.submodule_search_locations[0])


def is_test(name: str) -> bool:
    *folders, file = name.split("/")
    return (
        "tests" in folders or "test" in folders or file.startswith("test_") or file == "conftest.py"
    )
