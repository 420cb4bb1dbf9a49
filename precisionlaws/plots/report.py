"""`report(source) -> Report`: one HTML file with the answer, its evidence and its doubts, for a colleague to read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precisionlaws.fitting import Fit

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Report", "report"]


@dataclass(frozen=True, kw_only=True)
class Report:
    """A page, and whether its answer stands."""

    html: str = field(repr=False)
    fits: tuple[Fit, ...]
    unsaid: tuple[str, ...]  # what could not be computed, and why

    @property
    def certified(self) -> bool:
        """Some law was fitted, and all that were are at their minimum."""
        return bool(self.fits) and all(f.certified for f in self.fits)

    def save(self, path: str | Path) -> Path:
        """Write the page, whole or not at all."""
        from precisionlaws.store import write

        write(Path(path), self.html)
        return Path(path)


def report(
    source: "str | Path | pd.DataFrame",
    *,
    laws: Sequence[str] = (),
    fits: Sequence[Fit] = (),
    flops: float | None = None,
    cost: str = "paper",
    columns: Mapping[str, str] | None = None,
    table: str | None = None,
    where: str | None = None,
    title: str | None = None,
) -> Report:
    """One self-contained HTML page: answer, figures, tables, doubts, method, provenance.

    source: a store, a table, `pkg:NAME`, or a frame. laws: names of conf/law; by default what the columns allow: form-free
    and Kumar's efficiencies, and PTQ. fits: made before, instead of fitting. flops: the budget to plan for, by default ten
    times the largest run's. columns, table: as `load` takes them. Raises: ValueError for a source that has no row, or a `where` that leaves none.
    """
    from precisionlaws.plots.pages import sections, tables
    from precisionlaws.plots.pages.findings import counts, findings
    from precisionlaws.plots.pages.html import counted
    from precisionlaws.plots.pages.page import page

    frame, store = _frame(source, where, columns, table)
    name = source if isinstance(source, str | Path) else None
    found = findings(frame, store=store, laws=laws, fits=fits, flops=flops, cost=cost)
    study, questions = studies(store)
    n = counts(frame)
    said = {"runs": "run", "points": "loss", "N": "size", "D": "token count", "seed": "seed"}
    lede = ", ".join(counted(n[k], what) for k, what in said.items() if k in n)
    made = command(
        name,
        laws=laws,
        fits=fits,
        flops=flops,
        cost=cost,
        where=where,
        columns=columns,
        table=table,
    )
    parts = [
        *sections.sections(found, questions),
        ("provenance", "Provenance", sections.provenance(found, str(name or "a frame"), made)),
    ]
    title = title or f"Precision scaling: {study or Path(name or 'a frame').name}"
    html = page(title, lede, parts, tables.rows_of(frame, found.fits))
    return Report(html=html, fits=found.fits, unsaid=found.unsaid)


def _frame(
    source: Any, where: str | None, columns: Mapping[str, str] | None, table: str | None
) -> tuple[Any, Path | None]:
    """The rows, and the store they are from if it is one."""
    from precisionlaws.store import load
    from precisionlaws.where import where as rows

    given = isinstance(source, str | Path)
    frame: Any = load(source, columns, table) if given else source
    if where is not None:
        frame = rows(frame, where)
    if len(frame) == 0:
        raise ValueError(f"no row of {source if given else 'the frame'} is left to report" + (f" where {where}" if where else ""))  # fmt: skip
    return frame, Path(source) if given and Path(source).is_dir() else None


def studies(store: Path | None) -> tuple[str, list[str]]:
    """Names of the studies of a store, and the questions that the shipped ones ask."""
    import yaml

    import precisionlaws
    from precisionlaws.store import read_json

    if store is None:
        return "", []
    said = [read_json(p).get("study") for p in sorted((store / "studies").glob("*.json"))]
    names = list(dict.fromkeys(str(name) for name in said if name))
    own = Path(precisionlaws.__file__).parent / "sweeps"
    files = [own / f"{n}.yaml" for n in names if n.isidentifier() and (own / f"{n}.yaml").is_file()]
    asked = [q for f in files for q in yaml.safe_load(f.read_text()).get("questions", ())]
    return ", ".join(names), asked


def command(
    name: object, *, laws: Sequence[str], fits: Sequence[Fit], flops: float | None, cost: str, where: str | None,
    columns: Mapping[str, str] | None, table: str | None,
) -> str:  # fmt: skip
    """What makes the page again."""
    from shlex import quote

    said = f"precisionlaws report {quote(str(name))}" if name else "precisionlaws.report(frame)"
    said += f" --law {','.join(laws)}" if laws else ""
    said += f" --law {','.join(f.law.name for f in fits)}" if fits and not laws else ""
    said += f" --flops {flops:g}" if flops else ""
    said += f" --cost {cost}" if cost != "paper" else ""
    said += (
        f" --columns {quote(','.join(f'{k}={v}' for k, v in columns.items()))}" if columns else ""
    )
    said += f" --table {table}" if table else ""
    return said + (f" --where {quote(where)}" if where else "")
