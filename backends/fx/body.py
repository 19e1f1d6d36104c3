"""The body of one graph: IR nodes in order, each as one FX call."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch

from graphopt.backends.fx.calls import Call, build_call, returns_one
from graphopt.backends.fx.control_flow import emit_control_flow
from graphopt.backends.fx.leaves import BatchNorm, FollowTraining
from graphopt.backends.fx.names import NodeNames, identifier, is_module_path, parameter_names
from graphopt.backends.fx.opaque import Group
from graphopt.backends.fx.sizes import Sizes, needed_symbols
from graphopt.backends.fx.state import State, install
from graphopt.errors import EmissionError
from graphopt.ir import UNKNOWN, Graph, Location, Node, Symbol, Trait, Value
from graphopt.ops.onnx_dialect import is_opaque


class Body:
    """Emits the nodes of `graph` into `fx_graph`; leaf modules and regions go into `module`.

    state: where stored tensors are; a region has none, they are defined as its inputs.
    trainable: let training flags follow the module; otherwise they are False.
    """

    def __init__(
        self, graph: Graph, module: torch.nn.Module, state: State | None = None, *, trainable: bool = True
    ) -> None:
        self.graph = graph
        self.module = module
        self.trainable = trainable
        self.fx_graph = torch.fx.Graph()
        self.sizes = Sizes(self.fx_graph, needed_symbols(graph))
        self._state = state
        self._nodes: dict[Value, torch.fx.Node] = {}
        self._attributes: dict[str, torch.fx.Node] = {}
        self._names = NodeNames(graph)

    def define(self, value: Value, node: torch.fx.Node) -> None:
        """Let `node` be the value."""
        self._nodes[value] = node
        self.sizes.observe(value, node)

    def declare(self, values: Sequence[Value], symbols: Sequence[Symbol] = ()) -> None:
        """Make values, and after them the sizes of symbols, the parameters of the FX graph."""
        names = parameter_names([*(v.name for v in values), *(s.name for s in symbols)])
        nodes = [self.fx_graph.placeholder(name) for name in names]
        for symbol, node in zip(symbols, nodes[len(values) :]):
            self.sizes.bind(symbol.name, node)
        for value, node in zip(values, nodes):
            self.define(value, node)

    def node_of(self, value: Value) -> torch.fx.Node:
        """Return the FX node of a value; a stored tensor is fetched at its first use."""
        found = self._nodes.get(value)
        if found is None:
            if self._state is None or value.constant is None:
                raise EmissionError(f"%{value.name} is used outside of the region that defines it")
            found = self._nodes[value] = self.attribute(self._state.path(value))
        return found

    def attribute(self, path: str) -> torch.fx.Node:
        """Return the node that fetches an attribute of the module."""
        found = self._attributes.get(path)
        if found is None:
            found = self.fx_graph.create_node("get_attr", path, (), {}, identifier(path))
            self._attributes[path] = found
        return found

    def submodule(self, name: str, module: torch.nn.Module) -> torch.fx.Node:
        """Add a module under a numbered name; return the node that fetches it."""
        return self.attribute(install(self.module, self._free_name(name), module))

    def _free_name(self, name: str) -> str:
        number = 0
        while hasattr(self.module, f"{name}_{number}"):
            number += 1
        return f"{name}_{number}"

    def emit_nodes(self) -> None:
        """Emit all nodes of the graph in order.

        Raises:
            EmissionError: names the node, and where it came from.
        """
        opaque = Group()
        for node in self.graph:
            try:
                if is_opaque(node) and opaque.takes(node):
                    opaque.add(node)
                    continue
                if is_opaque(node) or opaque.is_used_by(node):
                    opaque = self._emit_group(opaque)
                if is_opaque(node):
                    opaque.add(node)
                else:
                    self._emit(node)
            except EmissionError as error:
                raise EmissionError(f"cannot emit {node!r}: {error} (from {node.location})") from error
        self._emit_group(opaque)

    def _emit_group(self, group: Group) -> Group:
        """Emit the opaque nodes that wait, and return a new group for those that follow."""
        outputs = group.outputs(self.sizes.tells)
        if outputs:
            module, inputs = group.module(outputs, lambda value: value.name not in self.graph.mutations)
            path = install(self.module, self._free_name("opaque"), module)
            result = self.fx_graph.create_node("call_module", path, tuple([self.node_of(v) for v in inputs]), {})
            _locate(result, group.nodes[0])
            for index, value in enumerate(outputs):
                self._emit_item(result, index, value, group.nodes[0])
        return Group()

    def _emit(self, node: Node) -> None:
        if node.op.has(Trait.REGION) or node.regions:
            result = emit_control_flow(self, node)
            single = False
        else:
            operands = [None if v is None else self.node_of(v) for v in node.operands]
            result = self._emit_call(node, build_call(node, operands, self.sizes, trainable=self.trainable))
            single = self._is_single(node)
        _locate(result, node)
        if single:
            self.define(node.results[0], result)
            return
        for value in node.results:
            if value.num_uses or len(node.results) == 1:
                self._emit_item(result, value.index, value, node)

    def _emit_item(self, result: torch.fx.Node, index: int, value: Value, node: Node) -> None:
        name = identifier(value.name) if value.name else None
        item = self.fx_graph.create_node("call_function", operator.getitem, (result, index), {}, name)
        _locate(item, node)
        self.define(value, item)

    def _is_single(self, node: Node) -> bool:
        if len(node.results) != 1:
            return False
        return returns_one(node.op) is not False

    def _emit_call(self, node: Node, call: Call) -> torch.fx.Node:
        name = self._names.of(node)
        if call.follows:
            return self._emit_leaf(node, call, name)
        if isinstance(call.target, str):
            return self.fx_graph.create_node("call_method", call.target, call.args, call.kwargs, name)
        if returns_one(node.op) is None and len(node.results) == 1:
            bare = self.fx_graph.create_node("call_function", call.target, call.args, call.kwargs)
            return self.fx_graph.create_node("call_function", first, (bare,), {}, name)
        return self.fx_graph.create_node("call_function", call.target, call.args, call.kwargs, name)

    def _emit_leaf(self, node: Node, call: Call, name: str | None) -> torch.fx.Node:
        scope = node.location.scope
        wanted = scope if is_module_path(scope) else (name or "module").removesuffix(".")
        if node.op.name == "aten.batch_norm":
            leaf: torch.nn.Module = BatchNorm(node.attr("momentum"), node.attr("eps"))
            args = self._batch_norm_operands(node)
            kwargs: dict[str, Any] = {}
        else:
            assert node.op.evaluate is not None
            leaf = FollowTraining(node.op.evaluate, call.follows)
            args, kwargs = call.args, call.kwargs
        path = install(self.module, wanted, leaf)
        return self.fx_graph.create_node("call_module", path, args, kwargs, name)

    def _batch_norm_operands(self, node: Node) -> tuple[torch.fx.Node | None, ...]:
        operands = [None if v is None else self.node_of(v) for v in node.operands]
        counter = self._counter(node.operand("running_mean"))
        return tuple(operands) if counter is None else (*operands, self.node_of(counter))

    def _counter(self, running_mean: Value | None) -> Value | None:
        """The `num_batches_tracked` that belongs to the running statistics."""
        if running_mean is None or running_mean.constant is None or self._state is None:
            return None
        for name in running_mean.constant.names:
            prefix, _, last = name.rpartition("running_mean")
            found = self._state.find(f"{prefix}num_batches_tracked")
            if not last and found is not None:
                return found
        return None


def first(result: Any) -> Any:
    """The only result of an operator that may return it in a list."""
    return result[0] if isinstance(result, list | tuple) else result


def _locate(fx_node: torch.fx.Node, node: Node) -> None:
    """Note where the node came from, as PyTorch's own tracers do."""
    if node.location != UNKNOWN:
        fx_node.meta["location"] = node.location
        fx_node.meta["stack_trace"] = stack_trace(node.location, node.op.name)


def stack_trace(location: Location, operator_name: str) -> str:
    """Return a location in the form of a Python traceback."""
    frame = f'  File "{location.file}", line {location.line}, in {location.scope or "forward"}'
    via = f"  # {' <- '.join(location.rules)}" if location.rules else ""
    return f"{frame}\n    {operator_name}{via}"
