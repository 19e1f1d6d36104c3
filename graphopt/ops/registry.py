"""The operator registry: one `Op` object per name, made on demand by the dialect that owns the name."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from graphopt.errors import GraphOptError, unknown_name
from graphopt.ir import Op

Resolver = Callable[[str], Op | None]


class OpRegistry:
    """Operators by full name (`aten.add.Tensor`). A dialect may register a resolver that makes them on demand."""

    def __init__(self) -> None:
        self._ops: dict[str, Op] = {}
        self._resolvers: dict[str, Resolver] = {}
        self._default: Resolver | None = None

    def register(self, op: Op) -> Op:
        """Add an operator.

        Raises:
            GraphOptError: the name is taken.
        """
        if op.name in self._ops:
            raise GraphOptError(f"operator {op.name!r} is registered already; choose another name")
        self._ops[op.name] = op
        return op

    def register_dialect(self, name: str, resolver: Resolver) -> None:
        """Let `resolver` make the operators whose names start with `name.`; `"*"` stands for every other dialect."""
        if name == "*":
            self._default = resolver
        else:
            self._resolvers[name] = resolver

    def get(self, name: str) -> Op:
        """Return the operator under a full name, or under an abbreviation (`relu` for `aten.relu`).

        Raises:
            UnknownNameError: no such operator; the message suggests near names.
        """
        op = self._ops.get(name) or self.find(name) or self.find(f"aten.{name}")
        if op is None:
            raise unknown_name("operator", name, self._ops)
        return op

    def find(self, name: str) -> Op | None:
        """Return the operator under a full name, or None."""
        op = self._ops.get(name)
        if op is None:
            resolver = self._resolvers.get(name.partition(".")[0], self._default)
            op = resolver(name) if resolver is not None else None
            if op is not None:
                self._ops[name] = op
        return op

    def registered(self) -> Iterable[Op]:
        """The operators made so far, in order of registration."""
        return tuple(self._ops.values())


registry = OpRegistry()


def get_op(name: str) -> Op:
    """Return the operator registered under `name`.

    >>> get_op("aten.relu")
    <op aten.relu>
    """
    return registry.get(name)
