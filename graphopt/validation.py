"""Checking what an engine computes against the original graph in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from graphopt.errors import GraphOptError
from graphopt.ir import Graph, Trait, walk
from graphopt.passmanager.bounds import OWN_ERRORS
from graphopt.passmanager.compare import (
    distance,
    exact_difference,
    flat,
    form_difference,
    is_inexact,
    special_difference,
    ulp,
)
from graphopt.passmanager.runner import Runner
from graphopt.passmanager.stability import rounding

ENGINE_FACTOR = 16
ENGINE_ULP = 64
"""An engine fuses and reorders more than a pass does: its error may be 16 times the interpreter's own, plus 64 ulp."""

UNREFEREED_ULP = 1024
"""The bound where the graph does not run in float64, and so its own error is not known."""

SATURATING = frozenset(["aten.erf", "aten.gru", "aten.lstm", "aten.sigmoid", "aten.softmax", "aten.tanh"])
SATURATING_ULP = 4
"""Engines compute functions that end at 1 to some units in the last place of 1, also where the value is near 0."""

Check = Callable[[Sequence[Any]], "str | None"]
"""Given an engine's outputs, returns the sentence that says what is wrong, or None."""


def output_check(original: Graph, inputs: Sequence[Any]) -> Check:
    """Return a check of an engine's outputs for `inputs`.

    The original graph runs once in float64 and once as it is; the check holds if the engine's error against the
    former is at most 16 times the latter's, plus 64 units in the last place of the output's scale; in a graph with
    sigmoids and their like, four units in the last place of 1 are always allowed. Outputs that depend on random numbers
    are checked for form alone. Where a graph has step functions, as quantized ones do, an output may move as far as it
    does when numbers fall to other steps by noise.
    """
    runner = Runner(original)
    before = flat(_outputs(runner.work, original, inputs))
    reference = _reference(runner, original, inputs)
    drawn = _random_outputs(runner, original, inputs, before)
    stepped = any(node.op.has(Trait.STEPS) for node in walk(original))
    saturating = any(node.op.base in SATURATING for node in walk(original))

    def check(outputs: Sequence[Any]) -> str | None:
        given = flat(outputs)
        if len(given) != len(before):
            return f"{len(given)} outputs in place of {len(before)}"
        for index, (got, old) in enumerate(zip(given, before)):
            wrong = form_difference(old, got)
            if wrong is None and index not in drawn:
                wrong = _difference(got, old, None if reference is None else reference[index], saturating)
                if wrong is not None and stepped and _is_a_step(runner, original, inputs, index, got, old):
                    wrong = None
            if wrong is not None:
                return f"output {index}: {wrong}"
        return None

    return check


def _is_a_step(runner: Runner, original: Graph, inputs: Sequence[Any], index: int, got: Any, old: Any) -> bool:
    """True if the output moves as much where noise of a few ulp decides which steps numbers fall to."""
    if special_difference(got, old, old) is not None:
        return False
    error = distance(got, old).max_abs
    return error <= OWN_ERRORS * rounding(runner, original, inputs, index, enough=error / OWN_ERRORS)


def copies(inputs: Sequence[Any]) -> list[Any]:
    """Copy tensors: a model may write to its inputs."""
    return [v.clone() if isinstance(v, torch.Tensor) else v for v in inputs]


def _outputs(run: Callable[[Graph, Sequence[Any]], list[Any]], graph: Graph, inputs: Sequence[Any]) -> list[Any]:
    returned = run(graph, copies(inputs))
    return returned[: len(returned) - len(graph.mutations)]


def _reference(runner: Runner, original: Graph, inputs: Sequence[Any]) -> list[Any] | None:
    try:
        return flat(_outputs(runner.wide, original, inputs))
    except GraphOptError:  # an operator without a kernel for float64
        return None


def _random_outputs(runner: Runner, original: Graph, inputs: Sequence[Any], before: Sequence[Any]) -> frozenset[int]:
    """The outputs that another seed changes."""
    if not runner.random:
        return frozenset()
    runner.seed += 1
    again = flat(_outputs(runner.work, original, inputs))
    return frozenset(i for i, (a, b) in enumerate(zip(before, again)) if exact_difference(a, b, bitwise=False))


def _difference(got: Any, old: Any, reference: Any, saturating: bool) -> str | None:
    if not is_inexact(got):
        return exact_difference(old, got, bitwise=False)
    want = old if reference is None else reference
    special = special_difference(got, old, want)
    if special is not None:
        return special
    error, own = distance(got, want), distance(old, want)
    units = UNREFEREED_ULP if reference is None else ENGINE_ULP
    allowed = ENGINE_FACTOR * own.max_abs + units * ulp(got) * max(own.scale, error.scale)
    if saturating:
        allowed = max(allowed, SATURATING_ULP * ulp(got))
    if error.max_abs > allowed:
        return f"the error {error.max_abs:.3g} exceeds {allowed:.3g} (the original's own is {own.max_abs:.3g})"
    return None
