"""The interpreter: the reference semantics of a graph, node by node, on torch tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from graphopt.analysis.bindings import bind_fresh, bind_sizes
from graphopt.analysis.wide_kernels import WIDE_KERNELS
from graphopt.errors import GraphOptError, InputError
from graphopt.ir import DType, Expr, Graph, Node, TensorType, Trait, Value
from graphopt.ir.dims import evaluate
from graphopt.ops import torch_arguments

Observer = Callable[[Node, Sequence[Any]], None]

KEPT_BYTES = 1 << 25
"""Stored tensors that take more in a run are made anew for each use, so that a large model is not held twice."""

_WIDE = {DType.F16: DType.F64, DType.BF16: DType.F64, DType.F32: DType.F64, DType.C64: DType.C128}
_WIDE_TORCH = {narrow.torch: wide.torch for narrow, wide in _WIDE.items()}


class Interpreter:
    """Runs a graph.

    float64: compute every floating-point tensor in double precision (integers and bools unchanged). There rounding
        is about 1e-12, so a larger difference between two graphs is a bug in a rewrite, not rounding.
    contiguous: give every operator contiguous operands, so that a kernel's choice by layout cannot change bits.
    observer: called with each node and its results.
    differentiate: constants to take derivatives by. Autograd then records the run, and `leaf` gives the tensor that
        stands for a constant: the stored numbers, shared, but no part of the caller's autograd graph.

    >>> from graphopt.ops.text import parse
    >>> g = parse('''input %x: f32[2]
    ... %y = aten.relu(%x)
    ... return %y''')
    >>> Interpreter(g).run(torch.tensor([-1.0, 2.0]))
    [tensor([0., 2.])]
    """

    def __init__(
        self,
        graph: Graph,
        *,
        float64: bool = False,
        contiguous: bool = False,
        observer: Observer | None = None,
        differentiate: Iterable[Value] = (),
    ) -> None:
        self.graph = graph
        self.float64 = float64
        self.contiguous = contiguous
        self.observer = observer
        self._constants: dict[Value, torch.Tensor] = {}
        self._leaves: dict[Value, torch.Tensor] = {value: self._leaf(value) for value in differentiate}

    def run(self, *inputs: Any) -> list[Any]:
        """Return all returned values: the outputs, then the new values of what the graph mutates.

        Raises:
            InputError: the number or shapes of the inputs don't fit.
        """
        if len(inputs) != len(self.graph.inputs):
            raise InputError(f"the graph takes {len(self.graph.inputs)} inputs, got {len(inputs)}")
        with torch.set_grad_enabled(bool(self._leaves)):
            return self._run(self.graph, [self.widened(i) for i in inputs], bind_sizes(self.graph.inputs, inputs))

    def leaf(self, value: Value) -> torch.Tensor:
        """The leaf tensor that stands for a constant of `differentiate` in every run."""
        return self._leaves[value]

    def _leaf(self, value: Value) -> torch.Tensor:
        assert value.constant is not None
        tensor = value.constant.tensor.detach()
        if tensor.is_inference():
            tensor = tensor.clone()
        leaf = self._constants[value] = self.widened(tensor).detach().requires_grad_()
        return leaf

    def _run(self, graph: Graph, inputs: Sequence[Any], bindings: dict[str, int]) -> list[Any]:
        values: dict[Value, Any] = dict(zip(graph.inputs, inputs))
        remaining = dict.fromkeys(graph)
        last_use = _last_uses(graph)
        for node in remaining:
            operands = [None if v is None else self._value(v, values) for v in node.operands]
            results = self._evaluate(node, operands, bindings)
            if self.observer is not None:
                self.observer(node, results)
            for value, result in zip(node.results, results):
                values[value] = result
                bind_fresh(bindings, value.type, result)
            for value in last_use.get(node, ()):
                values.pop(value, None)
        return [self._value(v, values) for v in graph.returned]

    def constant(self, value: Value) -> torch.Tensor:
        """What a stored tensor is in a run: in float64, and contiguous, if the interpreter is to make it so."""
        found = self._constants.get(value)
        if found is None:
            assert value.constant is not None
            found = self.widened(value.constant.tensor.detach())
            if found.nbytes <= KEPT_BYTES:
                self._constants[value] = found
        return found

    def _value(self, value: Value, values: Mapping[Value, Any]) -> Any:
        return values[value] if value.constant is None else self.constant(value)

    def widened(self, value: Any) -> Any:
        """What an input or a result is in a run."""
        if isinstance(value, torch.Tensor):
            if self.float64 and value.dtype in _WIDE_TORCH:
                layout = torch.contiguous_format if self.contiguous else torch.preserve_format
                value = value.to(_WIDE_TORCH[value.dtype], memory_format=layout)
            if self.contiguous:
                value = _contiguous(value)
        return value

    def _evaluate(self, node: Node, operands: list[Any], bindings: dict[str, int]) -> Sequence[Any]:
        if node.op.evaluate is None:
            raise GraphOptError(f"{node.op.name} has no reference semantics (from {node.location})")
        if node.op.has(Trait.REGION):
            regions = [self._region(region, bindings) for region in node.regions]
            try:
                return tuple(node.op.evaluate(regions, *operands))
            except RuntimeError as error:
                raise GraphOptError(f"{node.op.name} failed: {error} (from {node.location})") from error
        attributes = self._attributes(node)
        if self.float64 and node.op.has(Trait.ELEMENTWISE) and _makes_floats(node):
            operands = [v.double() if isinstance(v, torch.Tensor) else v for v in operands]

        def size(expression: Expr) -> int:
            return evaluate(expression, bindings)

        args, kwargs = torch_arguments(node.op, operands, attributes, size)
        kernel = WIDE_KERNELS.get(node.op.name) if self.float64 else None
        try:
            result = self._call(node, kernel or node.op.evaluate, args, kwargs)
            results = tuple(result) if isinstance(result, list | tuple) else (result,)
            return tuple([self.widened(r) for r in results]) if self.contiguous or self.float64 else results
        except (RuntimeError, IndexError, TypeError, ValueError) as error:
            raise GraphOptError(f"{node.op.name} failed: {error} (from {node.location})") from error

    def _call(self, node: Node, kernel: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Run the kernel of a node; what measures runs does so here."""
        return kernel(*args, **kwargs)

    def _attributes(self, node: Node) -> Mapping[str, Any]:
        if not self.float64:
            return node.attributes
        wide = {k: _WIDE[v] for k, v in node.attributes.items() if isinstance(v, DType) and v in _WIDE}
        if "dtype" in node.attributes and node.attributes["dtype"] is None and _makes_floats(node):
            wide["dtype"] = DType.F64
        return node.attributes.updated(**wide) if wide else node.attributes

    def _region(self, region: Graph, bindings: dict[str, int]) -> Callable[..., list[Any]]:
        def run(*inputs: Any) -> list[Any]:
            inner = dict(bindings)
            for value, given in zip(region.inputs, inputs):
                bind_fresh(inner, value.type, given)
            return self._run(region, inputs, inner)

        return run


def _contiguous(value: torch.Tensor) -> torch.Tensor:
    """A contiguous tensor with the strides that its shape has by itself: those of dims of size 1 are free, and kernels
    look at them."""
    value = value.contiguous()
    strides, step = [], 1
    for size in reversed(value.shape):
        strides.append(step)
        step *= max(size, 1)
    strides.reverse()
    return value if value.stride() == tuple(strides) else value.as_strided(value.shape, strides)


def _makes_floats(node: Node) -> bool:
    """True if floating-point results come from none: from sizes, integers or bools, as PyTorch's default dtype."""
    return _is_floating(node.results[0]) and not any(map(_is_floating, node.inputs))


def _is_floating(value: Value) -> bool:
    return isinstance(value.type, TensorType) and (value.type.dtype.is_floating or value.type.dtype.is_complex)


def _last_uses(graph: Graph) -> dict[Node, list[Value]]:
    """For each node, the values that nothing after it uses."""
    last: dict[Value, Node] = {}
    for node in graph:
        for value in node.results:
            last[value] = node
        for value in node.inputs:
            if value.constant is None:
                last[value] = node
    for value in graph.returned:
        last.pop(value, None)
    by_node: dict[Node, list[Value]] = {}
    for value, node in last.items():
        by_node.setdefault(node, []).append(value)
    return by_node


def watch_values(graph: Graph, sets: Iterable[Sequence[Any]], take: Callable[[Value, Any], None]) -> None:
    """Run a graph on sets of inputs, and show each value with what it is: the inputs first, results as they are made.

    >>> from graphopt.ops import parse
    >>> graph = parse('''input %x: f32[2]
    ... %y: f32[2] = aten.neg(%x)
    ... return %y''')
    >>> watch_values(graph, [[torch.ones(2)]], lambda value, tensor: print(value.name, tensor.tolist()))
    x [1.0, 1.0]
    y [-1.0, -1.0]
    """

    def observe(node: Node, results: Sequence[Any]) -> None:
        for value, result in zip(node.results, results):
            take(value, result)

    interpreter = Interpreter(graph, observer=observe)
    for inputs in sets:
        for value, given in zip(graph.inputs, inputs):
            take(value, given)
        interpreter.run(*inputs)


def run_graph(graph: Graph, *inputs: Any, float64: bool = False) -> list[Any]:
    """Run a graph once. See `Interpreter`."""
    return Interpreter(graph, float64=float64).run(*inputs)
