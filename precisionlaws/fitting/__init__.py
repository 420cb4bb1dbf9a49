"""Fit a law to measured losses, with intervals that can be trusted and doubts that are said aloud."""

from precisionlaws.fitting.compare import compare
from precisionlaws.fitting.diagnose import Certificate
from precisionlaws.fitting.fit import Fit, Objective, fit
from precisionlaws.fitting.holdout import holdout

__all__ = ["Certificate", "Fit", "Objective", "compare", "fit", "holdout"]
