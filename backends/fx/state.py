"""Parameters and buffers: each tensor copied once, registered under every name that the model gave it."""

from __future__ import annotations

from typing import Any

import torch

from graphopt.backends.fx.names import attribute_path
from graphopt.errors import EmissionError
from graphopt.ir import Constant, ConstantKind, Graph, Value, walk
from graphopt.ir.storage import copied


class State:
    """Registers constants in nested plain modules under `root`, and says where each one is.

    Names at the root that `torch.fx.GraphModule` itself uses (`graph`, `code`, `meta`, …) get a trailing `_`.

    names: the attribute path under which each qualified name of the model ended up.
    """

    def __init__(self, root: torch.nn.Module, graph: Graph, *, share: bool) -> None:
        self._root = root
        self._share = share
        self._tensors: dict[tuple[int, bool], torch.Tensor] = {}
        self._paths: dict[Value, str] = {}
        self._by_name: dict[str, Value] = {}
        self.names: dict[str, str] = {}
        for value in graph.constants.values():
            self.path(value)

    def path(self, value: Value) -> str:
        """Return the attribute path of a constant (one of a region is registered now)."""
        if value not in self._paths:
            self._paths[value] = self._register(value)
        return self._paths[value]

    def tensor(self, value: Value) -> torch.Tensor:
        """Return the module's own tensor for a constant."""
        assert value.constant is not None
        return self._tensor(value.constant)

    def find(self, name: str) -> Value | None:
        """Return the constant with a qualified name of the model, or None."""
        return self._by_name.get(name)

    def _register(self, value: Value) -> str:
        constant = value.constant
        assert constant is not None
        tensor = self._tensor(constant)
        names = constant.names or (value.name,)
        for name in names:
            self._by_name.setdefault(name, value)
        # A folded constant is part of the code: the original's state_dict has no such entry.
        persistent = constant.persistent and constant.kind is not ConstantKind.CONSTANT
        paths = {name: self._place(name, tensor, persistent) for name in dict.fromkeys(names)}
        for name, path in paths.items():
            self.names.setdefault(name, path)
        return paths[names[0]]

    def _tensor(self, constant: Constant) -> torch.Tensor:
        """The module's own tensor for a constant; one for all constants that hold the same tensor."""
        is_parameter = constant.kind is ConstantKind.PARAMETER
        key = (id(constant.tensor), is_parameter)
        if key not in self._tensors:
            with torch.inference_mode(False), torch.no_grad():
                self._tensors[key] = self._copy(constant, is_parameter)
        return self._tensors[key]

    def _copy(self, constant: Constant, is_parameter: bool) -> torch.Tensor:
        tensor = constant.tensor.detach()
        tensor = tensor if self._share else copied(tensor)
        requires_grad = constant.requires_grad and (tensor.is_floating_point() or tensor.is_complex())
        if is_parameter:
            return torch.nn.Parameter(tensor, requires_grad=requires_grad)
        return tensor.requires_grad_(requires_grad)

    def _place(self, name: str, tensor: torch.Tensor, persistent: bool) -> str:
        *containers, leaf = attribute_path(name)
        module = self._root
        path = []
        for part in containers:
            part, module = _container(module, part)
            path.append(part)
        leaf = _free_name(module, leaf, tensor)
        if isinstance(tensor, torch.nn.Parameter):
            module.register_parameter(leaf, tensor)
        else:
            module.register_buffer(leaf, tensor, persistent=persistent)
        return ".".join([*path, leaf])


def install(root: torch.nn.Module, path: str, leaf: torch.nn.Module) -> str:
    """Put a leaf module at `path`, keeping what a plain container there holds; return the path it got."""
    *containers, name = path.split(".")
    module = root
    taken = []
    for part in containers:
        part, module = _container(module, part)
        taken.append(part)
    present = module._modules.get(name)
    if present is not None and type(present) is torch.nn.Module:
        leaf._parameters.update(present._parameters)
        leaf._buffers.update(present._buffers)
        leaf._modules.update(present._modules)
        leaf._non_persistent_buffers_set |= present._non_persistent_buffers_set
        module._modules[name] = leaf
    else:
        name = _free_name(module, name, None)
        module.add_module(name, leaf)
    return ".".join([*taken, name])


def check_unchanged(graph: Graph) -> None:
    """Refuse tensors that were modified in place since capture.

    Raises:
        EmissionError: names the tensors.
    """
    graphs = [graph, *(region for node in walk(graph) for region in node.regions)]
    changed = [v.name for g in graphs for v in g.constants.values() if v.constant is not None and v.constant.changed]
    if changed:
        raise EmissionError(
            f"modified in place since the model was captured: {', '.join(changed)}; capture the model again"
        )


def _container(module: torch.nn.Module, name: str) -> tuple[str, torch.nn.Module]:
    """The submodule `name`, made if needed."""
    while True:
        child = module._modules.get(name)
        if child is not None:
            return name, child
        if not _is_taken(module, name):
            child = torch.nn.Module()
            module._modules[name] = child
            return name, child
        name += "_"


def _free_name(module: torch.nn.Module, name: str, tensor: torch.Tensor | None) -> str:
    """`name`, with underscores added while something else has it."""
    while _is_taken(module, name):
        present: Any = module._parameters.get(name, module._buffers.get(name))
        if tensor is not None and present is tensor:
            return name
        name += "_"
    return name


def _is_taken(module: torch.nn.Module, name: str) -> bool:
    return hasattr(module, name)
