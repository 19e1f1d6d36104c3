"""A caller's arguments in the form that they had at capture, or the reason why that is not possible."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from graphopt.errors import InputError
from graphopt.ir import Signature


def arrange(
    signature: Signature, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Move arguments between positions and names, and drop or fill in defaults, until they stand as at capture.

    Raises:
        InputError: an argument is missing, given twice, unknown, or was left at its default at capture.
    """
    positional, keywords = signature.in_tree.children()
    count, names = positional.num_children, list(keywords.context)
    if max(count, len(args)) > len(signature.parameters):
        return _unnamed(args, kwargs, count, names)
    given = dict(zip(signature.parameters, args))
    for name, value in kwargs.items():
        if name in given:
            raise InputError(f"argument {name!r} is given twice, by position and by name")
        given[name] = value
    expected = [*signature.parameters[:count], *names]
    defaults = dict(signature.defaults)
    for name in expected:
        if name not in given:
            if name not in defaults:
                extra = [given_name for given_name in kwargs if given_name not in signature.parameters]
                unknown = f" ({', '.join(map(repr, extra))} is none of its arguments)" if extra else ""
                raise InputError(
                    f"argument {name!r} is missing{unknown}; the model was captured with {_listed(expected)}"
                )
            given[name] = defaults[name]
    for name in given.keys() - set(expected):
        if name not in defaults:
            raise InputError(f"there is no argument {name!r}; the model was captured with {_listed(expected)}")
        if type(given[name]) is not type(defaults[name]) or given[name] != defaults[name]:
            raise InputError(
                f"argument {name!r} was left out at capture, where it is {defaults[name]!r}, got "
                f"{_shown(given[name])}; compile anew with it"
            )
    return tuple(given[n] for n in signature.parameters[:count]), {n: given[n] for n in names}


def _unnamed(
    args: Sequence[Any], kwargs: Mapping[str, Any], count: int, names: list[str]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Without parameter names, positions and keywords must be those at capture; the order of keywords is free."""
    if len(args) != count or set(names) != set(kwargs):
        raise InputError(
            f"the model was captured with {count} positional arguments and keywords {sorted(names)}, "
            f"got {len(args)} and {sorted(kwargs)}; pass them as at capture, or compile anew"
        )
    return tuple(args), {name: kwargs[name] for name in names}


def leaves_like(signature: Signature, arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> list[Any]:
    """Return the leaves of arguments whose pytrees are those at capture, but for the order of keys.

    Raises:
        InputError: names the argument whose structure differs.
    """
    args, kwargs = arguments
    positional, keywords = signature.in_tree.children()
    found: list[Any] = []
    for index, (tree, value) in enumerate(zip(positional.children(), args)):
        name = signature.parameters[index] if index < len(signature.parameters) else f"args[{index}]"
        found += _leaves(tree, value, name)
    for name, tree in zip(keywords.context, keywords.children()):
        found += _leaves(tree, kwargs[name], name)
    return found


def _leaves(tree: Any, value: Any, name: str) -> Iterator[Any]:
    children, spec = pytree.tree_flatten(value, is_leaf=lambda item: item is not value)
    if tree.is_leaf():
        if not spec.is_leaf():
            raise InputError(f"argument {name} was one tensor or number at capture, got {_shown(value)}")
        yield value
    elif tree.type in (dict, OrderedDict):
        yield from _items(tree, value, name)
    elif spec.type is not tree.type or spec.context != tree.context or spec.num_children != tree.num_children:
        raise InputError(
            f"argument {name} was a {tree.type.__name__} of {tree.num_children} at capture, got {_shown(value)}; "
            "pass it as at capture, or compile anew"
        )
    else:
        for index, (child, item) in enumerate(zip(tree.children(), children)):
            yield from _leaves(child, item, f"{name}[{index}]")


def _items(tree: Any, value: Any, name: str) -> Iterator[Any]:
    if not isinstance(value, Mapping) or value.keys() != set(tree.context):
        got = f"keys {list(value)}" if isinstance(value, Mapping) else _shown(value)
        raise InputError(
            f"argument {name} was a {tree.type.__name__} with keys {list(tree.context)} at capture, got {got}; "
            "pass it as at capture, or compile anew"
        )
    for key, child in zip(tree.context, tree.children()):
        yield from _leaves(child, value[key], f"{name}[{key!r}]")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "no arguments"


def _shown(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {list(value.shape)}"
    if isinstance(value, tuple | list | dict):
        return f"a {type(value).__name__} of {len(value)}"
    return repr(value)
