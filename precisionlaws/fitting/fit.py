"""`fit(frame, law) -> Fit`: coefficients, draws of them, and the evidence for both."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from precisionlaws import laws
from precisionlaws.fitting import diagnose, oracle, resample
from precisionlaws.fitting import predict as prediction
from precisionlaws.fitting.derived import blocks, derived
from precisionlaws.fitting.diagnose import Certificate
from precisionlaws.fitting.interaction import Interaction, product_law
from precisionlaws.fitting.objective import block, check_count
from precisionlaws.fitting.paired import THRESHOLD, fit_delta
from precisionlaws.fitting.profiles import Profile, joined, profiles
from precisionlaws.fitting.rolling import NoOrigin
from precisionlaws.fitting.rows import Rows, centre, select
from precisionlaws.fitting.sensitivity import Variant
from precisionlaws.fitting.sensitivity import sensitivity as variants
from precisionlaws.fitting.solve import search
from precisionlaws.laws import Law
from precisionlaws.laws.base import BITS, Array, columns

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.95  # of the intervals in JSON
SMOOTH = 1e-6  # least absolute deviations is Huber's loss with this threshold
LOSSES = ("huber", "ls", "lad")
SOLVERS = {"batched": search, "scipy": oracle.search}


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One minimised sum, in full."""

    text: str
    value: float
    n: int
    residual_sd: float  # of log loss, or of δ/sd


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """A fitted law. `samples` are joint draws of `params`; push any function of them through."""

    law: Law
    params: Mapping[str, float]
    samples: Mapping[str, Array]  # (R,) each
    objective: Objective
    certificate: Certificate
    penalty_objective: Objective | None = None
    penalty_certificate: Certificate | None = None
    noise: Mapping[str, float]  # of δ: sd² = sigma0² + (r δ)²
    residual: Mapping[str, float]  # of log loss: family_sd, run_sd
    misfit: Mapping[
        str, float
    ]  # of log loss: sd at one e-fold beyond the data; empty where unknown
    intervals: str  # how the draws were made
    clusters: int
    one_cluster: tuple[str, ...]  # parameters without an interval
    rows: "pd.DataFrame"
    delta_rows: "pd.DataFrame"
    left_out: tuple[tuple[str, int], ...]
    warnings: tuple[str, ...]
    seed: int
    sha256: str  # of the fitted rows
    versions: Mapping[str, str]
    sensitivity: tuple[Variant, ...] = ()  # of the loss block to other choices, where asked for
    profiles: Mapping[str, Profile] = field(default_factory=dict)  # of all but coefficients
    interaction: Interaction | None = None  # of roles quantized together, where some were
    unidentified: tuple[str, ...] = ()  # parameters that the data leave open
    open_base: tuple[str, ...] = ()  # why no losses at these N and D would determine the base

    @property
    def certified(self) -> bool:
        """Every block is at its minimum, and the design can determine what was asked for.

        Where all terms are of δ, that is not the base.
        """
        asked = not self.law.terms or self.law.terms != self.law.paired
        blocks = (self.certificate, self.penalty_certificate)
        return not (asked and self.open_base) and all(c is None or c.ok for c in blocks)

    @property
    def measured(self) -> dict[str, tuple[float, ...]]:
        """Widths below 16 that were trained, by role."""
        return diagnose.measured(columns(self.rows, BITS))

    def quantity(self, name: str) -> tuple[float, Array]:
        """Value and draws of a parameter, or of what follows from them: eff(P), eff_w(P), N_opt_exponent, L_centre …"""
        if name in self.params:
            return self.params[name], self.samples[name]
        point, draws = (derived(self, name, p) for p in (self.params, self.samples))
        return float(np.ravel(point)[0]), np.ravel(draws)

    def value(self, name: str, params: Mapping[str, Any]) -> float:
        """A parameter or a derived quantity at other parameters of the same law."""
        return float(params[name] if name in params else np.ravel(derived(self, name, params))[0])

    def interval(self, name: str, level: float = 0.95) -> tuple[float, float]:
        """Interval of a parameter or of a derived quantity."""
        direct = name.replace("(", "[").replace(")", "]")
        if direct in self.params and np.array_equal(self.quantity(name)[1], self.samples[direct]):
            name = direct  # eff_w(4) is a parameter here, with a profile
        for q in self.law.params:
            if q.name == name and name in self.one_cluster:
                return q.lower, q.upper
        draws = self.quantity(name)[1]
        draws = np.where(np.isnan(draws), np.inf, draws)
        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], method="nearest")
        if level >= LEVEL:
            for q in (q for q in self.law.params if q.name == name):
                low, high = joined(self.profiles, q, low, high)
        return float(low), float(high)

    def predict(self, frame: Any, level: float = 0.95) -> "pd.DataFrame":
        """Loss with the interval of its mean (low, high) and of a new run (run_low, run_high), nats per token.

        The columns of `precisionlaws.fitting.predict.predict`.
        """
        return prediction.predict(self, frame, level)

    def summary(self) -> str:
        """The printed report."""
        from precisionlaws.fitting.summary import summary

        return summary(self)

    def to_json(self) -> str:
        """Everything needed to plan and to plot; floats round-trip exactly.

        Among it `intervals`: {name: [low, high]} at `level`, of parameters and of what `derived` holds.
        """
        out = {
            name: getattr(self, name)
            for name in self.__dataclass_fields__
            if name not in ("law", "rows", "delta_rows", "samples")
        }
        for name in ("objective", "certificate", "penalty_objective", "penalty_certificate"):
            out[name] = None if out[name] is None else asdict(out[name])
        shown = (name for rows in blocks(self) for name, _ in rows)
        names = [*self.params, *(name for name in shown if name not in self.params)]
        out |= {
            "law": self.law.name,
            "n": self.objective.n,
            "method": self.intervals,
            "level": LEVEL,
        }
        out["intervals"] = {
            name: [end if np.isfinite(end) else None for end in self.interval(name, LEVEL)]
            for name in names
        }
        out["derived"] = {n: self.quantity(n)[0] for n in names if n not in self.params}
        out["sensitivity"] = [asdict(v) for v in self.sensitivity]
        out["profiles"] = {k: asdict(v) for k, v in self.profiles.items()}
        out["interaction"] = None if self.interaction is None else asdict(self.interaction)
        out["samples"] = {k: v.tolist() for k, v in self.samples.items()}
        for name in ("rows", "delta_rows"):
            table = getattr(self, name)
            out[name] = {str(c): [None if v != v else v for v in table[c].tolist()] for c in table}
        return json.dumps(out, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Fit":
        """The inverse of `to_json`."""
        import pandas as pd

        out = json.loads(text)
        if isinstance(out, dict) and "fits" in out:
            if len(out["fits"]) != 1:
                raise ValueError(f"this JSON holds {len(out['fits'])} fits; one is wanted")
            out = out["fits"][0]
        if not isinstance(out, dict) or "law" not in out or "samples" not in out:
            raise ValueError(
                "this JSON is not a fit: it has no law and samples; `precisionlaws fit -o` writes one"
            )
        if "residual" not in out:
            raise ValueError(
                "this JSON is of an older version, without the noise of new runs; fit again"
            )
        for name in ("rows", "delta_rows"):
            out[name] = pd.DataFrame(out[name])
        law = laws.law(out["law"]).bind(out["rows"], out["delta_rows"])
        for name, kind in (("objective", Objective), ("certificate", Certificate)):
            for key in (name, f"penalty_{name}"):
                if out[key] is not None:
                    out[key] = kind(**_tuples(out[key]))
        out["samples"] = {k: np.array(v) for k, v in out["samples"].items()}
        out["sensitivity"] = tuple(Variant(**v) for v in out.get("sensitivity", ()))
        out["profiles"] = {k: Profile(**_tuples(v)) for k, v in out.get("profiles", {}).items()}
        if out.get("interaction") is not None:
            out["interaction"] = Interaction(**_tuples(out["interaction"]))
        out["left_out"] = tuple((why, n) for why, n in out["left_out"])
        for name in ("one_cluster", "warnings", "unidentified", "open_base"):
            out[name] = tuple(out.get(name, ()))
        out["intervals"] = out["method"]
        fields = {k: v for k, v in out.items() if k in cls.__dataclass_fields__}
        return cls(**{**fields, "law": law})


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Lists of a JSON as tuples."""
    if all(isinstance(v, list) for v in fields.values()):
        return {k: tuple(v) for k, v in fields.items()}
    return {
        k: tuple(v) if isinstance(v, list) else _tuples(v) if isinstance(v, dict) else v
        for k, v in fields.items()
    }


def fit(
    frame: "pd.DataFrame",
    law: Law | str,
    *,
    loss: str = "huber",
    delta: float = 1e-3,
    intervals: str = "family",
    resamples: int = 4000,
    seed: int = 0,
    solver: str = "batched",
    sensitivity: bool = False,
) -> Fit:
    """Fit a law to a frame: the base and its scales to losses, penalties to paired δ.

    solver: `scipy` minimises the same objective from the same starts, and says where it ends above ours.
    sensitivity: also fit the losses under other choices (a dozen fits more).
    """
    law = laws.law(law) if isinstance(law, str) else law
    _check(loss, delta, intervals, resamples, solver)
    rows = select(frame, law)
    _enough(rows, law)
    law = law.bind(rows.loss, rows.delta)
    c = centre(rows.loss)
    base = block("loss", law, rows.loss, c)
    threshold = threshold_of(loss, delta)
    check_count(base)
    find = SOLVERS[solver]
    found = [find(base, threshold)]
    blocks, thresholds, tables, noise = [base], [threshold], [rows.loss], {}
    if law.paired:
        thresholds.append(threshold_of(loss, THRESHOLD))
        pair, second, noise = fit_delta(law, rows, base, found[0], thresholds[1], find)
        blocks, tables, found = [*blocks, pair], [*tables, rows.delta], [*found, second]
    solved = tuple(
        resample.Solved(block=b, u=s.u[0], delta=t, cluster=c, run=r)
        for b, s, t, c, r in zip(
            blocks,
            found,
            thresholds,
            _codes(tables, "family"),
            _codes(tables, "run_id"),
            strict=True,
        )
    )
    draws = resample.draw(solved, intervals, resamples, seed)
    params, samples = {}, {}
    for b, s, d in zip(blocks, found, draws.u, strict=True):
        params.update({k: float(v[0]) for k, v in b.natural(s.u[:1]).items()})
        samples.update(b.natural(d))
    residual = prediction.residual(base, solved[0].u, solved[0].cluster)
    misfit, unheld = _misfit(solved[0], rows.loss, residual)
    texts = [_text(loss, delta, law, noise, kind) for kind in ("loss", "delta")[: len(blocks)]]
    objectives = [_objective(text, s, loss) for text, s in zip(texts, solved, strict=True)]
    certificates = [
        diagnose.certify(b, s, t) for b, s, t in zip(blocks, found, thresholds, strict=True)
    ]
    single = tuple(
        name
        for s in solved
        for name in diagnose.one_cluster(s.block, s.u, s.run if draws.clusters == 1 else s.cluster)
    )
    result = Fit(
        law=law, params=params, samples=samples, objective=objectives[0], certificate=certificates[0],
        penalty_objective=objectives[1] if law.paired else None,
        penalty_certificate=certificates[1] if law.paired else None,
        noise=noise, residual=residual, misfit=misfit, intervals=draws.method, clusters=draws.clusters, one_cluster=single,
        rows=rows.loss, delta_rows=rows.delta, left_out=rows.left_out, warnings=(), seed=seed,
        sha256=rows.sha256, versions=_versions(),
        sensitivity=variants(law, rows.loss, base, found[0].u[0], threshold) if sensitivity else (),
        profiles={name: p for s in solved for name, p in profiles(s).items()},
        interaction=product_law(law, rows.loss, solved[0]),
    )  # fmt: skip
    result = replace(
        result,
        unidentified=diagnose.unidentified(result, base),
        open_base=tuple(diagnose.open_base(base)),
    )
    from precisionlaws.fitting.doubts import doubts

    said = [*rows.warnings, *doubts(result, solved, draws), *unheld]
    if solver == "scipy":
        for what, b, s, t in zip(("loss", "δ"), blocks, found, thresholds, strict=False):
            said += oracle.above(what, s, search(b, t))
    return replace(result, warnings=tuple(said))


def threshold_of(loss: str, delta: float) -> float:
    """Huber's threshold that makes a loss."""
    return {"huber": delta, "ls": np.inf, "lad": SMOOTH}[loss]


def _misfit(
    s: resample.Solved, table: Any, noise: Mapping[str, float]
) -> tuple[dict[str, float], list[str]]:
    try:
        return prediction.misfit(s.block, s.u, s.delta, table, noise), []
    except NoOrigin as why:
        return {}, [f"intervals of a new run hold no misfit: {why}"]


def _text(loss: str, delta: float, law: Law, noise: Mapping[str, float], kind: str) -> str:
    term = {
        "huber": f"Σ huber({delta:g})",
        "ls": "½ Σ squares",
        "lad": f"Σ |·| (smoothed at {SMOOTH:g})",
    }[loss]
    if kind == "loss":
        return f"{term} of log loss − log fitted"
    term = f"Σ huber({THRESHOLD:g})" if loss == "huber" else term
    return f"{term} of (δ − fitted)/sd, sd² = ({noise['sigma0']:.2g})² + ({noise['r']:.2g}·fitted)²"


def _objective(text: str, s: resample.Solved, loss: str) -> Objective:
    r = s.block.y - s.block.predict(s.u[None])[0]
    psi = np.clip(r, -s.delta, s.delta)
    value = float((psi * (r - 0.5 * psi)).sum()) / (SMOOTH if loss == "lad" else 1.0)
    return Objective(
        text=text,
        value=value,
        n=len(r),
        residual_sd=float(np.sqrt((r**2).sum() / max(len(r) - len(s.block.own), 1))),
    )


def _codes(tables: list[Any], column: str) -> list[Array]:
    """The values of a column as numbers, the same in every table; row numbers where a table lacks it."""
    import pandas as pd

    if any(column not in table for table in tables):
        return [np.arange(len(table)) for table in tables]
    joined = pd.concat([table[column].astype(str) for table in tables])
    codes = pd.factorize(joined, sort=True)[0]
    return np.split(codes, np.cumsum([len(table) for table in tables])[:-1])


def _check(loss: str, delta: float, intervals: str, resamples: int, solver: str) -> None:
    if solver not in SOLVERS:
        raise ValueError(f"solver must be one of {', '.join(SOLVERS)}, got {solver!r}")
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {loss!r}")
    if not delta > 0:
        raise ValueError(f"delta must be positive, got {delta:g}")
    if intervals not in resample.METHODS:
        raise ValueError(
            f"intervals must be one of {', '.join(resample.METHODS)}, got {intervals!r}"
        )
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")


def _enough(rows: Rows, law: Law) -> None:
    why = (
        "; ".join(f"{n} left out because {reason}" for reason, n in rows.left_out)
        or "none left out"
    )
    if len(rows.loss) == 0:
        raise ValueError(f"{law.full_name}: no row is left to fit ({why})")
    if law.paired and len(rows.delta) == 0:
        raise ValueError(
            f"{law.full_name}: no row has P_post < 16 and a paired δ ({why}); quantize finished runs first"
        )


def _versions() -> dict[str, str]:
    import platform

    import pandas as pd

    from precisionlaws import __version__

    return {
        "precisionlaws": __version__,
        "numpy": np.__version__,
        "pandas": pd.__version__,
        "python": platform.python_version(),
    }


__all__ = ["Fit", "Objective", "fit"]
