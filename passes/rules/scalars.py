"""Numbers: a stored tensor of one element becomes an attribute, and chains of operations with numbers become one.

    x ∘ [c] → x ∘ c
    (x + a) + b → x + (a + b)    (x − a) + b → x + (b − a)    (x · a) · b → x · ab    (x / a) · b → x · (b/a)

Integers wrap, so their sums and products merge bitwise as long as the number fits the type. Floats reassociate; a
chain whose parts cancel, or whose factors are extreme, is left alone, because there the chain's own rounding,
overflow or underflow is most of what it computes.
"""

from __future__ import annotations

from typing import Any

from graphopt.ir import Node, TensorType, Value
from graphopt.passes.rules.conditions import dtype_of, integer_range, is_floating, is_number
from graphopt.rewrite import Contract, Match, Rewriter, Rule, aten, constant, produced_by, var
from graphopt.rewrite.rule import Replacement

_SUMS = ("aten.add", "aten.sub")
_PRODUCTS = ("aten.mul", "aten.div")
_WITH_NUMBER = ("add", "sub", "mul", "div", "eq", "ne", "lt", "le", "gt", "ge")
_EXTREME = 2.0**20


def _scalar(node: Node) -> Any:
    """The number of `add.Scalar(x, number)` and the like, or None."""
    if not node.op.name.endswith(".Scalar") or node.attributes.get("alpha", 1) != 1:
        return None
    number = node.attributes.get("other")
    return number if is_number(number) else None


class _MergeScalars(Rule):
    """(x ∘ a) ∘ b → x ∘ c, for one type throughout. Subclasses say what c is."""

    def guard(self, match: Match) -> bool:
        """Both nodes combine a tensor with a number, and no type promotion comes between."""
        inner, root = match.node("inner"), match.root
        if _scalar(inner) is None or _scalar(root) is None:
            return False
        source = inner._operands[0]
        dtype = dtype_of(source)
        return dtype is not None and dtype is dtype_of(inner.results[0]) is dtype_of(root.results[0])

    def merged(self, inner: Node, root: Node) -> Any:
        """The number of the merged node."""
        raise NotImplementedError

    def target(self, inner: Node, root: Node) -> str:
        """The operator of the merged node."""
        raise NotImplementedError

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Apply the merged number to x."""
        inner, root = match.node("inner"), match.root
        op = self.target(inner, root)
        return rewriter.create(op, inner.operands[0], self.merged(inner, root)).result

    def _fits(self, match: Match) -> str | None:
        dtype = dtype_of(match.root.results[0])
        assert dtype is not None
        low, high = integer_range(dtype)
        return (
            None if low <= self.merged(match.node("inner"), match.root) <= high else "the number does not fit the type"
        )


class MergeSums(_MergeScalars):
    """(x ± a) ± b → x + c."""

    name = "merge-sums"
    pattern = (aten.add.Scalar(produced_by(_SUMS, "inner"), ...), aten.sub.Scalar(produced_by(_SUMS, "inner"), ...))

    def check(self, match: Match) -> str | None:
        """Decline where the terms cancel."""
        inner, root = match.node("inner"), match.root
        if not is_floating(root.results[0]):
            return self._fits(match)
        a, b = _signed(inner), _signed(root)
        cancels = abs(a + b) < 0.5 * max(abs(a), abs(b))
        return "the terms cancel: x + a − a rounds x, x alone does not" if cancels else None

    def merged(self, inner: Node, root: Node) -> Any:
        """a ± b."""
        return _signed(inner) + _signed(root)

    def target(self, inner: Node, root: Node) -> str:
        """A sum."""
        return "aten.add.Scalar"


class MergeProducts(_MergeScalars):
    """(x · a) · b → x · ab, and the like with quotients."""

    name = "merge-products"
    pattern = (
        aten.mul.Scalar(produced_by(_PRODUCTS, "inner"), ...),
        aten.div.Scalar(produced_by(_PRODUCTS, "inner"), ...),
    )

    def check(self, match: Match) -> str | None:
        """Decline extreme factors, and integer quotients."""
        inner, root = match.node("inner"), match.root
        if not is_floating(root.results[0]):
            both = inner.op.base == root.op.base == "aten.mul"
            return self._fits(match) if both else "integer division truncates"
        for number in (_scalar(inner), _scalar(root)):
            if not 1 / _EXTREME <= abs(number) <= _EXTREME:
                return "an extreme factor may overflow or underflow"
        return None

    def merged(self, inner: Node, root: Node) -> Any:
        """a · b, a / b or b / a."""
        a, b = _scalar(inner), _scalar(root)
        if inner.op.base == root.op.base:
            return a * b
        return a / b if root.op.base == "aten.div" else b / a

    def target(self, inner: Node, root: Node) -> str:
        """A quotient only if both were."""
        return "aten.div.Scalar" if inner.op.base == root.op.base == "aten.div" else "aten.mul.Scalar"


def _signed(node: Node) -> Any:
    number = _scalar(node)
    return -number if node.op.base == "aten.sub" else number


class NumberOperand(Rule):
    """x ∘ [c] → x ∘ c, where [c] is a stored tensor of one element and gives the result neither its type nor its rank.

    Exact, since an element of a floating-point tensor is the same number in double precision. Not so for powers, whose
    kernels for numbers know squares and roots.
    """

    name = "number-operand"
    contract = Contract.BITWISE
    pattern = tuple(getattr(aten, name)(var("x"), constant("c"), ...) for name in _WITH_NUMBER)

    def guard(self, match: Match) -> bool:
        """One element, of a real type; the result is of x's type and shape, or a comparison."""
        number, value, root = match["c"], match["x"], match.root
        if not root.op.name.endswith(".Tensor") or not isinstance(value, Value):
            return False
        if value.is_constant or number.constant.tensor.numel() != 1 or number.constant.tensor.is_complex():
            return False
        before, after = value.type, root.results[0].type
        if not isinstance(before, TensorType) or not isinstance(after, TensorType):
            return False
        return before.shape == after.shape and root.attributes.get("alpha", 1) == 1

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """The overload that takes a number."""
        number = match["c"].constant.tensor.item()
        return rewriter.create(f"{match.root.op.base}.Scalar", match["x"], number).result


RULES: tuple[Rule, ...] = (MergeSums(), MergeProducts())
LAST: tuple[Rule, ...] = (NumberOperand(),)
"""After the rules for single numbers, which take them in either form."""
