"""Raise products with stored matrices to `linear`, and let biases join their layer.

    mm(x, Wᵀ), matmul(x, Wᵀ) → linear(x, W)        addmm(b, x, Wᵀ) → linear(x, W, b)
    mm(x, W), matmul(x, W) → linear(x, Wᵀ)         linear(x, W) + b → linear(x, W, b)

One operator with a name for its weight is what every engine has a kernel for, and what later passes look for. A matrix
is transposed at run time only where it already was; a stored one is stored transposed, unless it is to be trained or
has other uses. Reassociating: the bias is added inside the kernel.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from graphopt.ir import TensorType, Value
from graphopt.passes.rules.permutes import permutation
from graphopt.passes.support.evaluation import stored_tensor
from graphopt.passes.support.lossless import LosslessRules
from graphopt.rewrite import Contract, Match, Rewriter, Rule, aten, var
from graphopt.rewrite.rule import Replacement

x, w, b = var("x"), var("w"), var("b")


def _rank(value: Value) -> int:
    return value.type.rank if isinstance(value.type, TensorType) else -1


def _transposed(value: Value) -> Value | None:
    """The matrix whose transpose `value` is, if a node makes it."""
    node = value.producer
    if node is not None and _rank(value) == 2 and permutation(node) == (1, 0):
        return node._operands[0]
    return None


class _ToLinear(Rule):
    """A product with a matrix on the right becomes `linear` with its transpose."""

    contract = Contract.REASSOCIATING

    def check(self, match: Match) -> str | None:
        """The matrix is stored, or the transpose of one."""
        matrix: Value = match["w"]
        source = _transposed(matrix)
        if source is not None:
            return None if source.is_constant else "the right-hand side is computed"
        if not match.surroundings.is_fixed(matrix) or match.surroundings.trainable:
            return "the right-hand side is computed, or trained as it is"
        return "the matrix has other uses" if matrix.num_uses > 1 else None

    def weight(self, match: Match, rewriter: Rewriter) -> Value:
        """The matrix as `linear` takes it: [out, in]."""
        matrix: Value = match["w"]
        source = _transposed(matrix)
        if source is not None:
            return source
        # Under the old name a state dict would hold a matrix of another shape, so the new one has none. It is a view:
        # kernels take either layout, and a large model need not be held twice.
        assert isinstance(matrix.type, TensorType)
        tensor = stored_tensor(matrix).t()
        return rewriter.constant(tensor, f"{matrix.name}_t", device=matrix.type.device)

    def bias(self, match: Match) -> Value | None:
        """The bias, if the root adds one."""
        return match.bindings.get("b")

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Create `linear`."""
        return rewriter.create("aten.linear", match["x"], self.weight(match, rewriter), self.bias(match)).result


class MatmulToLinear(_ToLinear):
    """mm(x, w), matmul(x, w) → linear(x, wᵀ)."""

    name = "matmul-to-linear"
    pattern = (aten.mm(x, w), aten.matmul(x, w))

    def guard(self, match: Match) -> bool:
        """The right-hand side is a matrix of floats."""
        return _rank(match["w"]) == 2 and match["w"].dtype.is_floating


class AddmmToLinear(_ToLinear):
    """addmm(b, x, w) → linear(x, wᵀ, b)."""

    name = "addmm-to-linear"
    pattern = aten.addmm(b, x, w)

    def guard(self, match: Match) -> bool:
        """The bias is one number a column."""
        bias: Value = match["b"]
        return _rank(bias) == 1 and bias.shape == match["w"].shape[1:] and match["w"].dtype.is_floating


class BiasIntoLinear(Rule):
    """linear(x, w) + b → linear(x, w, b), where b is a stored vector, trained or not."""

    name = "bias-into-linear"
    contract = Contract.REASSOCIATING
    pattern = aten.add.Tensor(aten.linear(x, w).once, var("b", lambda v: isinstance(v, Value) and v.is_constant))

    def check(self, match: Match) -> str | None:
        """b is one number a column, of the layer's type."""
        bias, weight, result = match["b"], match["w"], match.root.results[0]
        same = bias.dtype is weight.dtype is result.dtype and bias.shape == weight.shape[:1]
        return None if same else "b is not one number a column, of the layer's type"

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Make the layer again with its bias."""
        return rewriter.create("aten.linear", match["x"], match["w"], match["b"]).result


RULES: tuple[Rule, ...] = (MatmulToLinear(), AddmmToLinear(), BiasIntoLinear())


@dataclass(frozen=True)
class FuseLinear(LosslessRules):
    """Make linear layers of matrix products."""

    contract = Contract.REASSOCIATING

    def rules(self) -> Iterable[Rule]:
        """Products first, then biases."""
        return RULES
