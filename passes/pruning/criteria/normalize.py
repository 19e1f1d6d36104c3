"""Scores of different groups on one scale, for rankings across groups."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphopt.errors import unknown_name


def lamp(scores: np.ndarray) -> np.ndarray:
    """Layer-adaptive magnitudes: sₖ² over the sum of all sⱼ² that are not less.

    The largest channel of every group gets 1, so a global ranking leaves each group its strongest. With sₖ a norm,
    this is the squared relative error that removing k adds once all smaller ones are gone.

    >>> lamp(np.array([1.0, 3.0, 2.0])).round(3).tolist()
    [0.071, 1.0, 0.308]
    """
    squares = np.square(scores)
    order = np.argsort(-squares, kind="stable")
    above = np.cumsum(squares[order])
    ratios = np.empty_like(squares)
    ratios[order] = np.divide(squares[order], above, out=np.zeros_like(above), where=above > 0)
    return ratios


def _over(measure: Callable[[np.ndarray], float]) -> Callable[[np.ndarray], np.ndarray]:
    def normalize(scores: np.ndarray) -> np.ndarray:
        scale = measure(scores)
        return scores / scale if scale > 0 else scores

    return normalize


def _gaussian(scores: np.ndarray) -> np.ndarray:
    deviation = float(scores.std())
    return (scores - scores.mean()) / (deviation if deviation > 0 else 1.0)


NORMALIZATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda scores: scores,
    "mean": _over(lambda s: float(np.abs(s).mean())),
    "max": _over(lambda s: float(np.abs(s).max(initial=0.0))),
    "sum": _over(lambda s: float(np.abs(s).sum())),
    "gaussian": _gaussian,
    "lamp": lamp,
}
"""By name. mean, max, sum: divided by that of the group's magnitudes. gaussian: zero mean and unit deviation."""


def get_normalization(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return a normalization by name.

    Raises:
        UnknownNameError: the message suggests near names.
    """
    if name not in NORMALIZATIONS:
        raise unknown_name("normalization", name, NORMALIZATIONS, f"There are {', '.join(NORMALIZATIONS)}.")
    return NORMALIZATIONS[name]
