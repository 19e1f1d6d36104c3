"""What values should be: the original graph in float64, and how far its own rounding takes it from there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphopt.debugging.deviation import Deviation, deviation, ulp_of
from graphopt.debugging.values import observe, record
from graphopt.errors import GraphOptError
from graphopt.ir import Graph, Value
from graphopt.passmanager.compare import flat


class Reference:
    """The values of a graph on some inputs in float64; in its own precision where it does not run in float64.

    values: of the outermost graph, inputs included. outputs: all returned values, flat.
    own: the graph's own error at each value; own_outputs: at each output; None where it is not known.
    units: the ulp of each output's dtype.
    """

    def __init__(self, graph: Graph, inputs: Sequence[Any]) -> None:
        self.notes: list[str] = []
        self.values, self.outputs, self.name = self._record(graph, inputs)
        self._own: dict[Value, Deviation] = {}
        self._units: dict[Value, float] = {}
        work = flat(observe(graph, inputs, self._compare))
        self.own_outputs = (
            [deviation(a, b) for a, b in zip(work, self.outputs)] if self._is_wide else [None] * len(work)
        )
        self.units = [ulp_of(value) for value in work]

    def _record(self, graph: Graph, inputs: Sequence[Any]) -> tuple[Mapping[Value, Any], list[Any], str]:
        try:
            values, returned = record(graph, inputs, float64=True)
            name = "the original in float64"
        except GraphOptError as error:
            values, returned = record(graph, inputs)
            name = "the original"
            self.notes.append(
                f"the original does not run in float64, so errors are measured against it as it is: {error}"
            )
        self._is_wide = not self.notes
        return values, flat(returned), name

    def _compare(self, value: Value, computed: Any) -> None:
        self._own[value] = deviation(computed, self.values[value])
        self._units[value] = ulp_of(computed)

    def own(self, value: Value) -> Deviation | None:
        """The graph's own error at a value: of its rounding alone. None where it is not known."""
        if not self._is_wide:
            return None
        return self._own.get(value, Deviation())

    def of(self, value: Value) -> Any:
        """What a value is: computed, given, or stored."""
        return value.constant.tensor.detach() if value.constant is not None else self.values[value]
