"""The `aten.*` dialect, and every other PyTorch namespace (custom operators), resolved from PyTorch's own schemas."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch

from graphopt.ir import Op, Trait
from graphopt.ops.fake import infer_by_fake
from graphopt.ops.inference import RuleInference, find_rule
from graphopt.ops.registry import registry
from graphopt.ops.schema import op_from_torch
from graphopt.ops.traits import EXTRA_TRAITS


def resolve_torch_op(name: str) -> Op | None:
    """Make the operator `namespace.name[.overload]`, or return None if PyTorch has no such operator.

    The overload `default` is not part of an IR name: `aten.relu`, `aten.add.Tensor`.
    """
    overload = find_overload(name)
    if overload is None:
        return None
    parts = name.split(".")
    extra = EXTRA_TRAITS.get(parts[1], frozenset()) if parts[0] == "aten" else frozenset()
    op = op_from_torch(name, overload, extra)
    rule = find_rule(name)
    infer = infer_by_fake if rule is None else RuleInference(op.params, rule)
    return replace(op, infer=infer, traits=op.traits - _denied(name, op.traits))


def register_torch_op(name: str, traits: Iterable[Trait], rule: Callable[..., Any] | None = None) -> None:
    """Enter an operator that is registered with PyTorch, with traits that its schema does not tell.

    rule: infers its types; without one, PyTorch's fake kernel does.
    """
    overload = find_overload(name)
    assert overload is not None, f"{name} is not registered with PyTorch"
    op = op_from_torch(name, overload, frozenset(traits))
    registry.register(replace(op, infer=infer_by_fake if rule is None else RuleInference(op.params, rule)))


def _denied(name: str, traits: frozenset[Trait]) -> set[Trait]:
    """Traits that contradict what else is known of an operator."""
    denied: set[Trait] = set()
    if name == "aten.index.Tensor":  # only a mask makes its size depend on data, and its types then say so
        denied.add(Trait.DATA_DEPENDENT)
    if name == "aten.view.dtype":  # reads the same bits as other numbers
        denied.add(Trait.VIEW)
    if Trait.RANDOM in traits or Trait.EFFECT in traits:
        denied.add(Trait.PURE)
    return denied


def find_overload(name: str) -> torch._ops.OpOverload | None:
    """Return PyTorch's overload of an IR operator name, or None."""
    namespace, _, rest = name.partition(".")
    base, _, overload = rest.partition(".")
    if not base or not hasattr(torch.ops, namespace):
        return None
    packet = getattr(getattr(torch.ops, namespace), base, None)
    if packet is None:
        return None
    return getattr(packet, overload or "default", None) if not overload.startswith("__") else None


def ir_name(overload: torch._ops.OpOverload) -> str:
    """Return the IR name of a PyTorch overload.

    >>> ir_name(torch.ops.aten.relu.default)
    'aten.relu'
    """
    suffix = "" if overload._overloadname == "default" else f".{overload._overloadname}"
    return f"{overload.namespace}.{overload._opname}{suffix}"


registry.register_dialect("*", resolve_torch_op)
