"""The errors of values inside of a graph: local (what a node does to right operands) and accumulated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphopt.debugging.attribution import NodeError
from graphopt.debugging.deviation import Deviation, Tolerance, deviation, ulp_of
from graphopt.debugging.places import source_line
from graphopt.debugging.reference import Reference
from graphopt.debugging.runs import Run
from graphopt.debugging.values import observe, observe_forced
from graphopt.ir import Graph, Location, Node, Value, walk
from graphopt.passmanager.runner import draws_random

Pair = tuple[Value, Value]
"""A value of the original graph, and the value of the final graph that stands for it."""


class NodeErrors:
    """Measures each pair of values, in the order of the final graph."""

    def __init__(self, run: Run, reference: Reference, tolerance: Tolerance) -> None:
        self.run = run
        self.reference = reference
        self.tolerance = tolerance
        self.pairs = _ordered(run)
        self._by_final: dict[Value, list[Value]] = {}
        for old, new in self.pairs:
            self._by_final.setdefault(new, []).append(old)
        self._engines: dict[str, dict[Pair, Deviation]] = {}
        self._units: dict[Value, float] = {}
        self._accumulated: dict[Pair, Deviation] = {}
        self._local: dict[Pair, Deviation] = {}
        self._measure_inputs()
        observe(run.final, run.inputs, self._see_accumulated)
        # Where a value stands for several, it was the first of them before the others were replaced by it.
        right = {new: reference.of(olds[0]) for new, olds in self._by_final.items() if new.producer is not None}
        observe_forced(run.final, run.inputs, right, self._see_local)

    def rows(self) -> list[NodeError]:
        """A row for each pair; stored tensors and inputs that are what they were are left out."""
        return [self._row(pair) for pair in self._shown()]

    def engine(self, name: str, values: Mapping[Value, Any]) -> int | None:
        """Add what an engine computed; return the index of the first row that is out of tolerance.

        What depends on random numbers is not judged, for engines draw numbers of their own.
        """
        drawn = random_values(self.run.final)
        errors = self._engines[name] = {}
        first = None
        for index, pair in enumerate(self._shown()):
            old, new = pair
            if new in values:
                errors[pair] = found = deviation(values[new], self.reference.of(old))
                if (
                    first is None
                    and new not in drawn
                    and not self.tolerance.holds(found, self.reference.own(old), self._unit(new))
                ):
                    first = index
        return first

    def _shown(self) -> list[Pair]:
        return [
            (old, new)
            for old, new in self.pairs
            if new.producer is not None or old.producer is not None or not self._accumulated[old, new].is_exact
        ]

    def _measure_inputs(self) -> None:
        given = dict(zip(self.run.final.inputs, self.run.inputs))
        for old, new in self.pairs:
            if new.producer is None:
                value = new.constant.tensor.detach() if new.constant is not None else given[new]
                same = old.constant is not None and new.constant is not None and old.constant.tensor is value
                found = Deviation() if same else deviation(value, self.reference.of(old))
                self._accumulated[old, new] = self._local[old, new] = found
                self._units[new] = ulp_of(value)

    def _see_accumulated(self, value: Value, computed: Any) -> None:
        self._units[value] = ulp_of(computed)
        for old in self._by_final.get(value, ()):
            self._accumulated[old, value] = deviation(computed, self.reference.of(old))

    def _see_local(self, value: Value, computed: Any) -> None:
        for old in self._by_final.get(value, ()):
            self._local[old, value] = deviation(computed, self.reference.of(old))

    def _unit(self, value: Value) -> float:
        return self._units[value]

    def _row(self, pair: Pair) -> NodeError:
        old, new = pair
        own, unit = self.reference.own(old), self._unit(new)
        local, accumulated = self._local.get(pair), self._accumulated[pair]
        node, source = new.producer, old.producer
        location = (node or source).location if (node or source) is not None else Location()  # type: ignore[union-attr]
        return NodeError(
            name=new.name,
            node=repr(node) if node is not None else "",
            op=node.op.name if node is not None else "",
            index=new.index,
            original=repr(source) if source is not None else f"%{old.name}",
            location=source_line(location),
            scope=location.scope,
            rules=self._rules(old, node),
            local=local,
            accumulated=accumulated,
            own=own,
            local_ok=local is None or self.tolerance.holds(local, own, unit),
            ok=self.tolerance.holds(accumulated, own, unit),
            engines={name: errors[pair] for name, errors in self._engines.items() if pair in errors},
        )

    def _rules(self, old: Value, node: Node | None) -> tuple[str, ...]:
        """The rules (or passes without rules) that replaced a value on its way, and the rules that made the node."""
        found: list[str] = []
        now: Value | None = old
        for step in self.run.provenance.steps:
            if now is None:
                break
            if step.is_replaced(now):
                application = step.replaced_by(now)
                found.append(application.rule if application is not None else step.pass_.name if step.pass_ else "")
            now = step.forward(now)
        return tuple(dict.fromkeys([*found, *(node.location.rules if node is not None else ())]))


def random_values(graph: Graph) -> set[Value]:
    """The values of the outermost graph that depend on random numbers."""
    found: set[Value] = set()
    for node in graph:
        inner = any(draws_random(one) for region in node.regions for one in walk(region))
        if draws_random(node) or inner or any(value in found for value in node.inputs):
            found.update(node.results)
    return found


def _ordered(run: Run) -> list[Pair]:
    """The pairs in the order of the final graph, and of the original where one value stands for several."""
    order: dict[Node, int] = {node: index for index, node in enumerate(run.final)}

    def position(pair: Pair) -> tuple[int, int]:
        producer = pair[1].producer
        return (order[producer], pair[1].index) if producer is not None else (-1, 0)

    return sorted(run.pairs(), key=position)
