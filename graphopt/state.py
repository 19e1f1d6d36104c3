"""Parameters and buffers as a tree of plain modules, and modules that share them."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from graphopt.errors import GraphOptError
from graphopt.ir import Graph, TensorType, Value
from graphopt.ir.value import Constant


class State(nn.Module):
    """Copies of a model's parameters and buffers under their names; ties and flags kept.

    share: hold the model's own tensors. names: the path of each here by its name in the model, where they differ.
    """

    def __init__(self, model: nn.Module, *, share: bool, names: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.names = names
        made: dict[int, torch.Tensor] = {}
        for prefix, module in model.named_modules(remove_duplicate=False):
            mine = _descend(self, prefix)
            for name, parameter in module._parameters.items():
                mine._parameters[name] = _own(parameter, made, share)  # type: ignore[assignment]
            for name, buffer in module._buffers.items():
                mine._buffers[name] = _own(buffer, made, share)
            mine._non_persistent_buffers_set |= module._non_persistent_buffers_set

    def tensors(self) -> dict[str, torch.Tensor]:
        """The parameters and buffers under all their names."""
        own = named_tensors(self)
        return own if self.names is None else {name: own[path] for name, path in self.names.items()}


def named_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the parameters and buffers of a module under all their names."""
    tensors: dict[str, torch.Tensor] = dict(module.named_parameters(remove_duplicate=False))
    tensors.update(module.named_buffers(remove_duplicate=False))
    return tensors


def adopt_tables(module: nn.Module, source: nn.Module) -> None:
    """Let `module` have the parameters, buffers and submodules of `source` as its own: the same tables, not copies."""
    for table in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
        module.__dict__[table] = source.__dict__[table]


def adopt_state(graph: Graph, tensors: Mapping[str, torch.Tensor]) -> None:
    """Let the stored tensors of a graph be those of `tensors` under the same names."""
    for value in graph.constants.values():
        constant = value.constant
        assert constant is not None
        found = next((tensors[name] for name in constant.names if name in tensors), None)
        if found is not None:
            value.constant = with_tensor(value, constant, found)


def with_tensor(value: Value, constant: Constant, tensor: torch.Tensor) -> Constant:
    """Return a constant with the present content of a module's tensor.

    Raises:
        GraphOptError: the tensor was converted, so that it no longer has the type that the graph was compiled for.
    """
    type_ = value.type
    assert isinstance(type_, TensorType)
    if tensor.dtype is not type_.dtype.storage or tuple(tensor.shape) != type_.shape:
        raise GraphOptError(
            f"{constant.kind.value} {value.name!r} is {tensor.dtype} of shape {list(tensor.shape)} now, but the graph "
            f"was compiled for {type_!r}; convert the original model and compile that"
        )
    detached = tensor.detach()
    version = -1 if detached.is_inference() else detached._version
    return replace(constant, tensor=detached, requires_grad=tensor.requires_grad, version=version)


def share_state(module: torch.fx.GraphModule, state: State) -> None:
    """Put the very tensors of `state` into a module that was emitted with shared weights.

    Only where the module's tensor is the state's own memory: a pass may have stored another under the same name.
    """
    names = module.meta["names"]
    for name, tensor in state.tensors().items():
        if name not in names:
            continue
        container, _, leaf = names[name].rpartition(".")
        owner = module.get_submodule(container)
        for table in (owner._parameters, owner._buffers):
            present = table.get(leaf)
            if present is not None and _same_memory(present, tensor):
                table[leaf] = tensor  # type: ignore[assignment]


class Watch:
    """Notices that a model was changed in place since a graph was captured from it, also where passes folded weights.

    Tensors are held weakly: a compiled model does not keep what it no longer needs.
    """

    def __init__(self, graph: Graph) -> None:
        constants = [v.constant for v in graph.constants.values() if v.constant is not None and v.constant.version >= 0]
        self._tensors = [(weakref.ref(c.tensor), c.version) for c in constants if not c.tensor.is_inference()]

    @property
    def changed(self) -> bool:
        """True if a tensor that is still alive was modified."""
        return any((t := ref()) is not None and t._version != version for ref, version in self._tensors)


def stale_names(graph: Graph) -> list[str]:
    """The stored tensors that were modified in place since the graph was captured."""
    return [n for n, v in graph.constants.items() if v.constant is not None and v.constant.changed]


def _same_memory(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype is b.dtype and a.shape == b.shape and a.stride() == b.stride() and a.data_ptr() == b.data_ptr()


def _descend(root: nn.Module, prefix: str) -> nn.Module:
    module = root
    for part in prefix.split(".") if prefix else ():
        if part not in module._modules:
            module._modules[part] = nn.Module()
        child = module._modules[part]
        assert child is not None
        module = child
    return module


def _own(tensor: torch.Tensor | None, made: dict[int, torch.Tensor], share: bool) -> torch.Tensor | None:
    if tensor is None or share:
        return tensor
    if id(tensor) not in made:
        with torch.inference_mode(False), torch.no_grad():
            copy = tensor.detach().clone()
            if isinstance(tensor, nn.Parameter):
                copy = nn.Parameter(copy, requires_grad=tensor.requires_grad)
            else:
                copy.requires_grad_(tensor.requires_grad)
        made[id(tensor)] = copy
    return made[id(tensor)]
