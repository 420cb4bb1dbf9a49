"""precisionlaws plot: figures from fits."""

from pathlib import Path
from typing import Annotated, Any

import typer

from precisionlaws.cli.shared import Out


def command(
    kind: Annotated[str, typer.Argument(help="loss, isoflop, effective, optimal-bits, ...")],
    fits: Annotated[
        list[Path], typer.Argument(help="Fits as JSON (precisionlaws fit -o); for curves a store.")
    ],
    width: Annotated[
        str, typer.Option(help="page, or column (3.3 inches, for papers of two columns).")
    ] = "page",
    out: Out = None,
) -> None:
    """Draw one figure; the ending of --out decides the format (default KIND.png): svg, pdf, png, or csv for its data."""
    import io

    import matplotlib as mpl

    mpl.use("Agg")
    from precisionlaws.plots import numbers, plot, reads_store
    from precisionlaws.store import write

    data: Any = str(fits[0]) if reads_store(kind) else [read_fit(path) for path in fits]
    path = out or Path(f"{kind}.png")
    if path.suffix == ".csv":
        write(path, numbers(kind, data).to_csv(index=False))
        print(path)
        return
    figure = plot(kind, data, width=width)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.lstrip(".") or "png")
    write(path, buffer.getvalue())
    print(path)


def read_fit(path: Path) -> Any:
    """Raises: ConfigError when the file is not a fit."""
    from precisionlaws.config import ConfigError
    from precisionlaws.fitting import Fit

    try:
        fit = Fit.from_json(path.read_text())
        if not fit.params or set(fit.params) != set(fit.samples) or not fit.certificate.starts:
            raise ValueError("it lacks parameters or their draws")
        return fit
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}; make one with precisionlaws fit -o"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        raise ConfigError(f"{path} is not a fit of precisionlaws: {error}") from None
