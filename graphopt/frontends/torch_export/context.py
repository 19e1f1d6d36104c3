"""What all importers of one exported program share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from graphopt.frontends.torch_export.autocast import Autocast
from graphopt.frontends.torch_export.locations import Locations
from graphopt.frontends.torch_export.overloads import Overload, describe
from graphopt.frontends.torch_export.storage import Storage, TensorRef, View
from graphopt.frontends.torch_export.symbols import SymbolTable
from graphopt.frontends.torch_export.training import TRAINING_ATTRIBUTES, TrainingModes
from graphopt.ir import Attributes, Constant, Graph, Location, TensorType, Value, from_torch

_CUDNN_ATTRIBUTES = {
    "batch_norm": "cudnn_enabled",
    "group_norm": "cudnn_enabled",
    "instance_norm": "cudnn_enabled",
    "layer_norm": "cudnn_enable",
}


@dataclass
class Context:
    """Symbols, locations and modes of one exported program.

    tracking: whether aliases matter, that is, whether anything is written in place.
    retraced: whether the traced tensors don't show which of them share memory (a deserialized program's don't), so
        that operators which may return views run again on fake tensors.
    memory: the storage of each traced tensor's memory.
    numbers: the 0-dim tensors that symbolic floats and booleans were read from, by sympy expression.
    """

    symbols: SymbolTable
    modes: TrainingModes
    tracking: bool
    retraced: bool = False
    locations: Locations = field(default_factory=Locations)
    autocast: Autocast | None = None
    memory: dict[int, Storage] = field(default_factory=dict)
    numbers: dict[Any, Value] = field(default_factory=dict)

    def root(self, value: Value, traced: Any = None, differentiable: bool = False) -> TensorRef:
        """Return a tensor with memory of its own."""
        storage = Storage()
        self.place(traced, storage)
        return TensorRef(View(storage, value.type, value), differentiable)  # type: ignore[arg-type]

    def place(self, traced: Any, storage: Storage) -> None:
        """Record the memory of a traced tensor."""
        if self.tracking and isinstance(traced, torch.Tensor):
            self.memory[storage_key(traced)] = storage

    def shares(self, traced: torch.Tensor, view: View) -> bool:
        """True if a traced tensor is in the memory that `view` sees."""
        return self.memory.get(storage_key(traced)) is view.storage

    def constant(self, graph: Graph, name: str, tensor: torch.Tensor) -> TensorRef:
        """Store a tensor that the traced graph holds as an attribute."""
        constant = Constant(tensor, names=(name,), version=version_of(tensor))
        return self.root(graph.add_constant(name, tensor_type(tensor), constant))

    def same_memory(self, node: fx.Node, source: fx.Node) -> bool:
        """True if a node's tensor is in the memory of one of its operands."""
        operand = source.meta["val"]
        return storage_key(self.with_memory(node, node.meta["val"], 0)) == storage_key(operand)

    def with_memory(self, node: fx.Node, traced: torch.Tensor, index: int) -> torch.Tensor:
        """Return a traced result whose storage tells whether it is a view of an operand."""
        target = node.target
        if not self.retraced or not isinstance(target, OpOverload) or not describe(target).may_view:
            return traced
        args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), lambda n: n.meta["val"])
        with torch.no_grad():
            result = target(*args, **kwargs)
        return result[index] if isinstance(result, list | tuple) else result

    def settled(self, overload: Overload, attributes: Attributes, location: Location) -> Attributes:
        """Let a traced `training=False` follow the module's mode, unless the module was frozen.

        Tracing also turns cuDNN off, which says nothing of the model: on again.
        """
        if not overload.is_aten:
            return attributes
        changes: dict[str, bool | str] = {}
        training, cudnn = TRAINING_ATTRIBUTES.get(overload.base), _CUDNN_ATTRIBUTES.get(overload.base)
        if training is not None and attributes.get(training) is False:
            changes[training] = self.modes.attribute(location.scope)
        if cudnn is not None and attributes.get(cudnn) is False:
            changes[cudnn] = True
        return attributes.updated(**changes) if changes else attributes


def storage_key(traced: torch.Tensor) -> int:
    """Return what identifies the memory of a traced (fake) tensor."""
    return traced.untyped_storage()._cdata


def version_of(tensor: torch.Tensor) -> int:
    """Return a tensor's version counter, or -1 where it has none."""
    return -1 if tensor.is_inference() else tensor._version


def tensor_type(tensor: torch.Tensor) -> TensorType:
    """Return the type of a real tensor."""
    return TensorType(from_torch(tensor.dtype), tuple(tensor.shape), str(tensor.device))
