"""Batches of a loader as inputs of a graph: what of a batch the model takes, and what is left for the loss.

A batch may be a tensor, a mapping of argument names to tensors, a sequence of the model's arguments, the pair
`(args, kwargs)`, or a pair or longer sequence whose first element is one of these: the rest are then the targets, as a
data loader gives them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from graphopt.analysis import bind_sizes
from graphopt.errors import InputError
from graphopt.ir import Graph, Slot, TensorType, Value
from graphopt.ir.dims import evaluate, symbols_of


@dataclass(frozen=True)
class Batch:
    """One batch. inputs: flat, in graph order. targets: what the loss sees besides the outputs.

    labelled: the targets are given; if not, they are the whole batch once more.
    """

    inputs: list[Any]
    targets: Any
    labelled: bool = True


def read_batches(graph: Graph, loader: Iterable[Any], limit: int) -> list[Batch]:
    """Return the first `limit` batches of a loader.

    Raises:
        InputError: there is none, or one does not fit the inputs of the graph; the message says how.
    """
    found: list[Batch] = []
    for number, given in enumerate(iter(loader)):
        if number == limit:
            break
        found.append(_read(graph, given, number))
    if not found:
        raise InputError("the calibration data hold no batch: the loader is empty, or an iterator that is used up")
    return found


def single_samples(graph: Graph, batch: Batch) -> list[Batch]:
    """Split a batch along the first dim of its tensors, which must agree on its size.

    Where the graph fixes the size of the batch, or its least size is above 1, a sample is repeated to fill it: a loss
    that is a mean over the batch is then that of the sample alone.

    Raises:
        InputError: the first dims of the inputs differ, so that there is no telling samples apart.
    """
    tensors = [(v, x) for v, x in zip(graph.inputs, batch.inputs) if isinstance(x, torch.Tensor)]
    sizes = {x.shape[0] if x.dim() else None for _, x in tensors}
    if len(sizes) != 1 or None in sizes:
        shapes = ", ".join(f"{v.name} {list(x.shape)}" for v, x in tensors)
        raise InputError(f"the samples of a batch cannot be told apart: the first dims of its inputs differ ({shapes})")
    (size,) = sizes
    copies = max(_least_size(v) for v, _ in tensors)

    def pick(tree: Any, row: int) -> Any:
        def one(leaf: Any) -> Any:
            if not isinstance(leaf, torch.Tensor) or not leaf.dim() or leaf.shape[0] != size:
                return leaf
            return leaf[row : row + 1].repeat_interleave(copies, dim=0)

        return pytree.tree_map(one, tree)

    return [Batch(pick(batch.inputs, row), pick(batch.targets, row), batch.labelled) for row in range(size or 0)]


def _least_size(value: Value) -> int:
    """The least size of the first dim that the graph takes."""
    assert isinstance(value.type, TensorType)
    dim = value.type.shape[0]
    if isinstance(dim, int):
        return dim
    least = {s.name: max(s.min, 1, s.multiple_of) for s in symbols_of(dim)}
    return max(evaluate(dim, least), 1)


def _read(graph: Graph, given: Any, number: int) -> Batch:
    whole = _flat_inputs(graph, given)
    if whole is not None and misfit(graph, whole) is None:
        return Batch(_placed(graph, whole), given, labelled=False)
    first = None
    if isinstance(given, tuple | list) and len(given) > 1:
        first = _flat_inputs(graph, given[0])
        if first is not None and misfit(graph, first) is None:
            return Batch(_placed(graph, first), given[1] if len(given) == 2 else tuple(given[1:]))
    raise InputError(
        f"batch {number} of the calibration data does not fit the model: {_why(graph, given, whole, first)}"
    )


def _why(graph: Graph, given: Any, whole: list[Any] | None, first: list[Any] | None) -> str:
    for flat in (whole, first):
        if flat is not None:
            found = misfit(graph, flat)
            hint = "; trace the model with dynamic_shapes, or let the loader drop the last batch"
            return f"{found}{hint if found and 'size' in found else ''}"
    takes = ", ".join(f"{v.name}: {v.type!r}" for v in graph.inputs)
    return f"it is {_shown(given)}, and the model takes {takes}"


def _shown(given: Any) -> str:
    if isinstance(given, torch.Tensor):
        return f"a tensor of shape {list(given.shape)}"
    if isinstance(given, Mapping):
        return f"a mapping of {', '.join(map(str, given))}"
    if isinstance(given, tuple | list):
        return f"a {type(given).__name__} of {', '.join(map(_shown, given))}"
    return f"{type(given).__name__}"


def _flat_inputs(graph: Graph, given: Any) -> list[Any] | None:
    """The inputs that are in a batch in graph order, or None if their number does not fit."""
    if isinstance(given, torch.Tensor):
        return [given] if len(graph.inputs) == 1 else None
    signature = graph.signature
    if signature is not None and isinstance(given, tuple | list) and len(given) == 2:
        leaves, spec = pytree.tree_flatten(tuple(given))
        if spec == signature.in_tree:
            return [leaves[i] for i, leaf in enumerate(signature.in_leaves) if isinstance(leaf, Slot)]
    if isinstance(given, Mapping):
        names = input_names(graph)
        return [given[name] for name in names] if all(name in given for name in names) else None
    if isinstance(given, tuple | list):
        leaves = pytree.tree_leaves(given)
        return leaves if len(leaves) == len(graph.inputs) else None
    return None


def input_names(graph: Graph) -> list[str]:
    """The argument names of the inputs in graph order."""
    signature = graph.signature
    if signature is None or len(signature.in_names) != len(signature.in_leaves):
        return [value.name for value in graph.inputs]
    named = {leaf.index: name for leaf, name in zip(signature.in_leaves, signature.in_names) if isinstance(leaf, Slot)}
    return [named.get(i, value.name) for i, value in enumerate(graph.inputs)]


def misfit(graph: Graph, inputs: Sequence[Any]) -> str | None:
    """Return how flat inputs differ from what a graph takes, or None."""
    for value, given in zip(graph.inputs, inputs):
        if not isinstance(value.type, TensorType):
            continue
        if not isinstance(given, torch.Tensor):
            return f"input {value.name!r} must be a tensor, got {type(given).__name__}"
        if given.dtype is not value.type.dtype.torch:
            return f"input {value.name!r} has dtype {given.dtype}, expected {value.type.dtype.torch}"
    try:
        sizes = bind_sizes(graph.inputs, inputs)
    except InputError as error:
        return str(error)
    for symbol in graph.symbols():
        size = sizes.get(symbol.name)
        if size is not None and not (symbol.min <= size and (symbol.max is None or size <= symbol.max)):
            return f"size {size} of {symbol.name} is outside its range"
    return None


def _placed(graph: Graph, inputs: Sequence[Any]) -> list[Any]:
    """Inputs on the devices that the graph takes them on."""
    return [
        x.to(v.type.device) if isinstance(x, torch.Tensor) and isinstance(v.type, TensorType) else x
        for v, x in zip(graph.inputs, inputs)
    ]
