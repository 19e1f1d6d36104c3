"""Calling a compiled model: the caller's pytrees to flat graph inputs, checked, and flat outputs back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from graphopt.arguments import arrange, leaves_like
from graphopt.errors import InputError
from graphopt.input_checks import InputCheck, SizeCheck, make_check
from graphopt.ir import Graph, Literal, Signature, Slot, Value

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class CallingConvention:
    """Flattens arguments for a graph and unflattens its outputs, as its signature says.

    Arguments may be given by position or by name, and defaults left out or given, as the original allows. A graph
    without a signature takes its inputs positionally and returns its outputs: one value, or a tuple.
    """

    def __init__(self, graph: Graph) -> None:
        self.inputs: tuple[Value, ...] = tuple(graph.inputs)
        self.signature: Signature | None = graph.signature
        self._checks: list[InputCheck] = [make_check(value) for value in self.inputs]
        self._sizes = SizeCheck(self.inputs)
        self._flat_names = _flat_names(graph.signature)
        self._returns_bare = graph.signature is not None and graph.signature.out_tree.is_leaf()

    def flatten(self, args: Sequence[Any], kwargs: Mapping[str, Any], *, check: bool = True) -> list[Any]:
        """Return the graph's inputs in order.

        check: hold each input to its type. Without it, only the structure must fit.

        Raises:
            InputError: wrong count, structure, dtype, rank, size, device, or a fixed argument with another value.
        """
        flat = self._slots(self._leaves(args, kwargs))
        if check:
            for accept, given in zip(self._checks, flat):
                accept(given)
            self._sizes(flat)
            self._check_fixed(flat)
        return flat

    def arguments(self, flat: Sequence[Any]) -> Arguments:
        """Return flat inputs as arguments of the form at capture."""
        if self.signature is None:
            return tuple(flat), {}
        leaves = [flat[leaf.index] if isinstance(leaf, Slot) else leaf.value for leaf in self.signature.in_leaves]
        args, kwargs = pytree.tree_unflatten(leaves, self.signature.in_tree)
        return args, kwargs

    def unflatten(self, outputs: Sequence[Any]) -> Any:
        """Return the caller's result from flat outputs."""
        if self.signature is None:
            return outputs[0] if len(outputs) == 1 else tuple(outputs)
        leaves = [outputs[leaf.index] if isinstance(leaf, Slot) else leaf.value for leaf in self.signature.out_leaves]
        return leaves[0] if self._returns_bare else pytree.tree_unflatten(leaves, self.signature.out_tree)

    def outputs(self, result: Any) -> list[Any]:
        """Return flat outputs from a result of the caller's form."""
        if self.signature is None:
            return list(result) if isinstance(result, tuple) else [result]
        leaves = pytree.tree_leaves(result)
        slots = {leaf.index: given for leaf, given in zip(self.signature.out_leaves, leaves) if isinstance(leaf, Slot)}
        return [slots[index] for index in range(len(slots))]

    def _check_fixed(self, flat: Sequence[Any]) -> None:
        for fixed in () if self.signature is None else self.signature.fixed:
            if not fixed.holds(flat[fixed.index]):
                given = flat[fixed.index]
                raise InputError(
                    f"input {self.inputs[fixed.index].name!r} decides shapes and was {fixed} at capture, got "
                    f"{given.tolist() if isinstance(given, torch.Tensor) else repr(given)}; compile anew for it"
                )

    def _leaves(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        if self.signature is None:
            if kwargs or len(args) != len(self.inputs):
                names = ", ".join(value.name for value in self.inputs)
                given = f"{len(args)}" + (f" and keywords {sorted(kwargs)}" if kwargs else "")
                raise InputError(f"expected {len(self.inputs)} positional inputs ({names}), got {given}")
            return list(args)
        if self._flat_names is not None:
            count, keywords = self._flat_names
            if len(args) == count and len(kwargs) == len(keywords) and all(name in kwargs for name in keywords):
                return [*args, *(kwargs[name] for name in keywords)]
        leaves, spec = pytree.tree_flatten((tuple(args), dict(kwargs)))
        if spec == self.signature.in_tree:
            return leaves
        return leaves_like(self.signature, arrange(self.signature, args, kwargs))

    def _slots(self, leaves: list[Any]) -> list[Any]:
        if self.signature is None:
            return leaves
        flat: list[Any] = [None] * len(self.inputs)
        for position, (leaf, given) in enumerate(zip(self.signature.in_leaves, leaves)):
            if isinstance(leaf, Slot):
                flat[leaf.index] = given
            elif not same_literal(leaf.value, given):
                raise InputError(_other_literal(self.signature, position, leaf, given))
        return flat


def _flat_names(signature: Signature | None) -> tuple[int, tuple[str, ...]] | None:
    """The number of positional arguments and the names of the others, if no argument is a container."""
    if signature is None:
        return None
    positional, keywords = signature.in_tree.children()
    if not all(tree.is_leaf() for tree in (*positional.children(), *keywords.children())):
        return None
    return positional.num_children, tuple(keywords.context)


def same_literal(expected: Any, given: Any) -> bool:
    """True if two non-tensor arguments are the same: 1, 1.0 and True are not, nor are 0.0 and -0.0; NaN is NaN."""
    if type(expected) is not type(given):
        return False
    if isinstance(expected, float):
        return repr(expected) == repr(given)
    return bool(expected == given)


def _other_literal(signature: Signature, position: int, leaf: Literal, given: Any) -> str:
    names = signature.in_names
    name = names[position] if position < len(names) else f"leaf {position}"
    shown = f"a tensor of shape {list(given.shape)}" if isinstance(given, torch.Tensor) else repr(given)
    return f"argument {name} was {leaf.value!r} at capture and is fixed, got {shown}; compile anew for it"
