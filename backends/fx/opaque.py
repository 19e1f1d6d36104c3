"""Nodes of the `onnx` dialect in an FX module: neighbours become one module, which runs them outside of PyTorch.

A group is a stretch of opaque nodes: it ends where another node uses one of its results. So the nodes of a group depend
on nothing that depends on the group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from graphopt.errors import GraphOptError
from graphopt.ir import ConstantKind, Node, Value, new_symbols
from graphopt.ops.onnx_dialect import CAPTURED, OUTPUTS, counted, imports_of, node_proto
from graphopt.ops.onnx_nested import rename, unique
from graphopt.ops.onnx_runtime import OnnxProgram, make_model
from graphopt.ops.onnx_values import kind_text, to_numpy, told_by_value, type_to_proto

BAKED = 4096
"""Constants of at most so many elements that are no parameters become a part of the module."""


class OpaqueNodes(torch.nn.Module):
    """Runs ONNX nodes by ONNX Runtime, or else by onnx's reference evaluator; loaded at the first call.

    There is no gradient: asking for one by the results raises. operators: the names, for messages.
    """

    def __init__(self, program: OnnxProgram, operators: str) -> None:
        super().__init__()
        self.program = program
        self.operators = operators

    def forward(self, *inputs: Any) -> tuple[Any, ...]:
        """Run on the values that the nodes take from outside; return those that others take from them, on the device
        of the first.

        Raises:
            GraphOptError: neither library can run the nodes.
        """
        try:
            results = self.program.run(inputs)
        except GraphOptError as error:
            raise GraphOptError(f"cannot run {self.operators}: {error}") from error
        device = next((x.device for x in inputs if isinstance(x, torch.Tensor)), torch.device("cpu"))
        results = [r.to(device) if isinstance(r, torch.Tensor) else r for r in results]
        tracked = next((x for x in inputs if isinstance(x, torch.Tensor) and x.requires_grad), None)
        if tracked is None or not torch.is_grad_enabled():
            return tuple(results)
        return tuple([_without_gradient(result, tracked, self.operators) for result in results])

    def extra_repr(self) -> str:
        """The operators."""
        return self.operators


class _Barrier(torch.autograd.Function):
    """y = x, of which no derivative is known."""

    @staticmethod
    def forward(ctx: Any, result: torch.Tensor, tracked: torch.Tensor, operators: str) -> torch.Tensor:
        ctx.operators = operators
        return result.view_as(result)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise GraphOptError(
            f"no gradient goes through {ctx.operators}, which PyTorch has no operators for; freeze what comes before, "
            "or detach the result"
        )


def _without_gradient(result: Any, tracked: torch.Tensor, operators: str) -> Any:
    if not isinstance(result, torch.Tensor) or not (result.is_floating_point() or result.is_complex()):
        return result
    return _Barrier.apply(result, tracked, operators)


class Group:
    """The opaque nodes that wait for being emitted."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._results: set[Value] = set()
        self._symbols: set[str] = set()
        self._imports: dict[str, int] = {}

    def takes(self, node: Node) -> bool:
        """True if a node may join: no other one means another version of a domain."""
        own = imports_of(node.op.name, node.attributes)
        return all(self._imports.get(domain, version) == version for domain, version in own.items())

    def add(self, node: Node) -> None:
        """Let a node join."""
        self.nodes.append(node)
        self._results.update(node.results)
        self._symbols.update(symbol.name for symbol in new_symbols(node))
        self._imports.update(imports_of(node.op.name, node.attributes))

    def is_used_by(self, node: Node) -> bool:
        """True if a node needs what the group makes: results, or sizes that they have."""
        if not self.nodes:
            return False
        if any(value in self._results for value in node.inputs):
            return True
        mentioned = any(symbol.name in self._symbols for symbol in node.attributes.symbols)
        return mentioned or (bool(self._symbols) and bool(node.regions))

    def outputs(self, is_needed: Callable[[Value], bool]) -> list[Value]:
        """The results that other nodes, or the graph's outputs, take from the group, and those that are needed besides:
        for a size that they have."""
        inside = set(self.nodes)
        results = [value for node in self.nodes for value in node.results]
        return [v for v in results if is_needed(v) or any(use.node not in inside for use in v.uses)]

    def module(self, outputs: Sequence[Value], fixed: Callable[[Value], bool]) -> tuple[OpaqueNodes, list[Value]]:
        """Return the module, and the values that it takes. It gives `outputs`.

        fixed: says of a constant whether its contents never change.
        """
        builder = _ModelBuilder(fixed)
        for node in self.nodes:
            builder.add(node)
        return OpaqueNodes(builder.program(outputs, self._imports), counted(self.nodes)), builder.inputs


class _ModelBuilder:
    """Makes one ONNX model of several nodes."""

    def __init__(self, fixed: Callable[[Value], bool]) -> None:
        self.inputs: list[Value] = []
        self._fixed = fixed
        self._names: dict[Value, str] = {}
        self._baked: list[Value] = []
        self._nodes: list[Any] = []
        self._fresh = unique(set())

    def add(self, node: Node) -> None:
        captured = node.attributes.get(CAPTURED, ())
        count = len(node.operands) - len(captured)
        names = ["" if value is None else self._name(value) for value in node.operands]
        positions = node.attr(OUTPUTS)
        for value in node.results:
            self._names[value] = self._fresh(f"v{len(self._names)}")
        outputs = [self._names[value] for value in node.results]
        proto = node_proto(node.op.name, names[:count], outputs, dict(node.attributes), positions)
        rename(proto, dict(zip(captured, names[count:])), self._fresh)
        self._nodes.append(proto)

    def program(self, outputs: Sequence[Value], imports: dict[str, int]) -> OnnxProgram:
        from onnx import numpy_helper

        model = make_model(self._nodes, [self._info(v) for v in self.inputs], [self._info(v) for v in outputs], imports)
        shown = {*self.inputs, *outputs, *self._baked}
        model.graph.value_info.extend([self._info(v) for v in self._names if v not in shown])
        for value in self._baked:
            assert value.constant is not None
            array = to_numpy(value.constant.tensor, value.type)
            model.graph.initializer.append(numpy_helper.from_array(array, self._names[value]))
        kinds = ["" if told_by_value(v.type) else kind_text(v.type) for v in self.inputs]
        return OnnxProgram(model.SerializeToString(deterministic=True), kinds)

    def _name(self, value: Value) -> str:
        if value not in self._names:
            self._names[value] = self._fresh(f"v{len(self._names)}")
            (self._baked if self._is_baked(value) else self.inputs).append(value)
        return self._names[value]

    def _is_baked(self, value: Value) -> bool:
        constant = value.constant
        if constant is None or constant.kind is ConstantKind.PARAMETER or not self._fixed(value):
            return False
        return constant.tensor.numel() <= BAKED

    def _info(self, value: Value) -> Any:
        from onnx import ValueInfoProto

        info = ValueInfoProto(name=self._names[value])
        info.type.CopyFrom(type_to_proto(value.type))
        return info
