"""Figures by name: `plot("optimal-bits", fit)` calls `figure` of the module optimal_bits."""

import difflib
import importlib
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from precisionlaws.fitting import Fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["kinds", "numbers", "plot", "reads_store"]

NO_FIGURE = ("style", "report", "pages")


def kinds() -> tuple[str, ...]:
    """Every name that `plot` takes."""
    found = (m.name for m in pkgutil.iter_modules(__path__) if m.name not in NO_FIGURE)
    return tuple(sorted(name.replace("_", "-") for name in found))


def plot(kind: str, data: "Fit | Sequence[Fit] | Path | str", *, width: str = "page") -> "Figure":
    """A figure of one fit, of several laws fitted to the same frame, or (curves) of a store.

    width: page (6.6 inches or a little more) or column (3.3), for papers of two columns.
    """
    from precisionlaws.plots.style import styled

    module, given = _ready(kind, data)
    return styled(module.figure, given, width)


def numbers(kind: str, data: "Fit | Sequence[Fit] | Path | str") -> Any:  # a DataFrame
    """The table behind a figure."""
    module, given = _ready(kind, data)
    return module.numbers(given)


def reads_store(kind: str) -> bool:
    """Whether a figure is of a store and not of fits."""
    return getattr(_module(kind), "READS", "fits") == "store"


def _ready(kind: str, data: "Fit | Sequence[Fit] | Path | str") -> tuple[ModuleType, Any]:
    module = _module(kind)
    if getattr(module, "READS", "fits") == "store":
        if not isinstance(data, Path | str):
            raise ValueError(f"{kind} is drawn of a store, not of fits: give its folder")
        return module, Path(data)
    if isinstance(data, Path | str):
        raise ValueError(f"{kind} is drawn of fits, not of {str(data)!r}")
    fits = (data,) if isinstance(data, Fit) else tuple(data)
    if not fits:
        raise ValueError(f"{kind} needs at least one fit")
    return module, fits


def _module(kind: str) -> ModuleType:
    name = kind.replace("_", "-")
    if name not in kinds():
        near = difflib.get_close_matches(name, kinds(), n=1, cutoff=0.0)[0]
        raise ValueError(
            f"no figure {kind!r}; did you mean {near!r}? There are {', '.join(kinds())}"
        )
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
