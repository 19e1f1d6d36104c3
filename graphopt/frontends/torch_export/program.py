"""An exported program into a graph: inputs, stored tensors, outputs, updates and the calling convention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    ConstantArgument,
    CustomObjArgument,
    InputKind,
    InputSpec,
    OutputKind,
    SymBoolArgument,
    SymFloatArgument,
    TokenArgument,
)

from graphopt.errors import CaptureError
from graphopt.frontends.torch_export import higher_order, mutation, normal_forms
from graphopt.frontends.torch_export.calls import leaf_names
from graphopt.frontends.torch_export.context import Context, storage_key, tensor_type, version_of
from graphopt.frontends.torch_export.importer import Importer
from graphopt.frontends.torch_export.mutation import IMPLICIT_WRITES
from graphopt.frontends.torch_export.storage import TensorRef
from graphopt.frontends.torch_export.symbols import SymbolTable, divisors_in
from graphopt.frontends.torch_export.training import TrainingModes
from graphopt.ir import Constant, ConstantKind, Expr, Graph, Literal, ScalarKind, ScalarType, Signature, Slot, Value
from graphopt.ir.signature import Leaf

_ALWAYS_VIEWS = {"view", "permute", "transpose", "t", "select", "slice", "unsqueeze", "squeeze", "expand", "detach"}

_KINDS = {
    InputKind.PARAMETER: ConstantKind.PARAMETER,
    InputKind.BUFFER: ConstantKind.BUFFER,
    InputKind.CONSTANT_TENSOR: ConstantKind.CONSTANT,
}

__all__ = ["higher_order", "import_program", "mutation", "normal_forms"]


def import_program(
    program: ExportedProgram,
    *,
    modes: TrainingModes | None = None,
    symbol_names: Mapping[str, str] | None = None,
    exact: frozenset[str] = frozenset(),
    tensors: Mapping[str, torch.Tensor] | None = None,
    aliases: Mapping[int, tuple[str, ...]] | None = None,
    name: str = "main",
) -> Graph:
    """Turn an exported program into a graph.

    modes: the model's training flags before capture. symbol_names: the user's names of sympy symbols.
    tensors: the caller's parameters and buffers by name. aliases: all names of a tensor, by its id.
    """
    traced = [node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"]
    symbols = SymbolTable(program.range_constraints, symbol_names, exact, divisors_in(traced))
    tracking = _writes(program)
    retraced = tracking and not _shows_memory(program)
    context = Context(symbols, modes or TrainingModes(), tracking, retraced)
    graph = Graph(name)
    stored = _Stored(program, graph, tensors or {}, aliases or {})
    return _ProgramImport(program, graph, context, stored).run()


def _operators(program: ExportedProgram) -> Iterator[tuple[fx.Node, OpOverload]]:
    for module in program.graph_module.modules():
        for node in module.graph.nodes:
            if isinstance(node.target, OpOverload):
                yield node, node.target


def _writes(program: ExportedProgram) -> bool:
    """True if anything in the program is written in place."""
    return any(
        target._schema.is_mutable
        or target._opname in IMPLICIT_WRITES
        or (target._opname == "batch_norm" and node.args[5])
        for node, target in _operators(program)
    )


def _shows_memory(program: ExportedProgram) -> bool:
    """True if some view among the traced tensors shares the memory of what it views."""
    for node, target in _operators(program):
        if target._opname in _ALWAYS_VIEWS and node.args and isinstance(node.args[0], fx.Node):
            base, view = node.args[0].meta.get("val"), node.meta.get("val")
            if isinstance(base, torch.Tensor) and isinstance(view, torch.Tensor):
                return storage_key(base) == storage_key(view)
    return False


@dataclass
class _Stored:
    """The parameters, buffers and constants of a program, each tensor stored once."""

    program: ExportedProgram
    graph: Graph
    tensors: Mapping[str, torch.Tensor]
    aliases: Mapping[int, tuple[str, ...]]
    values: dict[Any, Value] = field(default_factory=dict)

    def add(self, spec: InputSpec) -> Value:
        """Store the tensor of an input spec, or return the value that stores it already (tied weights)."""
        target = spec.target
        assert target is not None
        tensor = self.tensors.get(target)
        if tensor is None:
            tensor = self._lookup(target)
        key = _identity(tensor)
        value = self.values.get(key)
        if value is None:
            value = self.values[key] = self._add(spec, target, tensor)
        return value

    def _lookup(self, target: str) -> torch.Tensor:
        found = self.program.state_dict.get(target)
        if found is None:
            found = self.program.constants.get(target)
        if not isinstance(found, torch.Tensor):
            raise CaptureError(f"the program has no tensor for {target!r}")
        return found

    def _add(self, spec: InputSpec, target: str, tensor: torch.Tensor) -> Value:
        names = self.aliases.get(id(tensor)) or (target,)
        constant = Constant(
            tensor,
            _KINDS[spec.kind],
            names,
            tensor.requires_grad,
            spec.persistent is not False,
            version_of(tensor),
        )
        return self.graph.add_constant(self._free_name(target), tensor_type(tensor), constant)

    def _free_name(self, target: str) -> str:
        taken = {value.name for value in self.graph.inputs}
        while target in taken:
            target += "_"
        return target


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr() or id(tensor)


def _identity(tensor: torch.Tensor) -> Any:
    if tensor.numel() == 0:
        return id(tensor)
    return (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride(), str(tensor.device))


class _ProgramImport:
    def __init__(self, program: ExportedProgram, graph: Graph, context: Context, stored: _Stored) -> None:
        self.program = program
        self.graph = graph
        self.context = context
        self.stored = stored
        self.roots: list[TensorRef] = []
        self.targets: list[tuple[str, TensorRef]] = []
        self.leaves: list[Leaf] = []
        self.names: dict[str, str] = {}

    def run(self) -> Graph:
        arguments = self._arguments()
        importer = Importer(self.graph, self.context)
        returned = importer.run(self.program.graph_module, arguments)
        outputs, leaves, updates = self._outputs(importer, returned)
        self._drop_unused(outputs, updates)
        self.graph.set_outputs(outputs, updates)
        self.graph.signature = self._signature(tuple(leaves))
        return self.graph

    # Inputs

    def _arguments(self) -> list[Any]:
        specs = self.program.graph_signature.input_specs
        placeholders = [n for n in self.program.graph_module.graph.nodes if n.op == "placeholder"]
        arguments: list[Any] = [None] * len(specs)
        order = sorted(range(len(specs)), key=lambda i: specs[i].kind is not InputKind.USER_INPUT)
        for i in order:
            arguments[i] = self._argument(specs[i], placeholders[i].meta.get("val"))
        return arguments

    def _argument(self, spec: InputSpec, traced: Any) -> Any:
        if spec.kind is InputKind.USER_INPUT:
            return self._input(spec, traced)
        if spec.kind not in _KINDS:
            raise CaptureError(f"inputs of kind {spec.kind.name} ({spec.target}) are not supported")
        value = self.stored.add(spec)
        assert value.constant is not None
        ref = self.context.root(value, traced, value.constant.requires_grad)
        self.targets.append((value.name, TensorRef(ref.view)))
        assert spec.target is not None
        self.names[spec.target] = value.name
        return ref

    def _input(self, spec: InputSpec, traced: Any) -> Any:
        argument = spec.arg
        if isinstance(argument, ConstantArgument):
            self.leaves.append(Literal(argument.value))
            return argument.value
        if isinstance(argument, CustomObjArgument | TokenArgument):
            raise CaptureError(f"the input {argument.name!r} has the unsupported type {type(argument).__name__}")
        value = self.graph.add_input(argument.name, self.context.symbols.type_of(traced))
        self.leaves.append(Slot(len(self.graph.inputs) - 1))
        if isinstance(traced, torch.Tensor):
            ref = self.context.root(value, traced)
            self.targets.append((value.name, TensorRef(ref.view)))
            return ref
        if isinstance(traced, torch.SymInt):
            return self.context.symbols.dim(traced)
        raise CaptureError(f"the input {argument.name!r} is a dynamic {type(traced).__name__}; pass it as a tensor")

    # Outputs

    def _outputs(self, importer: Importer, returned: Any) -> tuple[list[Value], list[Leaf], dict[str, Value]]:
        outputs: list[Value] = []
        leaves: list[Leaf] = []
        updates = {name: ref.read() for name, ref in self.targets if ref.view.storage.version > 0}
        for spec, item in zip(self.program.graph_signature.output_specs, returned):
            if spec.kind is OutputKind.USER_OUTPUT:
                leaves.append(self._leaf(importer, spec.arg, item, outputs))
            elif spec.kind in (OutputKind.BUFFER_MUTATION, OutputKind.USER_INPUT_MUTATION):
                assert spec.target is not None
                updates[self.names.get(spec.target, spec.target)] = item.read()
            else:
                raise CaptureError(f"outputs of kind {spec.kind.name} are not supported")
        self._check_updates(updates)
        return outputs, leaves, updates

    def _check_updates(self, updates: Mapping[str, Value]) -> None:
        """Refuse to update one of several stored tensors that share memory: the others would keep old values."""
        constants = self.graph.constants
        memory = {name: _memory(value.constant.tensor) for name, value in constants.items() if value.constant}
        for name in updates:
            shared = [other for other in memory if other != name and memory.get(name) == memory[other]]
            if name in memory and shared:
                raise CaptureError(
                    f"the model updates {name!r}, which shares memory with {shared[0]!r}; make one a copy of the other"
                )

    def _leaf(self, importer: Importer, argument: Any, item: Any, outputs: list[Value]) -> Leaf:
        if isinstance(argument, SymFloatArgument | SymBoolArgument) and not isinstance(item, bool | float):
            kind = ScalarKind.FLOAT if isinstance(argument, SymFloatArgument) else ScalarKind.BOOL
            outputs.append(importer.builder.one("aten.item", importer.as_argument(item), type=ScalarType(kind)))
        elif isinstance(item, TensorRef):
            outputs.append(item.read())
        elif isinstance(item, Expr):
            outputs.append(importer.builder.size(item))
        else:
            return Literal(item)
        return Slot(len(outputs) - 1)

    def _drop_unused(self, outputs: list[Value], updates: dict[str, Value]) -> None:
        """Drop tensors that tracing lifted and nothing uses. Unused parameters and buffers are part of the state."""
        kept = {*outputs, *updates.values(), *(self.graph.constants[n] for n in updates if n in self.graph.constants)}
        for name, value in list(self.graph.constants.items()):
            assert value.constant is not None
            if value.constant.kind is ConstantKind.CONSTANT and not value.num_uses and value not in kept:
                del self.graph.constants[name]

    def _signature(self, out_leaves: tuple[Leaf, ...]) -> Signature:
        spec = self.program.call_spec
        entry = self.program.module_call_graph[0].signature
        parameters = (entry.forward_arg_names if entry is not None else None) or ()
        names = leaf_names(spec.in_spec, parameters)
        return Signature(spec.in_spec, spec.out_spec, tuple(self.leaves), out_leaves, names)
