"""Whether the interval of a fitted E covers the entropy of the data, where that is known (`data.entropy`)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from precisionlaws.fitting.fit import Fit

COLUMN = "data.entropy"  # nats per token


def truth(frame: Any, fit: "Fit", level: float = 0.95) -> str | None:
    """One sentence; None where the data's entropy or the law's E is not known.

    frame: the rows that were given to the fit.
    """
    if COLUMN not in frame or frame[COLUMN].isna().all() or "E" not in fit.params:
        return None
    values = sorted(frame[COLUMN].dropna().unique())
    if len(values) > 1 or frame[COLUMN].isna().any():
        known = ", ".join(f"{v:.4f}" for v in values)
        some = " and unknown" if frame[COLUMN].isna().any() else ""
        return f"the data's entropy is not one number here ({known}{some}): E cannot be held against it"
    return sentence(float(values[0]), fit.params["E"], fit.interval("E", level), level)


def sentence(h: float, E: float, interval: tuple[float, float], level: float) -> str:
    low, high = interval
    verdict = "covers" if low <= h <= high else "MISSES"
    return (
        f"the data's entropy is {h:.4f} nats per token, exactly: the {level:.0%} interval of E, "
        f"{low:.4f} to {high:.4f}, {verdict} it (E = {E:.4f}, {E - h:+.4f})"
    )
