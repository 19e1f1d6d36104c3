"""`functionalized.*`: operators that write to their arguments and have no functional counterpart, run on copies.

`functionalized.ns.op(args)` copies the arguments that `ns.op` writes, runs `ns.op` on the copies, and returns its
own results followed by the copies. So a custom operator with `mutates_args` is a function of its operands.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from graphopt.ir import Op
from graphopt.ops.fake import infer_by_fake
from graphopt.ops.registry import registry
from graphopt.ops.schema import op_from_torch
from graphopt.ops.torch_dialects import find_overload


class Functionalized:
    """The functional form of a PyTorch overload that writes to its arguments."""

    def __init__(self, overload: torch._ops.OpOverload) -> None:
        self.overload = overload
        self._schema = overload._schema

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        named = dict(zip((a.name for a in self._schema.arguments), args)) | kwargs
        written = [a.name for a in self._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
        for name in written:
            named[name] = _copy(named.get(name))
        result = self.overload(**named)
        results = result if isinstance(result, list | tuple) else [result]
        own = [r for r, declared in zip(results, self._schema.returns) if declared.alias_info is None]
        return (*own, *(t for name in written for t in _flat(named[name])))


def _copy(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_copy(item) for item in value]
    return None if value is None else value.clone()


def _flat(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [] if value is None else [value]


def resolve_functionalized(name: str) -> Op | None:
    """Make the operator `functionalized.namespace.name[.overload]`, or return None if there is no such operator."""
    overload = find_overload(name.partition(".")[2])
    if overload is None or not overload._schema.is_mutable:
        return None
    op = op_from_torch(name, overload)
    return replace(op, traits=frozenset(), infer=infer_by_fake, evaluate=Functionalized(overload))


registry.register_dialect("functionalized", resolve_functionalized)
