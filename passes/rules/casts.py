"""Casts: those that change nothing, and chains.

    cast(x, dtype of x) → x    cast(cast(x, B), C) → cast(x, C), where it is proved that B lost nothing that C keeps

Proofs, for x of type A:
- A → B exact (every value of A is one of B) and C floating or bool: both ways round the same real number once.
- A, B, C all integers with C no wider than B, or B no narrower than A: all reduce modulo 2ⁿ.
- A integral, B floating and exact, C integral: only if every value of A is one of C, since floats out of C's range
  convert as they like.
All else (float → int → bool) is left alone.
"""

from __future__ import annotations

from graphopt.ir import DType, Node, Value
from graphopt.passes.rules.conditions import dtype_of, is_exact_cast
from graphopt.passes.support.rebuild import tensor_type
from graphopt.rewrite import Contract, Match, Rewriter, Rule, aten, produced_by, var
from graphopt.rewrite.rule import Replacement

_CASTS = ("aten._to_copy", "aten.to")
_NAMES = ("aten._to_copy", "aten.to.dtype", "aten.to.dtype_layout")
x = var("x")


def cast_source(node: Node) -> Value | None:
    """The operand of a node that changes dtype, device or memory format only; None for any other."""
    if node.op.name not in _NAMES or node.attributes.get("layout") not in (None, "strided"):
        return None
    return node._operands[0]


class NoopCast(Rule):
    """A cast to the type that x has. Memory formats are the backend's choice and no part of a type."""

    name = "noop-cast"
    contract = Contract.BITWISE
    pattern = tuple(getattr(aten, name.removeprefix("aten."))(x, ...) for name in _CASTS)

    def guard(self, match: Match) -> bool:
        """Same dtype, same device."""
        source = cast_source(match.root)
        return source is not None and source.type == match.root.results[0].type

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """The operand itself."""
        return match["x"]


class MergeCasts(Rule):
    """Two casts become one."""

    name = "merge-casts"
    contract = Contract.VALUE_EXACT
    pattern = tuple(getattr(aten, name.removeprefix("aten."))(produced_by(_CASTS, "inner"), ...) for name in _CASTS)

    def guard(self, match: Match) -> bool:
        """Both are plain casts on one device."""
        inner, root = match.node("inner"), match.root
        source = cast_source(inner)
        if source is None or cast_source(root) is None:
            return False
        devices = {tensor_type(value).device for value in (source, inner.results[0], root.results[0])}
        return len(devices) == 1

    def check(self, match: Match) -> str | None:
        """Prove that the middle type loses nothing."""
        inner, root = match.node("inner"), match.root
        a, b, c = dtype_of(inner._operands[0]), dtype_of(inner.results[0]), dtype_of(root.results[0])
        assert a is not None and b is not None and c is not None
        return None if merges(a, b, c) else f"{a.value} → {b.value} → {c.value} is not {a.value} → {c.value}"

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """One cast, in the outer one's memory format; none if the types agree."""
        source = match.node("inner").operands[0]
        assert source is not None
        root = match.root
        if source.type == root.results[0].type:
            return source
        memory_format = root.attributes.get("memory_format")
        dtype = dtype_of(root.results[0])
        return rewriter.create("aten._to_copy", source, dtype=dtype, memory_format=memory_format).result


def merges(a: DType, b: DType, c: DType) -> bool:
    """True if casting from `a` to `b` to `c` is casting from `a` to `c`, for every value."""
    if a.is_complex or b.is_complex or c.is_complex:
        return False
    if a.is_integer and b.is_integer and c.is_integer:
        return c.bits <= b.bits or is_exact_cast(a, b)
    if not is_exact_cast(a, b):
        return False
    if c.is_integer and not b.is_integer and b is not DType.BOOL:
        return is_exact_cast(a, c)
    return True


RULES: tuple[Rule, ...] = (NoopCast(), MergeCasts())
