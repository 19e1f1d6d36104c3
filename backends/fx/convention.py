"""The calling convention: how arguments become the graph's inputs, and its outputs the caller's result."""

from __future__ import annotations

import copy
import inspect
import operator
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.fx.graph import CodeGen, _PyTreeCodeGen, _PyTreeInfo

from graphopt.backends.fx.names import identifier, parameter_names
from graphopt.errors import EmissionError
from graphopt.ir import Graph, Literal, Signature, Slot
from graphopt.ir.signature import Leaf

_PLAIN_LITERALS = (type(None), bool, int, float, str)


class Convention(Protocol):
    """Declares the placeholders and the output of an FX graph."""

    def inputs(self, fx_graph: torch.fx.Graph) -> list[torch.fx.Node]:
        """Declare the arguments; return the nodes of the graph's inputs, in order."""
        ...

    def output(self, fx_graph: torch.fx.Graph, outputs: Sequence[torch.fx.Node]) -> None:
        """Return `outputs` to the caller."""
        ...


def convention_of(graph: Graph, *, flat: bool) -> Convention:
    """Return the convention of the graph's signature, or the flat one."""
    signature = graph.signature
    if flat or signature is None:
        return _Flat(graph, unwrap=not flat)
    if _is_plain(signature.in_tree):
        return _Named(graph, signature)
    return _Flattened(graph, signature)


class _Flat:
    """The inputs one by one; a tuple of the outputs, or (`unwrap`) the only output itself."""

    def __init__(self, graph: Graph, *, unwrap: bool) -> None:
        self._names = [value.name for value in graph.inputs]
        self._unwrap = unwrap

    def inputs(self, fx_graph: torch.fx.Graph) -> list[torch.fx.Node]:
        return [fx_graph.placeholder(name) for name in parameter_names(self._names)]

    def output(self, fx_graph: torch.fx.Graph, outputs: Sequence[torch.fx.Node]) -> None:
        fx_graph.output(outputs[0] if self._unwrap and len(outputs) == 1 else tuple(outputs))


@dataclass(slots=True)
class _Argument:
    """One argument of the caller: its pytree, the leaves of that, and its default value."""

    name: str
    tree: Any
    leaves: list[Leaf]
    default: Any = inspect.Parameter.empty

    @property
    def is_fixed(self) -> bool:
        return self.tree.is_leaf() and isinstance(self.leaves[0], Literal)


class _Named:
    """Arguments by name; items of tuples, lists and dicts are taken out one by one."""

    def __init__(self, graph: Graph, signature: Signature) -> None:
        self._graph = graph
        self._signature = signature

    def inputs(self, fx_graph: torch.fx.Graph) -> list[torch.fx.Node]:
        found: dict[int, torch.fx.Node] = {}
        arguments = self._arguments()
        nodes = [fx_graph.placeholder(a.name, default_value=a.default) for a in arguments]
        for argument, node in zip(arguments, nodes):
            _unpack(fx_graph, node, argument.tree, iter(argument.leaves), found)
        return _in_order(self._graph, found)

    def output(self, fx_graph: torch.fx.Graph, outputs: Sequence[torch.fx.Node]) -> None:
        leaves = _output_leaves(self._signature, outputs)
        if _is_plain(self._signature.out_tree):
            fx_graph.output(_nest(self._signature.out_tree, iter(leaves)))
        else:
            fx_graph.set_codegen(_UnflattenOutput(self._signature.out_tree))
            fx_graph.output(leaves)

    def _arguments(self) -> list[_Argument]:
        """The arguments in the order of the signature; keywords that are fixed come last, with their defaults."""
        leaves = iter(zip(self._signature.in_leaves, _leaf_names(self._signature)))
        positional, keywords = self._signature.in_tree.children()
        arguments: list[_Argument] = []
        fixed: list[_Argument] = []
        for index, tree in enumerate(positional.children()):
            own = [next(leaves) for _ in range(tree.num_leaves)]
            name = _argument_name(own[0][1] if own else "", f"arg{index}")
            arguments.append(_Argument(name, tree, [leaf for leaf, _ in own]))
        for key, tree in zip(keywords.context, keywords.children()):
            argument = _Argument(key, tree, [next(leaves)[0] for _ in range(tree.num_leaves)])
            (fixed if argument.is_fixed else arguments).append(argument)
        return _with_defaults([*arguments, *fixed])


class _Flattened:
    """Arguments flattened by PyTorch's pytree, for containers of other types than tuple, list and dict."""

    def __init__(self, graph: Graph, signature: Signature) -> None:
        self._graph = graph
        self._signature = signature

    def inputs(self, fx_graph: torch.fx.Graph) -> list[torch.fx.Node]:
        signature = self._signature
        positional, keywords = signature.in_tree.children()
        names = parameter_names([*self._positional_names(positional), *keywords.context])
        fx_graph.set_codegen(_PyTree(_PyTreeInfo(names, signature.in_tree, signature.out_tree)))
        found: dict[int, torch.fx.Node] = {}
        leaf_names = parameter_names(_leaf_names(signature), taken=names)
        for leaf, name in zip(signature.in_leaves, leaf_names):
            node = fx_graph.placeholder(name)
            if isinstance(leaf, Slot):
                found[leaf.index] = node
        return _in_order(self._graph, found)

    def output(self, fx_graph: torch.fx.Graph, outputs: Sequence[torch.fx.Node]) -> None:
        fx_graph.output(_output_leaves(self._signature, outputs))

    def _positional_names(self, positional: Any) -> Iterator[str]:
        leaf_names = iter(_leaf_names(self._signature))
        for index, tree in enumerate(positional.children()):
            own = [next(leaf_names) for _ in range(tree.num_leaves)]
            yield _argument_name(own[0] if own else "", f"arg{index}")


class _PyTree(_PyTreeCodeGen):
    """Flattens arguments and unflattens the result. Copies share the tree specs, which are immutable."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _PyTree:
        return copy.copy(self)


class _UnflattenOutput(_PyTree):
    """Arguments as they are, and the result put together by `pytree.tree_unflatten`."""

    def __init__(self, out_tree: Any) -> None:
        super().__init__(_PyTreeInfo([], None, out_tree))  # type: ignore[arg-type]

    def process_inputs(self, *inputs: Any) -> Any:
        return inputs

    def gen_fn_def(self, free_vars: list[str], maybe_return_annotation: str, **options: Any) -> str:
        return CodeGen.gen_fn_def(self, free_vars, maybe_return_annotation, **options)


def _is_plain(tree: Any) -> bool:
    """True if the tree is made of tuples, lists and dicts with names as keys."""
    if tree.is_leaf():
        return True
    if tree.type is dict and not all(isinstance(key, str | int) for key in tree.context):
        return False
    return tree.type in (tuple, list, dict) and all(map(_is_plain, tree.children()))


def _leaf_names(signature: Signature) -> list[str]:
    missing = len(signature.in_leaves) - len(signature.in_names)
    return [*signature.in_names, *(f"input{i}" for i in range(missing))]


def _argument_name(leaf_name: str, otherwise: str) -> str:
    """The argument that a leaf such as `batch['mask']` is a part of; `args[0]` has no name of its own."""
    found = re.match(r"[^\W\d]\w*", leaf_name)
    return otherwise if found is None or leaf_name.startswith("args[") else found[0]


def _with_defaults(arguments: list[_Argument]) -> list[_Argument]:
    """Give the last arguments their literals as defaults, as far as Python's order allows, and all distinct names."""
    for argument in reversed(arguments):
        if not argument.is_fixed or not isinstance(argument.leaves[0].value, _PLAIN_LITERALS):  # type: ignore[union-attr]
            break
        argument.default = argument.leaves[0].value  # type: ignore[union-attr]
    for argument, name in zip(arguments, parameter_names(a.name for a in arguments)):
        argument.name = name
    return arguments


def _unpack(
    fx_graph: torch.fx.Graph,
    node: torch.fx.Node,
    tree: Any,
    leaves: Iterator[Leaf],
    found: dict[int, torch.fx.Node],
) -> None:
    """Record the node of each slot below `node`; items that no slot needs are not taken out."""
    if tree.is_leaf():
        leaf = next(leaves)
        if isinstance(leaf, Slot):
            found[leaf.index] = node
        return
    keys = tree.context if tree.type is dict else range(tree.num_children)
    for key, child in zip(keys, tree.children()):
        own = [next(leaves) for _ in range(child.num_leaves)]
        if any(isinstance(leaf, Slot) for leaf in own):
            item = fx_graph.create_node(
                "call_function", operator.getitem, (node, key), {}, identifier(f"{node.name}_{key}")
            )
            _unpack(fx_graph, item, child, iter(own), found)


def _nest(tree: Any, leaves: Iterator[Any]) -> Any:
    if tree.is_leaf():
        return next(leaves)
    items = [_nest(child, leaves) for child in tree.children()]
    return dict(zip(tree.context, items)) if tree.type is dict else tree.type(items)


def _output_leaves(signature: Signature, outputs: Sequence[torch.fx.Node]) -> list[Any]:
    return [outputs[leaf.index] if isinstance(leaf, Slot) else leaf.value for leaf in signature.out_leaves]


def _in_order(graph: Graph, found: dict[int, torch.fx.Node]) -> list[torch.fx.Node]:
    for index, value in enumerate(graph.inputs):
        if index not in found:
            raise EmissionError(f"the signature passes nothing to input {value.name!r}; emit with flat=True")
    return [found[index] for index in range(len(graph.inputs))]
