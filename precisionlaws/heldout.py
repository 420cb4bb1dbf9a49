"""Held-out losses of one evaluation, summed by document, and the errors that follow from the sums.

Sequences of one document err together, so a standard error is clustered by document, and that of a difference
between two evaluations of the same text needs no more than the sums of both. A run keeps them beside its
result, in held_out.npy: (documents, 2) float64, sequences and the sum of their losses; 700 bytes for the
default corpus, where every sequence by itself would be ten times that.
"""

import io

import numpy as np


def clustered_error(deviations: np.ndarray, count: int) -> float:
    """Standard error of a mean of `count` values from each cluster's sum of deviations from it: sandwich,
    G / (G - 1); NaN of one cluster."""
    G = len(deviations)
    return float(np.sqrt(G / (G - 1) * (deviations**2).sum()) / count) if G > 1 else float("nan")


def sums(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(clusters, 2): values and their sum in each cluster, by label."""
    at = np.unique(labels, return_inverse=True)[1]
    return np.stack([np.bincount(at), np.bincount(at, weights=values)], 1).astype(np.float64)


def paired(one: np.ndarray, other: np.ndarray) -> tuple[float, float] | None:
    """Difference of the means (other minus one) and its standard error; None if not of the same text."""
    if one.shape != other.shape or not np.array_equal(one[:, 0], other[:, 0]):
        return None
    count, difference = one[:, 0].sum(), other[:, 1] - one[:, 1]
    mean = difference.sum() / count
    return float(mean), clustered_error(difference - mean * one[:, 0], count)


def to_bytes(sums: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, sums, allow_pickle=False)
    return buffer.getvalue()


def from_bytes(data: bytes) -> np.ndarray:
    """Raises: ValueError when this is no array of sums."""
    try:
        found = np.load(io.BytesIO(data), allow_pickle=False)
    except (EOFError, OSError) as error:
        raise ValueError(str(error)) from None
    whole = isinstance(found, np.ndarray) and found.dtype == np.float64 and found.ndim == 2
    if not whole or found.shape[1] != 2 or not np.isfinite(found).all() or not (found[:, 0] > 0).all():  # fmt: skip
        raise ValueError("not sequences and sums of losses by document")
    return found
