"""The open instrument for precision scaling laws.

    import precisionlaws as pl

    frame = pl.load("results")              # a store, CSV or parquet: one row per loss
    fitted = pl.fit(frame, pl.law("neff_kumar"))    # coefficients with intervals
    print(pl.plan(fitted, flops=1e18).summary())

Everything public is here and is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from precisionlaws import ptq, quant, sweep
    from precisionlaws.fitting import Fit, compare, fit
    from precisionlaws.laws import law
    from precisionlaws.planning import Plan, plan
    from precisionlaws.plots import plot
    from precisionlaws.plots.report import Report, report
    from precisionlaws.recording import record
    from precisionlaws.run import RunConfig, compose
    from precisionlaws.store import load
    from precisionlaws.sweep.api import quantize
    from precisionlaws.training.train import Result, train

PUBLIC = {
    "Fit": "fitting",
    "Plan": "planning",
    "Report": "plots.report",
    "Result": "training.train",
    "RunConfig": "run",
    "compare": "fitting",
    "compose": "run",
    "fit": "fitting",
    "law": "laws",
    "load": "store",
    "plan": "planning",
    "plot": "plots",
    "quantize": "sweep.api",
    "record": "recording",
    "report": "plots.report",
    "train": "training.train",
}
MODULES = ("ptq", "quant", "sweep")

__all__ = [
    "Fit",
    "Plan",
    "Report",
    "Result",
    "RunConfig",
    "compare",
    "compose",
    "fit",
    "law",
    "load",
    "plan",
    "plot",
    "ptq",
    "quant",
    "quantize",
    "record",
    "report",
    "sweep",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return import_module(f"{__name__}.{name}")
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PUBLIC[name]}"), name)
