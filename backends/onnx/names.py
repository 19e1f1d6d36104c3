"""Names of the ONNX graph: the caller's where there are any, the same in every run."""

from __future__ import annotations

import re
from typing import Any

from graphopt.backends.onnx.records import Body, Operation, Tensor
from graphopt.ir import Graph, Node, Signature, Slot

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")


def output_names(graph: Graph) -> list[str]:
    """A name for each output: the model's, if it has names for them; else its path in the caller's result if that is
    made of names, else `output_<index>`."""
    count = len(graph.outputs)
    if graph.signature is not None and len(graph.signature.out_names) == count:
        return list(graph.signature.out_names)
    names = [f"output_{index}" for index in range(count)]
    if graph.signature is not None:
        for index, path in _paths(graph.signature):
            if index < count and _PLAIN.fullmatch(path):
                names[index] = path
    taken = {value.name for value in graph.inputs} | set(graph.constants)
    unique: list[str] = []
    for index, name in enumerate(names):
        if name in taken:
            name = f"output_{index}"
        while name in taken:
            name += "_"
        taken.add(name)
        unique.append(name)
    return unique


def _paths(signature: Signature) -> list[tuple[int, str]]:
    from torch.utils import _pytree

    leaves = signature.out_leaves
    placed: Any = _pytree.tree_unflatten(list(range(len(leaves))), signature.out_tree)
    found = []
    for path, position in _pytree.tree_flatten_with_path(placed)[0]:
        leaf = leaves[position]
        if isinstance(leaf, Slot):
            found.append((leaf.index, ".".join(_key_text(key) for key in path)))
    return found


def _key_text(key: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def assign_names(body: Body, initializers: list[Tensor]) -> set[str]:
    """Give every tensor of a finished graph a name of its own, subgraphs included. Return the names."""
    taken: dict[str, int] = {}
    fixed = {id(t) for t in (*body.inputs, *body.outputs)}
    taken.update((t.name, 0) for t in (*body.inputs, *body.outputs))
    for tensor in initializers:
        if id(tensor) not in fixed:
            _claim(tensor, taken, tensor.name or "constant")
    _name_body(body, fixed, taken)
    return set(taken)


def _name_body(body: Body, fixed: set[int], taken: dict[str, int]) -> None:
    for operation in body.operations:
        for tensor in operation.outputs:
            if id(tensor) not in fixed:
                _claim(tensor, taken, tensor.name or _hint(operation))
        for inner in operation.bodies():
            for tensor in inner.inputs:
                _claim(tensor, taken, tensor.name or "carried")
            _name_body(inner, fixed, taken)


def _hint(operation: Operation) -> str:
    op_type = operation.op_type.lower()
    return f"{result_name(operation.origin)}_{op_type}" if operation.origin is not None else op_type


def result_name(node: Node) -> str:
    """The name of a node's first result, or else of its operator."""
    named = node.results[0].name if node.results else ""
    return named or node.op.name.split(".")[1]


def _claim(tensor: Tensor, taken: dict[str, int], hint: str) -> None:
    name = hint
    while name in taken:
        taken[hint] = number = taken.get(hint, 0) + 1
        name = f"{hint}_{number}"
    taken[name] = 0
    tensor.name = name
