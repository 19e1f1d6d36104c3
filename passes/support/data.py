"""The data that a pass runs the graph on."""

from __future__ import annotations

from typing import Any

from graphopt.errors import InputError
from graphopt.ir import Graph
from graphopt.passes.pruning.criteria.batches import read_batches
from graphopt.passmanager import PassContext


def some_batches(graph: Graph, context: PassContext, limit: int) -> list[list[Any]]:
    """The inputs of at most `limit` batches: of the calibration data, or else the sample inputs; none without either.

    Raises:
        InputError: calibration data that does not fit the inputs.
    """
    if context.calibration is not None:
        return [batch.inputs for batch in read_batches(graph, context.calibration, limit)]
    return [list(inputs) for inputs in context.samples[:limit]]


def batches_of(
    graph: Graph, context: PassContext, limit: int, name: str, what: str = "to run the model on"
) -> list[list[Any]]:
    """The same. name: of the pass. what: it needs data for, or to do.

    Raises:
        InputError: there is neither, or data that does not fit.
    """
    require_data(context, name, what)
    return some_batches(graph, context, limit)


def require_data(context: PassContext, name: str, what: str = "to run the model on") -> None:
    """Refuse to go on without data.

    Raises:
        InputError: there are neither calibration data nor sample inputs.
    """
    if context.calibration is None and not context.samples:
        raise InputError(f"{name} needs data {what}: give calibration=, or example inputs")
