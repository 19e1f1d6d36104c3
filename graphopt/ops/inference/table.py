"""The table of inference rules, and the adapter that makes a rule an operator's `infer`.

A rule is a plain function that takes the operator's arguments in schema order (types in place of tensors, tuples
of types for tensor lists, attributes as they are) and returns the result type or types. It raises `Mismatch` if
the call is invalid whatever its symbols are bound to, and returns None if it cannot decide; then the operator runs
on fake tensors. So a rule may cover the common case only, but what it says must hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

from graphopt.errors import TypeInferenceError
from graphopt.ir import MISSING, Call, Param, ParamKind, TensorType, Type
from graphopt.ir.infer import refusal
from graphopt.ops.fake import infer_by_fake

Result: TypeAlias = "Type | Sequence[Type] | None"
Rule: TypeAlias = "Callable[..., Result]"

_Rule = TypeVar("_Rule", bound=Callable[..., Result])

RULES: dict[str, Rule] = {}
"""Rules by operator name without the dialect (`relu`, `add.Tensor`)."""


class Mismatch(Exception):
    """A call that no binding of its symbols makes valid; the text is the reason."""


def rule(*names: str) -> Callable[[_Rule], _Rule]:
    """Register a function for operators; each argument may hold several names separated by spaces."""

    def register(function: _Rule) -> _Rule:
        for name in " ".join(names).split():
            assert name not in RULES, name
            RULES[name] = function
        return function

    return register


def overloads(bases: str, *suffixes: str) -> str:
    """The names `base.suffix` of all bases with all suffixes; an empty suffix is the default overload."""
    return " ".join(f"{base}.{suffix}" if suffix else base for base in bases.split() for suffix in suffixes)


def find_rule(name: str) -> Rule | None:
    """The rule of an operator of the `aten` dialect, or None."""
    dialect, _, rest = name.partition(".")
    return RULES.get(rest) if dialect == "aten" else None


class RuleInference:
    """The `infer` of an operator that has a rule: bind the arguments, ask the rule, else run on fake tensors."""

    __slots__ = ("params", "rule", "has_variadic")

    def __init__(self, params: tuple[Param, ...], rule: Rule) -> None:
        self.rule = rule
        self.params = tuple((p.kind is ParamKind.ATTRIBUTE, p.name, p.default) for p in params)
        self.has_variadic = any(p.kind is ParamKind.VARIADIC for p in params)

    def __call__(self, call: Call) -> Sequence[Type]:
        """Return the result types.

        Raises:
            TypeInferenceError: the call is invalid.
        """
        for type_ in call.operand_types:
            if type_ is not None and type(type_) is not TensorType:
                return infer_by_fake(call)
        try:
            result = self.rule(*self.arguments(call))
        except Mismatch as reason:
            raise TypeInferenceError(refusal(call, str(reason))) from None
        except AttributeError:
            missing = self.missing_operand(call)
            if missing is None:
                raise
            raise TypeInferenceError(refusal(call, f"operand {missing!r} is missing")) from None
        if result is None:
            return infer_by_fake(call)
        return result if isinstance(result, list | tuple) else (result,)

    def missing_operand(self, call: Call) -> str | None:
        """The name of a required operand that is absent."""
        bound = call.arguments()
        required = [p.name for p in call.op.operand_params if p.kind is ParamKind.OPERAND]
        return next((name for name in required if bound[name] is None), None)

    def arguments(self, call: Call) -> list[Any]:
        """The arguments in schema order."""
        attributes = call.attributes
        if self.has_variadic:
            bound = call.arguments()
            return [bound.get(name, None if default is MISSING else default) for _, name, default in self.params]
        operands = iter(call.operand_types)
        return [
            attributes.get(name, default) if is_attribute else next(operands, None)
            for is_attribute, name, default in self.params
        ]
