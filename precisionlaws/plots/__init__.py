"""Figures by name: `plot("optimal-bits", fit)` calls `figure` of the module optimal_bits."""

import difflib
import importlib
import pkgutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

from precisionlaws.fitting import Fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["kinds", "plot"]


def kinds() -> tuple[str, ...]:
    """Every name that `plot` takes."""
    found = (m.name for m in pkgutil.iter_modules(__path__) if m.name != "style")
    return tuple(sorted(name.replace("_", "-") for name in found))


def plot(kind: str, data: Fit | Sequence[Fit]) -> "Figure":
    """A figure of one fit or of several laws fitted to the same frame."""
    name = kind.replace("_", "-")
    if name not in kinds():
        near = difflib.get_close_matches(name, kinds(), n=1, cutoff=0.0)[0]
        raise ValueError(
            f"no figure {kind!r}; did you mean {near!r}? There are {', '.join(kinds())}"
        )
    fits = (data,) if isinstance(data, Fit) else tuple(data)
    if not fits:
        raise ValueError(f"{name} needs at least one fit")
    from precisionlaws.plots.style import styled

    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    return styled(module.figure, fits)
