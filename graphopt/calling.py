"""Calling a compiled model: the caller's pytrees to flat graph inputs, checked, and flat outputs back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from graphopt.analysis import bind_sizes
from graphopt.errors import InputError
from graphopt.ir import Graph, Literal, ScalarType, Signature, Slot, TensorType, Value, from_torch
from graphopt.ir.types import type_symbols


class CallingConvention:
    """Flattens arguments for a graph and unflattens its outputs, as its signature says.

    A graph without a signature takes its inputs positionally and returns its outputs: one value, or a tuple.
    """

    def __init__(self, graph: Graph) -> None:
        self.inputs: tuple[Value, ...] = tuple(graph.inputs)
        self.num_outputs = len(graph.outputs)
        self.signature: Signature | None = graph.signature

    def flatten(self, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Any]:
        """Return the graph's inputs in order.

        Raises:
            InputError: wrong count, structure, dtype, rank, size, device, or a fixed argument with another value.
        """
        flat = self._leaves(args, kwargs)
        for value, given in zip(self.inputs, flat):
            _check(value, given)
        _check_ranges(self.inputs, bind_sizes(self.inputs, flat))
        return flat

    def unflatten(self, outputs: Sequence[Any]) -> Any:
        """Return the caller's result from flat outputs."""
        if self.signature is None:
            return outputs[0] if len(outputs) == 1 else tuple(outputs)
        leaves = [outputs[leaf.index] if isinstance(leaf, Slot) else leaf.value for leaf in self.signature.out_leaves]
        return pytree.tree_unflatten(leaves, self.signature.out_tree)

    def _leaves(self, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Any]:
        if self.signature is None:
            if kwargs or len(args) != len(self.inputs):
                names = ", ".join(value.name for value in self.inputs)
                raise InputError(f"expected {len(self.inputs)} positional inputs ({names}), got {len(args)}")
            return list(args)
        leaves, spec = pytree.tree_flatten((tuple(args), dict(kwargs)))
        if spec != self.signature.in_tree:
            leaves = self._reordered(args, kwargs)
        flat: list[Any] = [None] * len(self.inputs)
        for position, (leaf, given) in enumerate(zip(self.signature.in_leaves, leaves)):
            if isinstance(leaf, Slot):
                flat[leaf.index] = given
            else:
                self._check_literal(position, leaf, given)
        return flat

    def _reordered(self, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Any]:
        """Accept keyword arguments in another order than at capture; anything else is an error."""
        assert self.signature is not None
        expected = self.signature.in_tree
        names = list(expected.children()[1].context) if expected.num_children == 2 else []
        if set(names) == set(kwargs):
            leaves, spec = pytree.tree_flatten((tuple(args), {name: kwargs[name] for name in names}))
            if spec == expected:
                return leaves
        raise InputError(
            f"the arguments have another structure than at capture: expected {_describe(expected)}, "
            f"got {len(args)} positional and keywords {sorted(kwargs)}. Pass them as at capture, or compile anew."
        )

    def _check_literal(self, position: int, leaf: Literal, given: Any) -> None:
        expected = leaf.value
        if isinstance(given, torch.Tensor) or given != expected:
            assert self.signature is not None
            names = self.signature.in_names
            name = names[position] if position < len(names) else f"leaf {position}"
            shown = f"a tensor of shape {tuple(given.shape)}" if isinstance(given, torch.Tensor) else repr(given)
            raise InputError(
                f"argument {name!r} was {expected!r} at capture and is fixed, got {shown}; compile anew for it"
            )


def _describe(spec: Any) -> str:
    children = spec.children()
    positional, keywords = children[0].num_children, list(children[1].context)
    return f"{positional} positional and keywords {sorted(keywords)}"


def _check(value: Value, given: Any) -> None:
    type_ = value.type
    if isinstance(type_, TensorType):
        if not isinstance(given, torch.Tensor):
            raise InputError(f"input {value.name!r} must be a tensor ({type_!r}), got {type(given).__name__}")
        if given.dtype != type_.dtype.torch:
            raise InputError(
                f"input {value.name!r} must be {type_.dtype.torch}, got {given.dtype}; convert it with "
                f".to({type_.dtype.torch}), or compile anew with inputs of that dtype"
            )
        if given.dim() != type_.rank:
            raise InputError(f"input {value.name!r} must have rank {type_.rank} ({type_!r}), got {tuple(given.shape)}")
        for axis, (dim, size) in enumerate(zip(type_.shape, given.shape)):
            if isinstance(dim, int) and dim != size:
                raise InputError(
                    f"input {value.name!r} must be {type_!r}, got shape {list(given.shape)}: dim {axis} "
                    f"was captured with size {dim}. Compile with dynamic_shapes to leave it free"
                )
    elif isinstance(type_, ScalarType) and isinstance(given, torch.Tensor | str):
        raise InputError(f"input {value.name!r} must be a number ({type_!r}), got {type(given).__name__}")


def _check_ranges(inputs: Sequence[Value], bindings: dict[str, int]) -> None:
    """A size outside of its symbol's range may break what was proved from the range."""
    for value in inputs:
        if not isinstance(value.type, TensorType):
            continue
        for symbol in type_symbols(value.type):
            size = bindings.get(symbol.name)
            low, high = symbol.min, symbol.max
            if size is not None and (size < low or (high is not None and size > high)):
                raise InputError(
                    f"input {value.name!r}: size {symbol.name}={size} is outside of [{low}, {high}]. "
                    "Give dynamic_shapes a wider range"
                )
            if size is not None and size % symbol.multiple_of:
                raise InputError(
                    f"input {value.name!r}: {symbol.name}={size} is not a multiple of {symbol.multiple_of}"
                )


def leaf_signature(leaf: Any) -> Any:
    """What a capture depends on in one argument: dtype, shape and device of a tensor, the value of anything else."""
    if isinstance(leaf, torch.Tensor):
        return (from_torch(leaf.dtype), tuple(leaf.shape), str(leaf.device))
    return (type(leaf), leaf)
