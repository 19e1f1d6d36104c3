"""Dynamic shapes: the words that capture takes, the user's names, and sample sizes that tracing can generalise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from graphopt.errors import CaptureError
from graphopt.frontends.torch_export.calls import named_arguments

BATCH = "batch"
"""The name of the dim that the word "batch" makes."""


@dataclass(frozen=True)
class Shapes:
    """What to trace with.

    spec: as `torch.export.export` takes it. leaves: for each leaf of `(args, kwargs)`, its dims by axis.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    spec: Any
    leaves: tuple[Mapping[int, Any], ...]

    def names(self, program: ExportedProgram) -> tuple[dict[str, str], frozenset[str]]:
        """Return the user's name of each sympy symbol, and the names whose lower bound the user gave."""
        found: dict[str, str] = {}
        exact: set[str] = set()
        for traced, dims in zip(_user_inputs(program), self.leaves):
            if not isinstance(traced, torch.Tensor):
                continue
            for axis, dim in dims.items():
                size = traced.shape[axis]
                root = getattr(dim, "root", dim)
                if isinstance(size, torch.SymInt) and isinstance(root, Dim):
                    symbols = [str(s) for s in size.node.expr.free_symbols]
                    if len(symbols) == 1:
                        found.setdefault(symbols[0], root.__name__)
                        exact.add(root.__name__)
        return found, frozenset(exact)


def resolve(model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Any) -> Shapes:
    """Turn `dynamic_shapes` into what `torch.export` takes.

    `"batch"`: the first dim of every tensor input that has the first one's size there is one dim.
    `"auto"` or True: any dim may turn out dynamic. None or False: all static. Anything else: as for `torch.export`.

    A named dim whose sample size is 1 is traced at 2, because tracing at 1 fixes it.
    """
    leaves = pytree.tree_leaves((args, kwargs))
    if spec is None or spec is False:
        return Shapes(args, kwargs, None, ())
    if isinstance(spec, str | bool):
        per_leaf = _of_word(spec, leaves)
        return _with_collection(args, kwargs, leaves, per_leaf)
    if isinstance(spec, ShapesCollection) or hasattr(spec, "dynamic_shapes"):
        spec = spec.dynamic_shapes(model, args, kwargs)
    by_id = dict(_leaf_specs(spec, named_arguments(model, args, kwargs)))
    per_leaf = tuple(_axes(by_id.get(id(leaf))) for leaf in leaves)
    args, kwargs = _traceable(args, kwargs, per_leaf)
    return Shapes(args, kwargs, spec, per_leaf)


def _of_word(word: str | bool, leaves: list[Any]) -> tuple[Mapping[int, Any], ...]:
    if word is True or word == "auto":
        return tuple(
            dict.fromkeys(range(leaf.dim()), Dim.AUTO) if isinstance(leaf, torch.Tensor) else {} for leaf in leaves
        )
    if word != BATCH:
        raise CaptureError(f'dynamic_shapes={word!r} is not known; use "batch", "auto", or a specification by argument')
    sizes = [leaf.shape[0] for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.dim()]
    if not sizes:
        raise CaptureError('dynamic_shapes="batch" needs an input with a first dim, and no input is such a tensor')
    dim = Dim(BATCH)
    return tuple(
        {0: dim} if isinstance(leaf, torch.Tensor) and leaf.dim() and leaf.shape[0] == sizes[0] else {}
        for leaf in leaves
    )


def _with_collection(
    args: tuple[Any, ...], kwargs: dict[str, Any], leaves: list[Any], per_leaf: tuple[Mapping[int, Any], ...]
) -> Shapes:
    args, kwargs = _distinct(args, kwargs)
    args, kwargs = _traceable(args, kwargs, per_leaf)
    collection = ShapesCollection()
    for leaf, dims in zip(pytree.tree_leaves((args, kwargs)), per_leaf):
        if dims:
            collection[leaf] = dict(dims)
    return Shapes(args, kwargs, collection, per_leaf)


def _distinct(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Make tensors that are passed twice distinct objects: shapes are collected by object."""
    seen: set[int] = set()

    def once(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor) and id(leaf) in seen:
            return leaf.detach().view_as(leaf)
        seen.add(id(leaf))
        return leaf

    return pytree.tree_map(once, (args, kwargs))


def _leaf_specs(spec: Any, value: Any) -> Iterator[tuple[int, Any]]:
    """Walk a specification and the arguments together; give each leaf's id and its part of the specification."""
    if spec is None:
        return
    if isinstance(value, Mapping):
        parts = (spec.get(key) for key in value) if isinstance(spec, Mapping) else spec
        for part, item in zip(parts, value.values()):
            yield from _leaf_specs(part, item)
    elif isinstance(value, list | tuple):
        parts = spec.values() if isinstance(spec, Mapping) else spec
        for part, item in zip(parts, value):
            yield from _leaf_specs(part, item)
    elif isinstance(value, torch.Tensor):
        yield id(value), spec


def _axes(spec: Any) -> Mapping[int, Any]:
    if isinstance(spec, Mapping):
        return {axis: dim for axis, dim in spec.items() if isinstance(axis, int)}
    return dict(enumerate(spec)) if isinstance(spec, list | tuple) else {}


def _traceable(
    args: tuple[Any, ...], kwargs: dict[str, Any], per_leaf: tuple[Mapping[int, Any], ...]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    leaves, tree = pytree.tree_flatten((args, kwargs))
    singular = {
        dim.__name__
        for leaf, dims in zip(leaves, per_leaf)
        for axis, dim in dims.items()
        if isinstance(leaf, torch.Tensor) and _is_plain(dim) and axis < leaf.dim() and leaf.shape[axis] == 1
    }
    if not singular:
        return args, kwargs
    grown = [_grown(leaf, dims, singular) for leaf, dims in zip(leaves, per_leaf)]
    return pytree.tree_unflatten(grown, tree)


def _is_plain(dim: Any) -> bool:
    return isinstance(dim, Dim) and not hasattr(dim, "root") and not isinstance(dim, int)


def _grown(leaf: Any, dims: Mapping[int, Any], singular: set[str]) -> Any:
    for axis, dim in dims.items():
        root = getattr(dim, "root", dim)
        if not isinstance(leaf, torch.Tensor) or getattr(root, "__name__", None) not in singular:
            continue
        size = 2 if root is dim else int(dim.fn(2))
        index = torch.arange(size, device=leaf.device) % max(leaf.shape[axis], 1)
        leaf = leaf.detach().index_select(axis, index)
    return leaf


def _user_inputs(program: ExportedProgram) -> list[Any]:
    placeholders = [n for n in program.graph_module.graph.nodes if n.op == "placeholder"]
    specs = program.graph_signature.input_specs
    return [n.meta.get("val") for n, s in zip(placeholders, specs) if s.kind is InputKind.USER_INPUT]
