"""Constants that meet: chains of sums or products with stored tensors.

    (x + C₁) + C₂ → x + (C₁ + C₂)    (x · C₁) · C₂ → x · (C₁ · C₂)

The constants are combined in double precision and rounded once. The combined one may not be larger than the larger
of the two, and no factor may be so extreme that the product over- or underflows where the chain does not.
"""

from __future__ import annotations

import torch

from graphopt.ir import TensorType, Value
from graphopt.passes.rules.conditions import is_floating
from graphopt.passes.support.evaluation import stored_tensor
from graphopt.rewrite import Contract, Match, Rewriter, Rule, aten, constant, var
from graphopt.rewrite.rule import Replacement

_EXTREME = 2.0**20


class _Regroup(Rule):
    contract = Contract.REASSOCIATING
    inference_only = True

    def check(self, match: Match) -> str | None:
        """One floating-point type, tame values, and no growth."""
        a, b, root = match["a"], match["b"], match.root.results[0]
        dtypes = {v.dtype for v in (a, b, root, match["x"])}
        if len(dtypes) > 1 or not is_floating(root):
            return "the types differ, or are no floats"
        merged = torch.broadcast_shapes(a.type.shape, b.type.shape)
        if merged not in (a.type.shape, b.type.shape):
            return "the combined constant would be larger than both"
        return self.tame(stored_tensor(a), stored_tensor(b))

    def tame(self, a: torch.Tensor, b: torch.Tensor) -> str | None:
        """Return why combining loses what the chain keeps, or None."""
        raise NotImplementedError

    def combine(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """The combined constant in double precision."""
        raise NotImplementedError

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Apply the combined constant to x."""
        a: Value = match["a"]
        tensor = self.combine(stored_tensor(a).double(), stored_tensor(match["b"]).double())
        assert isinstance(a.type, TensorType)
        stored = rewriter.constant(tensor.to(a.type.dtype.torch), a.name, device=a.type.device)
        return rewriter.create(match.root.op, match["x"], stored).result


class RegroupSums(_Regroup):
    """(x + a) + b → x + (a + b)."""

    name = "regroup-sums"
    pattern = aten.add.Tensor(aten.add.Tensor(var("x"), constant("a")).once, constant("b"))

    def tame(self, a: torch.Tensor, b: torch.Tensor) -> str | None:
        """The terms must not cancel."""
        total, largest = (a.double() + b.double()).abs(), torch.maximum(a.abs(), b.abs()).double()
        return None if bool((total >= 0.5 * largest).all()) else "the terms cancel"

    def combine(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """a + b."""
        return a + b


class RegroupProducts(_Regroup):
    """(x · a) · b → x · (a · b)."""

    name = "regroup-products"
    pattern = aten.mul.Tensor(aten.mul.Tensor(var("x"), constant("a")).once, constant("b"))

    def tame(self, a: torch.Tensor, b: torch.Tensor) -> str | None:
        """No factor may be extreme."""
        for tensor in (a, b):
            size = tensor.abs()
            if not bool(((size >= 1 / _EXTREME) & (size <= _EXTREME)).all()):
                return "an extreme factor may overflow or underflow"
        return None

    def combine(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """a · b."""
        return a * b


RULES: tuple[Rule, ...] = (RegroupSums(), RegroupProducts())
