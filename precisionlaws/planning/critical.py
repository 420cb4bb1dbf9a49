"""D_crit: tokens beyond which more training makes a quantized model worse, for any base and any penalty.

The base falls with D and a penalty may grow with it (Kumar et al. 2024, Section 3; Sun et al. 2025): the
loss has one minimum in D, where its derivative, which a complex step gives to rounding, crosses zero.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from precisionlaws.laws import Law
from precisionlaws.laws.base import Array

MOST = 1e60  # tokens: a loss that still falls here has no minimum
HALVINGS = 80


def critical_D(law: Law, p: Mapping[str, Any], x: Mapping[str, Any]) -> Array:
    """Tokens of least loss at the N and bits of x; ∞ where more data never hurt. Arrays broadcast."""
    x = law.read({**x, "D": x["N"]})

    def rising(log_D: Array) -> Array:
        D = np.exp(log_D + 1e-30j)
        return np.imag(law.evaluate(p, {**x, "D": D})) > 0

    shape = np.shape(np.asarray(law.evaluate(p, x)))
    low, high = np.zeros(shape), np.full(shape, np.log(MOST))
    never = ~rising(high)
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        up = rising(middle)
        low, high = np.where(up, low, middle), np.where(up, middle, high)
    return np.where(never, np.inf, np.exp(0.5 * (low + high)))
