"""What a new run's loss will be: three errors, and why the interval of the mean is not enough.

parameters  the draws of a fit: what other families of the same design would have given.
residual    what one run differs by: noise of its own, and of its family, as the residuals show them.
misfit      the law is a formula, not the truth, and errs more the further it is taken. Measured by
            rolling origins: refits of the smaller runs, and their errors at the next larger ones, less the
            residual noise. Its sd is proportional to the log distance from the data, as the error of a
            wrong exponent is (an error like a random walk's was tried: of runs of a law with γ < 1 more
            than a decade away from a fit with γ = 1 it holds 31%, this one 64%). Past errors hold those of
            the parameters too, which makes the interval somewhat too wide, never too narrow for it.

On public tables the interval of the mean holds about half of the larger runs at a nominal 95%.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from precisionlaws.fitting import rolling
from precisionlaws.fitting.components import components
from precisionlaws.fitting.objective import Block
from precisionlaws.fitting.solve import THIN, thinned
from precisionlaws.laws.base import OFF, Array, columns

if TYPE_CHECKING:
    import pandas as pd

    from precisionlaws.fitting.fit import Fit

NORMAL_95 = 3.919928  # width of a 95% interval in standard deviations


def predict(fit: "Fit", frame: Any, level: float = 0.95) -> "pd.DataFrame":
    """One row per row of `frame`, nats per token but for `beyond`.

    loss, low, high          the law's mean, with the interval of its parameters
    run_low, run_high        the interval of a new run: parameters, residual and misfit
    sd_parameters, sd_residual, sd_misfit
    beyond                   decades that N, D or N·D lie outside the fitted rows
    """
    import pandas as pd

    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level:g}")
    x = {k: np.atleast_1d(v) for k, v in fit.law.read(frame).items()}
    loss = np.atleast_1d(fit.law.loss(fit.params, x))
    draws = fit.law.evaluate({k: v[:, None] for k, v in fit.samples.items()}, x)
    draws = np.where(np.isnan(draws), np.inf, draws)
    ends = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(draws, ends, axis=0, method="nearest")
    parameters = np.ptp(np.quantile(draws, [0.025, 0.975], axis=0, method="nearest"), 0) / NORMAL_95
    residual = np.hypot(_total(fit.residual) * loss, _rounding(fit, x))
    beyond = rolling.beyond(x, fit.rows)
    misfit = np.full(len(loss), np.nan)
    if fit.misfit:
        misfit = fit.misfit["sd"] * beyond * loss
    rng = np.random.default_rng(fit.seed)
    spread = np.hypot(residual, np.nan_to_num(misfit)) / loss
    run = draws * np.exp(spread * rng.standard_normal(draws.shape))
    run_low, run_high = np.quantile(run, ends, axis=0, method="nearest")
    return pd.DataFrame(
        {"loss": loss, "low": low, "high": high, "run_low": run_low, "run_high": run_high, "sd_parameters": parameters,
         "sd_residual": residual, "sd_misfit": misfit, "beyond": beyond / np.log(10)}
    )  # fmt: skip


def residual(b: Block, u: Array, cluster: Array) -> dict[str, float]:
    """Noise of log loss: sd of families and of runs within them.

    By `components`; a fit has absorbed its share of both.
    """
    r = b.y - b.predict(u[None])[0]
    J = b.jacobian(u[None])[1][0, list(b.own)]
    free = (u > b.lower)[list(b.own)] & (u < b.upper)[list(b.own)]
    n = len(r)
    if len(np.unique(cluster)) == n:  # every family is one run
        return {"family_sd": 0.0, "run_sd": float(np.sqrt((r**2).sum() / max(n - free.sum(), 1)))}
    family, run = components(r, J[free], [cluster])
    return {"family_sd": float(np.sqrt(family)), "run_sd": float(np.sqrt(run))}


def misfit(
    b: Block, u: Array, delta: float, table: Any, noise: Mapping[str, float]
) -> dict[str, float]:
    """`sd` of log loss at one e-fold beyond the data, from origins by compute, of at most THIN rows.

    Raises: NoOrigin where the rows have none.
    """
    if len(b.y) > THIN:
        rows = thinned(b)
        b, table = b.part(rows), table.iloc[rows]
    at = rolling.origins(table, [b.law])
    refits = rolling.refit(b, delta, table, at.fitted, near=u)
    i = at.pairs()[1]
    excess = rolling.errors(b, refits, at) ** 2 - _total(noise) ** 2
    far = np.concatenate(
        [rolling.beyond(table[s], table[f]) for f, s in zip(at.fitted, at.scored, strict=True)]
    )
    square = excess.sum() / (far**2).sum()
    return {
        "sd": float(np.sqrt(max(square, 0.0))), "origins": float(len(at.edge)), "predictions": float(len(i))
    }  # fmt: skip


def _total(noise: Mapping[str, float]) -> float:
    return float(np.hypot(noise["family_sd"], noise["run_sd"]))


def _rounding(fit: "Fit", x: Mapping[str, Array]) -> Any:
    """Noise of δ, where a finished run is rounded."""
    if not fit.noise:
        return 0.0
    post = columns(x, ("P_post",))["P_post"] < OFF
    delta = np.asarray(fit.law.penalty(fit.params, x, fit.law.paired))
    return np.where(post, np.hypot(fit.noise["sigma0"], fit.noise["r"] * delta), 0.0)
