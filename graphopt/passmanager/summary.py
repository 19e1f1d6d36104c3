"""The error of a graph's outputs against the original, in one summary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graphopt.ir import Graph, types_known_equal
from graphopt.passmanager.bounds import Complaint
from graphopt.passmanager.compare import distance, form_difference, is_inexact, pairs, special_difference
from graphopt.passmanager.report import ErrorSummary


def summarize(
    outputs: Sequence[Any], reference: Sequence[Any], original: Sequence[Any], skip: frozenset[int]
) -> tuple[ErrorSummary, int, Complaint | None]:
    """Return the error of outputs against a float64 reference, and what no loss excuses (form, NaN) with its output.

    original: the original's outputs in the working precision, for integers and the places of NaN.
    """
    summary = ErrorSummary()
    for index, new, want in pairs(outputs, reference, skip):
        old = original[index]
        found = form_difference(old, new)
        if found is None and is_inexact(new):
            found = special_difference(new, old, want)
        if found is not None:
            return summary, index, Complaint(found)
        summary = worse(summary, _error(new, old, want, index))
    return summary, -1, None


def resized_states(before: Graph, after: Graph) -> frozenset[int]:
    """The returned values that are written to stored tensors which a pass has made smaller: no two to compare."""
    first = len(before.outputs)
    return frozenset(
        first + index
        for index, name in enumerate(before.mutations)
        if name in before.constants and name in after.constants
        if not types_known_equal(before.constants[name].type, after.constants[name].type)
    )


def _error(new: Any, old: Any, want: Any, index: int) -> ErrorSummary:
    if is_inexact(new):
        d = distance(new, want)
        return ErrorSummary(d.max_abs, d.relative, d.relative_rms, index)
    if isinstance(new, torch.Tensor):
        return ErrorSummary(output=index, mismatches=int(new.ne(old).sum()), elements=new.numel())
    return ErrorSummary(output=index, mismatches=int(new != old), elements=1)


def worse(a: ErrorSummary, b: ErrorSummary) -> ErrorSummary:
    """The worse of two errors; mismatches add up."""
    top = b if (b.max_rel, b.max_abs) > (a.max_rel, a.max_abs) else a
    return ErrorSummary(
        max(a.max_abs, b.max_abs),
        max(a.max_rel, b.max_rel),
        max(a.relative_rms, b.relative_rms),
        top.output,
        a.float64,
        a.mismatches + b.mismatches,
        a.elements + b.elements,
    )
