"""Laws by name: `law("neff_kumar")` reads conf/law, `law("chinchilla+neff_kumar")` composes on the spot."""

import difflib
import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

import precisionlaws
from precisionlaws.laws.base import OFF, Law, Param, off

__all__ = ["OFF", "Law", "Param", "law", "names", "off"]


def names() -> tuple[str, ...]:
    """Every name that `law` takes: the compositions of conf/law and the bases and terms themselves."""
    return tuple(sorted({p.stem for p in _conf().glob("*.yaml")} | set(_modules())))


def law(name: str) -> Law:
    """A law by the name of its yaml, or composed as base+term+…; a term alone means chinchilla+term."""
    path = _conf() / f"{name}.yaml"
    if name in names() and path.exists():
        return _from_yaml(path)
    parts = [_module(part.strip()) for part in name.split("+")]
    if not hasattr(parts[0], "loss"):
        parts = [_module("chinchilla"), *parts]
    return _compose(parts, name=name)


def _from_yaml(path: Path) -> Law:
    import yaml

    spec = yaml.safe_load(path.read_text())
    unknown = set(spec) - {"base", "terms", "penalties_on", "source", "published"}
    if unknown:
        raise ValueError(f"{path}: unknown key(s) {', '.join(sorted(unknown))}")
    parts = [_module(part) for part in (spec["base"], *spec.get("terms", []))]
    chosen = {k: spec[k] for k in ("penalties_on", "source", "published") if k in spec}
    return _compose(parts, name=path.stem, **chosen)


def _compose(parts: list[ModuleType], *, name: str, **chosen: str) -> Law:
    base, *terms = parts
    extra = [t for t in terms if not (hasattr(t, "scale") or hasattr(t, "penalty"))]
    if extra or not hasattr(base, "loss"):
        raise ValueError(
            f"law {name!r}: one base comes first, then terms; got {' + '.join(_short(m) for m in parts)}"
        )
    if len(set(terms)) != len(terms):
        raise ValueError(f"law {name!r} names a term twice")
    source = "; ".join((m.__doc__ or "").partition("\n\n")[0].replace("\n", " ") for m in parts)
    return Law(name=name, base=base, terms=tuple(terms), **{"source": source, **chosen})  # pyright: ignore[reportArgumentType]


def _module(name: str) -> ModuleType:
    if name not in _modules():
        near = difflib.get_close_matches(name, names(), n=1, cutoff=0.0)[0]
        raise ValueError(
            f"no law or term {name!r}; did you mean {near!r}? There are {', '.join(names())}"
        )
    return importlib.import_module(f"{__name__}.{name}")


def _modules() -> tuple[str, ...]:
    return tuple(m.name for m in pkgutil.iter_modules(__path__) if m.name != "base")


def _conf() -> Path:
    return Path(precisionlaws.__file__).parent / "conf" / "law"


def _short(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]
