"""δ = k · D^β · N^−α · P_post^−γ (Ouyang et al. 2024, arXiv 2411.17691, "quantization-induced degradation").

A power law in bits where Kumar et al. have an exponential: the two differ most below 3 bits and above 6.
GPTQ at 2, 3 and 4 bits on Pythia checkpoints of 160M to 12B parameters and up to 206B tokens.
"""

from typing import Any

import numpy as np

from precisionlaws.laws.base import Array, Param, Params, off

COLUMNS = ("P_post",)
LINEAR = ("k_qid",)
MIN_BITS = 2.0  # the fewest that were measured
PAIRED = True


def params(x: dict[str, Array]) -> tuple[Param, ...]:
    centre = (("N", "alpha_qid", 1), ("D", "beta_qid", -1))
    slope = {"unit": "", "lower": -3.0, "upper": 5.0, "link": "identity", "start": (-0.2, 1.5)}
    return (
        Param(name="k_qid", unit="nats", lower=1e-9, upper=1e12, start=(1e-2, 1e3), centre=centre),
        Param(name="beta_qid", **slope),
        Param(name="alpha_qid", **slope),
        Param(name="gamma_qid", unit="", lower=0.05, upper=40.0, start=(1.0, 10.0)),
    )


def penalty(p: Params, N: Any, D: Any, x: dict[str, Array]) -> Any:
    P = x["P_post"]
    log = p["beta_qid"] * np.log(D) - p["alpha_qid"] * np.log(N) - p["gamma_qid"] * np.log(P)
    return np.where(off(P), 0.0, p["k_qid"] * np.exp(log))
