"""A run: what is trained (`RunConfig`), how it is computed (`Exec`), and their names."""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from precisionlaws.config import (
    ConfigError,
    Spec,
    build,
    count,
    digest,
    dumps,
    neutral,
    normal_json,
    ranged,
)
from precisionlaws.data.base import Data
from precisionlaws.models.base import Model, Size
from precisionlaws.models.count import counts, resolved, shapes
from precisionlaws.models.own import TORCH, taken
from precisionlaws.models.parametrizations.base import Multipliers, Parametrization
from precisionlaws.models.parametrizations.standard import Standard
from precisionlaws.optim.base import LrSchedule, Optim
from precisionlaws.quant.roles import Quant

NUMERICS = (
    1  # bumped when tests/training/test_numerics.py's frozen losses change: old runs are other runs
)


@dataclass(frozen=True, kw_only=True)
class RunConfig(Spec):
    """Everything that decides the numbers of one training, and nothing else."""

    SHORT: ClassVar[str] = "run"
    model: Model
    size: Size
    data: Data
    tokens: int  # D asked for; rounded to whole steps
    batch_tokens: int | None  # per step; null = the rule of optim
    optim: Optim
    lr_schedule: LrSchedule
    quant: Quant
    parametrization: Parametrization = neutral(Standard())
    seed: int = ranged(0, 2**31 - 1)
    # bfloat16, tf32: only products of matrices; parameters, quantizers, norms and the loss stay fp32
    dtype: Literal["float32", "float64", "bfloat16", "tf32"]
    micro_batch: int | None = ranged(1, None, neutral=None)  # sequences; null = the whole batch
    eval_batch: int | None = ranged(
        1, None, neutral=None
    )  # sequences; null = training.evaluate.BATCH

    def __post_init__(self) -> None:
        for name in ("tokens", "batch_tokens"):
            value = getattr(self, name)
            if isinstance(value, (str, float)) or (type(value) is int and value < 1):
                object.__setattr__(self, name, value if value == "???" else count(value, name))
        super().__post_init__()
        object.__setattr__(self, "lr_schedule", self.lr_schedule.resolved(type(self.model)))

    def rules(self) -> None:
        if self.batch % self.data.context:
            rule = "" if self.batch_tokens else f" by the rule of {self.optim.SHORT}"
            raise ConfigError(
                f"batch_tokens must be a multiple of data.context={self.data.context}, got {self.batch}{rule}"
            )
        if self.tokens * 2 < self.batch:
            raise ConfigError(
                f"tokens must be at least half a step of {self.batch} tokens, got {self.tokens}"
            )
        if self.micro_batch is not None and (self.batch // self.data.context) % self.micro_batch:
            raise ConfigError(
                f"micro_batch must divide the {self.batch // self.data.context} sequences of a batch, "
                f"got {self.micro_batch}"
            )
        for name, out, inner in shapes(self.model, self.size):
            for role in ("weights", "activations"):
                located(f"quant.{role}", getattr(self.quant, role).fits, inner, name)
            located("quant.gradients", self.quant.gradients.fits, out, name)
        if not self.model.CACHE and not self.quant.kv.off:
            raise ConfigError(
                f"quant.kv.bits must be 16 with model={self.model.SHORT}, which has no KV cache, "
                f"got {self.quant.kv.bits:g}"
            )
        self.check_parametrization()
        located("quant.kv", self.quant.kv.fits, self.size.head_dim, "a head")
        for role in ("activations", "kv", "gradients"):
            format = getattr(self.quant, role)
            if (spans := format.whole_tensor) and None in (self.micro_batch, self.eval_batch):
                raise ConfigError(
                    f"quant.{role}.{spans} makes the loss depend on how sequences are batched: "
                    "give micro_batch=... and eval_batch=..."
                )

    def check_parametrization(self) -> None:
        name = self.parametrization.SHORT
        if self.multipliers is None:
            return
        if not self.model.PARAMETRIZED:
            raise ConfigError(
                f"parametrization must be standard with model={self.model.SHORT}, for which {name} is not defined, "
                f"got {name}: tune optim.lr per size"
            )
        if not self.optimizer.elementwise:
            raise ConfigError(
                f"parametrization={name} is for decay that acts on parameters: with optim={self.optim.SHORT} set "
                "optim.decoupled=true or optim.weight_decay=0"
            )

    @functools.cached_property
    def multipliers(self) -> Multipliers | None:
        """Of the parametrization at this size; None: the standard one."""
        return self.parametrization.at(self.size)

    @functools.cached_property
    def N(self) -> int:
        """Parameters of the block matrices, those that are quantized."""
        return counts(self.model, self.size, self.data.vocab, self.data.context).N

    @functools.cached_property
    def batch(self) -> int:
        """Tokens per optimizer step."""
        return self.batch_tokens or self.optim.batch_tokens(self.N)

    @functools.cached_property
    def steps(self) -> int:
        return max(1, round(self.tokens / self.batch))

    @property
    def quantized_from(self) -> int:
        """The step at which quantization begins."""
        return min(round(self.quant.start * self.steps), self.steps - 1)

    @property
    def D(self) -> int:
        """Tokens trained on, exactly."""
        return self.steps * self.batch

    @functools.cached_property
    def optimizer(self) -> Optim:
        """`optim` with its rules replaced by numbers."""
        wide = self.multipliers.width if self.multipliers else 1.0  # optim.lr is that of the base
        return self.optim.resolved(self.N, self.size.width, self.batch, type(self.model), wide)

    @functools.cached_property
    def shape_key(self) -> str:
        """Model and size: with the seed, all that initialization and batches depend on."""
        return digest(f"{normal_json(resolved(self.model, self.size))};{normal_json(self.size)}")

    def resolved(self, fingerprint: str) -> dict[str, Any]:
        """Everything that decides the numbers, rules replaced by what they give."""
        parts = self.acting() | {
            "model": resolved(self.model, self.size),
            "optim": self.optimizer,
            "data": {"stream": fingerprint} | self.data.stream(),
            "batch": self.batch,
            "steps": self.steps,
            "numerics": NUMERICS,
        }
        if self.quant.roles() and self.quantized_from:
            parts["quantized_from"] = self.quantized_from
        if self.quant.start:
            parts["quant"] = replace(self.quant, start=0.0)
        del parts["tokens"], parts["batch_tokens"]
        return parts

    @functools.cached_property
    def normal_texts(self) -> dict[str, str]:
        """The normal form of every part, with the data's own fingerprint: names of run and trunk are of it."""
        return normal_texts(self.resolved(self.data.fingerprint()))

    def prefix(self) -> str:
        return f"{self.model.SHORT}-d{self.size.depth}w{self.size.width}-{self.D}-{self.quant.label()}-s{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Exec(Spec):
    """How it is computed. Not part of a run's name, but of its row."""

    SHORT: ClassVar[str] = "exec"
    device: Literal["auto", "cpu", "cuda"]
    threads: int = ranged(1, 1024)
    pack: int | None = ranged(1, 1024, neutral=None)  # runs trained as one batch; null = what pays
    compile: bool = neutral(False)  # training steps through torch.compile; evaluation never
    # Of training steps: auto takes ours where they were measured to pay (models/own.py), torch takes torch's.
    parts: Literal["auto", "torch"] = neutral("auto")
    micro_batch: int | None = ranged(1, None, neutral=None)  # sequences, where the run fixes none


def parts_of(run: "RunConfig", exec: Exec, device: str) -> str:
    """What `exec.parts` comes to in the training steps of a run: models/own.py."""
    measured = device == "cpu" and exec.threads == 1 and not exec.compile
    if exec.parts == "torch" or not measured or run.dtype != "float32":
        return TORCH
    return taken(run.model.own, run.data.context)


@dataclass(frozen=True, kw_only=True)
class Launcher(Spec):
    """Where units are executed; one class per file in sweep/launchers."""

    HERE: ClassVar[bool] = True  # on this machine: its memory and GPU are what counts

    def placed(self, exec: Exec) -> Exec:
        """`exec` where the launcher decides what its `auto` means."""
        return exec

    def ready(self) -> None:
        """Raises ConfigError when nothing can be executed from this machine."""


def located(path: str, check: Callable[..., None], *arguments: object) -> None:
    """Call a check, its error prefixed with where the part stands."""
    try:
        check(*arguments)
    except ConfigError as error:
        raise ConfigError(f"{path}.{error}") from None


def normal_texts(parts: dict[str, Any]) -> dict[str, str]:
    return {k: normal_json(v) if isinstance(v, Spec) else dumps(v) for k, v in parts.items()}


def normal_text(parts: dict[str, Any]) -> str:
    return joined(normal_texts(parts))


def joined(texts: dict[str, str]) -> str:
    return ";".join(f"{k}={v}" for k, v in sorted(texts.items()) if v)


def texts_of(run: RunConfig, fingerprint: str | None) -> dict[str, str]:
    return normal_texts(run.resolved(fingerprint)) if fingerprint else run.normal_texts


def run_id(run: RunConfig, fingerprint: str | None = None) -> str:
    """Readable prefix + 12 hex of the normal form. `fingerprint` defaults to the data's own."""
    return f"{run.prefix()}-{digest(joined(texts_of(run, fingerprint)))}"


def trunk_id(run: RunConfig, fingerprint: str | None = None) -> str:
    """Equal for runs that share their stable phase: the normal form less D and the decay."""
    texts = dict(texts_of(run, fingerprint))
    schedule = run.lr_schedule
    if schedule.TRUNK is not None:
        del texts["steps"]
        texts["lr_schedule"] = dumps({k: getattr(schedule, k) for k in schedule.TRUNK} | {"is": schedule.SHORT})  # fmt: skip
    name = f"{run.model.SHORT}-d{run.size.depth}w{run.size.width}-{run.quant.label()}-s{run.seed}"
    return f"{name}-{digest(joined(texts))}"


def family(run: RunConfig, fingerprint: str | None = None) -> str:
    """(arch, size, data, seed): runs that share initialization and batches; the unit of resampling."""
    stream = {"stream": fingerprint or run.data.fingerprint()} | run.data.stream()
    data = digest(dumps(stream))[:8]
    return f"{run.model.SHORT}-d{run.size.depth}w{run.size.width}-{run.shape_key[:6]}-{data}-s{run.seed}"


def stored_config(path: Path) -> tuple[RunConfig, str]:
    """(config, data fingerprint) of a run directory, read safely.

    Raises: ConfigError when the file is damaged or names a class that is not ours.
    """
    import yaml

    try:
        node = yaml.safe_load(path.read_text())
        run, fingerprint = node["run"], str(node["fingerprint"])
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} cannot be read as a run's config: {str(error).splitlines()[0]}"
        ) from None
    try:
        return build(run, RunConfig), fingerprint  # type: ignore[return-value]
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def compose(overrides: Iterable[str] = ()) -> RunConfig:
    """Hydra overrides -> one checked RunConfig.

    Raises: ConfigError (one line: field, value, rule, nearest valid name).
    """
    from precisionlaws.overrides import single

    overrides = list(overrides)
    for text in overrides:
        if text.lstrip("+~").split("=")[0].split(".")[0].split("@")[0] in (
            "ptq",
            "launcher",
            "exec",
        ):
            raise ConfigError(
                f"{text}: {text.split('=')[0].split('.')[0]} belongs to sweep or quantize, not to one run"
            )
    return single(overrides, "run", RunConfig)
