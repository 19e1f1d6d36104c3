"""The calling convention as JSON: which containers hold which arguments, and what was fixed at capture.

PyTorch's own form of a tree can name any module to import when it is read; here a type must be known already.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from torch.utils import _pytree as pytree

from graphopt.errors import SerializationError
from graphopt.ir import DType, Fixed, Literal, Signature, Slot

_PLAIN = (type(None), bool, int, float, str)
_FACTORIES: dict[str, Any] = {t.__name__: t for t in (list, dict, set, tuple, int, float, str, bool)}
_DEFAULT_DICT = "collections.defaultdict"
_NAMED_TUPLE = "collections.namedtuple"


def signature_to_json(signature: Signature | None) -> dict[str, Any] | None:
    """Return a signature as JSON values.

    Raises:
        SerializationError: a fixed argument or a container that has no such form.
    """
    if signature is None:
        return None
    return {
        "in_tree": _tree_to_json(signature.in_tree),
        "out_tree": _tree_to_json(signature.out_tree),
        "in_leaves": [_leaf_to_json(leaf) for leaf in signature.in_leaves],
        "out_leaves": [_leaf_to_json(leaf) for leaf in signature.out_leaves],
        "in_names": list(signature.in_names),
        "parameters": list(signature.parameters),
        "defaults": [[name, value] for name, value in signature.defaults],
        "out_names": list(signature.out_names),
        "fixed": [[f.index, f.dtype.value, list(f.shape), list(f.elements)] for f in signature.fixed],
    }


def signature_from_json(data: dict[str, Any] | None) -> Signature | None:
    """Return the signature that `signature_to_json` wrote.

    Raises:
        SerializationError: a container whose type is not registered with PyTorch here, or a malformed value.
    """
    if data is None:
        return None
    try:
        return Signature(
            _tree_from_json(data["in_tree"]),
            _tree_from_json(data["out_tree"]),
            tuple(_leaf_from_json(leaf) for leaf in data["in_leaves"]),
            tuple(_leaf_from_json(leaf) for leaf in data["out_leaves"]),
            tuple(data["in_names"]),
            tuple(data["parameters"]),
            tuple((name, value) for name, value in data["defaults"]),
            tuple(data.get("out_names", ())),
            tuple(Fixed(i, DType(dtype), tuple(shape), tuple(e)) for i, dtype, shape, e in data.get("fixed", ())),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SerializationError(f"the calling convention is damaged: {type(error).__name__}: {error}") from error


def _leaf_to_json(leaf: Slot | Literal) -> dict[str, Any]:
    if isinstance(leaf, Slot):
        return {"slot": leaf.index}
    if not isinstance(leaf.value, _PLAIN):
        raise SerializationError(
            f"an argument or result is fixed to {leaf.value!r}, which has no saved form; pass numbers, strings or "
            "tensors"
        )
    return {"literal": leaf.value}


def _leaf_from_json(data: dict[str, Any]) -> Slot | Literal:
    return Slot(data["slot"]) if "slot" in data else Literal(data["literal"])


def _tree_to_json(tree: Any) -> dict[str, Any] | None:
    """None for a leaf, else `{"type", "context", "children"}`."""
    if tree.is_leaf():
        return None
    registered = pytree.SUPPORTED_SERIALIZED_TYPES.get(tree.type)
    name = registered.serialized_type_name if registered is not None else pytree.NO_SERIALIZED_TYPE_NAME_FOUND
    if not isinstance(name, str) or name == pytree.NO_SERIALIZED_TYPE_NAME_FOUND:
        raise _no_form(tree.type)
    children = [_tree_to_json(child) for child in tree.children()]
    return {"type": name, "context": _context_to_json(tree, name, registered), "children": children}


def _context_to_json(tree: Any, name: str, registered: Any) -> Any:
    context = tree.context
    if name == _DEFAULT_DICT:
        factory, context = context
        if factory is not None and _FACTORIES.get(factory.__name__) is not factory:
            raise _no_form(f"a defaultdict of {factory!r}")
        context = [None if factory is None else factory.__name__, context]
    elif name == _NAMED_TUPLE:
        named = pytree.SUPPORTED_SERIALIZED_TYPES.get(context)
        if named is None:
            raise _no_form(context)
        context = named.serialized_type_name
    elif registered.to_dumpable_context is not None:
        context = registered.to_dumpable_context(context)
    try:
        survives = json.loads(json.dumps(context)) == context
    except (TypeError, ValueError):
        survives = False
    if not survives:
        raise _no_form(f"a {tree.type.__name__} with {context!r}")
    return context


def _tree_from_json(data: dict[str, Any] | None) -> Any:
    if data is None:
        return pytree.tree_structure(0)
    name = data["type"]
    type_ = pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE.get(name)
    if type_ is None:
        raise _unknown_type(name)
    children = [_tree_from_json(child) for child in data["children"]]
    return pytree.TreeSpec(type_, _context_from_json(name, type_, data["context"]), children)


def _context_from_json(name: str, type_: type, context: Any) -> Any:
    if name == _DEFAULT_DICT:
        factory, keys = context
        return [None if factory is None else _FACTORIES[factory], keys]
    if name == _NAMED_TUPLE:
        found = pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE.get(context)
        if found is None:
            raise _unknown_type(context)
        return found
    reader: Callable[[Any], Any] | None = pytree.SUPPORTED_SERIALIZED_TYPES[type_].from_dumpable_context
    return context if reader is None else reader(context)


def _unknown_type(name: str) -> SerializationError:
    return SerializationError(
        f"the model's arguments or results use {name}, which is not known here; import {name.rpartition('.')[0]} first"
    )


def _no_form(what: Any) -> SerializationError:
    shown = what if isinstance(what, str) else f"{what.__module__}.{what.__qualname__}"
    return SerializationError(
        f"the model's arguments or results use {shown}, which has no saved form; register it with "
        "torch.utils._pytree.register_pytree_node and a serialized_type_name, or use tuples, lists and dicts"
    )
