"""The row of a finished run: the columns that laws speak of, then everything else by dotted path."""

import math
from dataclasses import replace
from typing import Any

from precisionlaws.config import flat
from precisionlaws.models.count import counts, training_flops
from precisionlaws.quant import gmse
from precisionlaws.run import Exec, RunConfig, family, run_id
from precisionlaws.training.evaluate import Losses
from precisionlaws.training.facts import exec_facts, provenance
from precisionlaws.training.loop import batches_of


def final_row(run: RunConfig, exec: Exec, losses: Losses | None, seconds: float) -> dict[str, Any]:
    """The unquantized point of a run. `losses` None: it diverged, and its row says so."""
    ok = losses is not None and math.isfinite(losses.mean)
    return base_row(run, exec) | {
        "eval_id": "final",
        "P_post": 16,
        "loss": losses.mean if losses is not None and ok else None,
        "loss_se": losses.standard_error if losses is not None and ok else None,
        "status": "finished" if ok else "diverged",
        "seconds": seconds,
    }


def base_row(run: RunConfig, exec: Exec) -> dict[str, Any]:
    """Everything that the points of a run have in common."""
    count = counts(run.model, run.size, run.data.vocab, run.data.context)
    matrices = run.model.matrices(run.size)
    quant = run.quant
    return {
        "run_id": run_id(run),
        "family": family(run),
        "arch": run.model.SHORT,
        "objective": run.model.objective,
        "N": count.N,
        "N_head": count.N_head,
        "N_emb": count.N_emb,
        "D": run.D,
        "P_w": quant.weights.bits,
        "P_a": quant.activations.bits,
        "P_kv": quant.kv.bits,
        "P_g": quant.gradients.bits,
        "bits_effective": quant.weights.bits_effective(matrices),
        **gmse.columns(quant, matrices, run.size.head_dim),
        "seed": run.seed,
        "phase": "final",
        "mode": quant.mode,
        "flops": training_flops(run.model, run.size, run.data.vocab, run.data.context, run.D),
        "epochs": batches_of(run).epochs(run.D),
        **dotted(run),
        **exec_facts(exec, run),
        **provenance(run.data.fingerprint()),
    }


def dotted(run: RunConfig) -> dict[str, Any]:
    """Every field of the config under its path, rules replaced by numbers, and what the data knows of itself."""
    columns = flat(replace(run, optim=run.optimizer, batch_tokens=run.batch))
    del columns["tokens"], columns["seed"]  # D is exact; seed is a column of its own
    return columns | run.data.facts()
