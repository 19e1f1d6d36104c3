"""Checking what an engine computes against the original graph in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from graphopt.analysis import Interpreter
from graphopt.ir import Graph, Trait, walk
from graphopt.passmanager.compare import distance, form_difference, is_inexact, special_difference, ulp

ENGINE_FACTOR = 16
ENGINE_ULP = 64
"""An engine fuses and reorders more than a pass does: its error may be 16 times the interpreter's own, plus 64 ulp."""


def output_check(original: Graph, inputs: Sequence[Any]) -> Callable[[Sequence[Any]], str | None]:
    """Return a check of an engine's outputs for `inputs`: the sentence that says what is wrong, or None.

    The original graph runs once in float64 and once as it is; the check holds if the engine's error against the
    former is at most 16 times the latter's, plus 64 units in the last place of the output's scale. Graphs that draw
    random numbers are checked for form alone.
    """
    random = any(node.op.has(Trait.RANDOM) and node.attributes.get("train", True) is True for node in walk(original))
    count = len(original.outputs)
    before = Interpreter(original).run(*_copies(inputs))[:count]
    reference = Interpreter(original, float64=True).run(*_copies(inputs))[:count]

    def check(outputs: Sequence[Any]) -> str | None:
        if len(outputs) != count:
            return f"{len(outputs)} outputs in place of {count}"
        for index, (got, old, want) in enumerate(zip(outputs, before, reference)):
            wrong = form_difference(got, old)
            if wrong is None and not random:
                wrong = _difference(got, old, want)
            if wrong is not None:
                return f"output {index}: {wrong}"
        return None

    return check


def _difference(got: Any, old: Any, want: Any) -> str | None:
    if not is_inexact(got):
        same = torch.equal(torch.as_tensor(got), torch.as_tensor(old))
        return None if same else "integers differ"
    special = special_difference(got, old, want)
    if special is not None:
        return special
    error, own = distance(got, want), distance(old, want)
    allowed = ENGINE_FACTOR * own.max_abs + ENGINE_ULP * ulp(got) * max(own.scale, error.scale)
    if error.max_abs > allowed:
        return f"the error {error.max_abs:.3g} exceeds {allowed:.3g} (the original's own is {own.max_abs:.3g})"
    return None


def _copies(inputs: Sequence[Any]) -> list[Any]:
    return [v.clone() if isinstance(v, torch.Tensor) else v for v in inputs]
