"""What the importer needs to know of a PyTorch operator overload, read once from its schema."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch._ops import OpOverload, OpOverloadPacket

from graphopt.errors import UnknownNameError
from graphopt.ir import Op
from graphopt.ops import ir_name, registry


@dataclass(frozen=True, slots=True)
class Overload:
    """An overload and its IR operator.

    base: the name without namespace and overload (`add_`). mutated: the names of the arguments that it writes.
    aliases: for each return, the name of the argument that it is (written) or views (read), or None.
    may_view: whether a result may share memory with an argument.
    """

    torch_op: OpOverload
    op: Op
    base: str
    mutated: tuple[str, ...]
    aliases: tuple[str | None, ...]
    may_view: bool

    @property
    def is_aten(self) -> bool:
        """True for PyTorch's own operators."""
        return self.torch_op.namespace == "aten"


@lru_cache(maxsize=4096)
def describe(torch_op: OpOverload) -> Overload:
    """Read an overload's schema."""
    op = registry.find(ir_name(torch_op))
    if op is None:
        raise UnknownNameError(f"PyTorch operator {torch_op} cannot be found by its name {ir_name(torch_op)!r}")
    schema = torch_op._schema
    owner: dict[str, str] = {}
    mutated = []
    for argument in schema.arguments:
        if argument.alias_info is None:
            continue
        for label in (*argument.alias_info.before_set, *argument.alias_info.after_set):
            owner.setdefault(label, argument.name)
        if argument.alias_info.is_write:
            mutated.append(argument.name)
    aliases = tuple(_owner(result.alias_info, owner) for result in schema.returns)
    return Overload(torch_op, op, torch_op._opname, tuple(mutated), aliases, bool(owner))


def _owner(alias_info: object, owner: dict[str, str]) -> str | None:
    if alias_info is None:
        return None
    labels = [label for label in alias_info.before_set if label in owner]  # type: ignore[attr-defined]
    return owner[labels[0]] if labels else None


@lru_cache(maxsize=4096)
def functional_overload(torch_op: OpOverload) -> OpOverload | None:
    """Return the functional counterpart of an overload that writes to its arguments, or None.

    `add_.Tensor` → `add.Tensor`, `relu_` → `relu`, `normal_` → `normal_functional`, `add.out` → `add.Tensor`,
    `_foreach_add_.Scalar` → `_foreach_add.Scalar`.
    """
    is_out = any(a.is_out for a in torch_op._schema.arguments)
    expected = [a for a in torch_op._schema.arguments if not a.is_out]
    for packet in _packets(torch_op, is_out):
        for name in _ordered_overloads(packet, torch_op._overloadname):
            candidate = getattr(packet, name)
            if not candidate._schema.is_mutable and _same_arguments(candidate, expected):
                return candidate
    return None


def _packets(torch_op: OpOverload, is_out: bool) -> list[OpOverloadPacket]:
    namespace = getattr(torch.ops, torch_op.namespace)
    base = torch_op._opname
    if is_out:
        names = [base]
    elif base.startswith("__i") and base.endswith("__"):
        names = [f"__{base[3:]}"]
    else:
        stem = base.rstrip("_")
        names = [stem, f"{stem}_functional"]
    return [getattr(namespace, name) for name in names if hasattr(namespace, name)]


def _ordered_overloads(packet: OpOverloadPacket, preferred: str) -> list[str]:
    names = packet.overloads()
    first = [preferred or "default"] if (preferred or "default") in names else []
    return first + [name for name in names if name not in first]


def _same_arguments(candidate: OpOverload, expected: list[torch.Argument]) -> bool:
    given = candidate._schema.arguments
    return len(given) == len(expected) and all(
        (i == 0 or a.name == b.name) and str(a.real_type) == str(b.real_type)
        for i, (a, b) in enumerate(zip(given, expected))
    )


@lru_cache(maxsize=4096)
def scalar_overload(torch_op: OpOverload, numbers: frozenset[str]) -> OpOverload | None:
    """Return the overload that differs only by taking the tensor arguments called `numbers` as Python numbers."""
    wanted = [(a.name, "number" if a.name in numbers else str(a.real_type)) for a in torch_op._schema.arguments]
    packet = getattr(getattr(torch.ops, torch_op.namespace), torch_op._opname)
    for name in packet.overloads():
        candidate = getattr(packet, name)
        given = candidate._schema.arguments
        if [(a.name, str(a.real_type)) for a in given] == wanted and not candidate._schema.is_mutable:
            return candidate
    return None
