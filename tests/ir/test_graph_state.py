"""Any sequence of mutations keeps use lists and order as a plain model has them."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from graphopt.ir import DType, Graph, Node, TensorType, Use, Value, difference, verify
from graphopt.ops import get_op

TYPE = TensorType(DType.F32, (2,))
RELU, ADD = get_op("aten.relu"), get_op("aten.add.Tensor")
CAT = get_op("aten.broadcast_tensors")  # takes any number of operands and returns as many


class GraphMachine(RuleBasedStateMachine):
    """Graph methods against a list of nodes."""

    @initialize(count=st.integers(1, 2))
    def start(self, count: int) -> None:
        self.graph = Graph()
        for number in range(count):
            self.graph.add_input(f"x{number}", TYPE)
        self.order: list[Node] = []

    def values_before(self, position: int) -> list[Value]:
        return [*self.graph.inputs, *(r for node in self.order[:position] for r in node.results)]

    def make(self, data: st.DataObject, position: int) -> Node:
        available = self.values_before(position)
        op = data.draw(st.sampled_from([RELU, ADD, CAT]))
        count = {RELU: 1, ADD: 2, CAT: data.draw(st.integers(1, 3))}[op]
        operands = [data.draw(st.sampled_from(available)) for _ in range(count)]
        return Node(op, operands, result_types=[TYPE] * (count if op is CAT else 1))

    def position(self, data: st.DataObject) -> int:
        return data.draw(st.integers(0, len(self.order) - 1))

    @rule(data=st.data())
    def append(self, data: st.DataObject) -> None:
        node = self.make(data, len(self.order))
        assert self.graph.append(node) is node
        self.order.append(node)

    @precondition(lambda self: self.order)
    @rule(data=st.data())
    def insert_before(self, data: st.DataObject) -> None:
        position = self.position(data)
        node = self.make(data, position)
        self.graph.insert_before(node, self.order[position])
        self.order.insert(position, node)

    @rule(data=st.data())
    def insert_before_the_terminator(self, data: st.DataObject) -> None:
        node = self.make(data, len(self.order))
        self.graph.insert_before(node, self.graph.terminator)
        self.order.append(node)

    @precondition(lambda self: self.order)
    @rule(data=st.data())
    def insert_after(self, data: st.DataObject) -> None:
        position = self.position(data)
        node = self.make(data, position + 1)
        self.graph.insert_after(node, self.order[position])
        self.order.insert(position + 1, node)

    @precondition(lambda self: self.order)
    @rule(data=st.data())
    def erase(self, data: st.DataObject) -> None:
        node = self.order[self.position(data)]
        if any(result.num_uses for result in node.results):
            before = str(self.graph)
            try:
                self.graph.erase(node)
            except ValueError:
                assert str(self.graph) == before
                return
            raise AssertionError("a used node was erased")
        self.graph.erase(node)
        assert node.is_erased and not node.operands
        self.order.remove(node)

    @precondition(lambda self: self.order)
    @rule(data=st.data())
    def set_operand(self, data: st.DataObject) -> None:
        position = self.position(data)
        node = self.order[position]
        index = data.draw(st.integers(0, len(node.operands) - 1))
        node.set_operand(index, data.draw(st.sampled_from(self.values_before(position))))

    @precondition(lambda self: self.order)
    @rule(data=st.data())
    def replace_all_uses(self, data: st.DataObject) -> None:
        position = self.position(data)
        old = data.draw(st.sampled_from(list(self.order[position].results)))
        new = data.draw(st.sampled_from([old, *self.values_before(position)]))
        expected = list(old.uses) if new is not old else []
        kept = new.uses
        old.replace_all_uses_with(new)
        assert list(new.uses) == [*kept, *expected]

    @precondition(lambda self: self.order)
    @rule(data=st.data())
    def move_before(self, data: st.DataObject) -> None:
        position, target = self.position(data), self.position(data)
        node, anchor = self.order[position], self.order[target]
        first, last = sorted((position, target))
        between = self.order[first : last + 1]
        if any(v.producer in between for n in between for v in n.inputs if n is not v.producer):
            return
        self.graph.move_before(node, anchor)
        if node is not anchor:
            self.order.remove(node)
            self.order.insert(self.order.index(anchor), node)

    @rule(data=st.data())
    def set_outputs(self, data: st.DataObject) -> None:
        values = self.values_before(len(self.order))
        outputs = data.draw(st.lists(st.sampled_from(values), max_size=3))
        updates = {"x0": data.draw(st.sampled_from(values))} if data.draw(st.booleans()) else {}
        self.graph.set_outputs(outputs, updates)
        assert list(self.graph.outputs) == outputs and self.graph.updates == updates

    @rule(data=st.data())
    def iterate_and_mutate(self, data: st.DataObject) -> None:
        """The current node may be erased; what is inserted after it is visited, what is before it is not."""
        visited: list[Node] = []
        expected = list(self.order)
        for node in self.graph:
            visited.append(node)
            action = data.draw(st.sampled_from(["nothing", "nothing", "erase", "after", "before"]))
            position = self.order.index(node)
            if action == "erase" and not any(r.num_uses for r in node.results):
                self.graph.erase(node)
                self.order.remove(node)
            elif action == "after" and len(self.order) < 12:
                new = self.make(data, position + 1)
                self.graph.insert_after(new, node)
                self.order.insert(position + 1, new)
                expected.insert(expected.index(node) + 1, new)
            elif action == "before" and len(self.order) < 12:
                new = self.make(data, position)
                self.graph.insert_before(new, node)
                self.order.insert(position, new)
        assert visited == expected

    @rule()
    def iterate_backwards_and_erase(self) -> None:
        for node in reversed(self.graph):
            if not any(result.num_uses for result in node.results):
                self.graph.erase(node)
                self.order.remove(node)

    @rule()
    def clone(self) -> None:
        copy = self.graph.clone()
        assert difference(self.graph, copy) is None
        verify(copy)
        self.check(copy, list(copy))

    @invariant()
    def graph_equals_model(self) -> None:
        if hasattr(self, "order"):
            self.check(self.graph, self.order)
            verify(self.graph)

    def check(self, graph: Graph, order: list[Node]) -> None:
        assert list(graph) == order and len(graph) == len(order) and list(graph.nodes) == order
        assert list(reversed(graph)) == order[::-1]
        recomputed: dict[Value, set[Use]] = {}
        for node in (*order, graph.terminator):
            assert node.graph is graph
            for index, value in enumerate(node.operands):
                assert value is not None
                recomputed.setdefault(value, set()).add(Use(node, index))
        for value in (*graph.inputs, *(r for node in order for r in node.results)):
            assert set(value.uses) == recomputed.get(value, set())
            assert value.num_uses == len(value.uses)
            assert set(value.users) == {use.node for use in value.uses}
        for a, b in pairwise(order):
            assert graph.is_before(a, b) and not graph.is_before(b, a)
            assert graph.is_before(a, graph.terminator) and not graph.is_before(graph.terminator, a)


TestGraph = GraphMachine.TestCase
TestGraph.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
