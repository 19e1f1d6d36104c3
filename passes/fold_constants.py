"""Compute what depends on stored tensors alone, once, at compile time.

    f(C₁, C₂) → C        full([2, 3], 1) → C        zeros_like(x) → C, where the shape of x is known
    (x + C₁) + C₂ → x + (C₁ + C₂)                   (x · C₁) · C₂ → x · (C₁ · C₂)

Folding runs the operator's reference semantics, so it is bitwise; the last two lines reassociate. A fold never blows a
model up: what it adds, less the constants that nothing else uses, is bounded for each fold and in sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch

from graphopt.ir import Expr, Graph, Node, TensorType, Trait, Value
from graphopt.ops.effects import is_pure
from graphopt.passes.rules.permutes import permutation
from graphopt.passes.rules.regroup import RULES
from graphopt.passes.support.evaluation import evaluate, stored_tensor, type_bytes
from graphopt.passes.support.lossless import LosslessRules
from graphopt.passmanager import PassContext
from graphopt.rewrite import Contract, Rewriter, Rule
from graphopt.rewrite.driver import Fold
from graphopt.rewrite.pattern import Surroundings

_SHAPE_ONLY = frozenset(
    f"aten.{name}"
    for name in ("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "_shape_as_tensor")
)
_DIALECTS = ("aten", "prims", "graphopt")
_REFUSALS = (RuntimeError, IndexError, ValueError, NotImplementedError, TypeError)


@dataclass(frozen=True)
class FoldConstants(LosslessRules):
    """Replace nodes whose operands are all stored tensors by what they compute.

    limit: the bytes that one fold may add, less the constants that it makes useless.
    growth: the bytes that all folds together may add.

    decode: also compute what turns a compact stored form into numbers, such as the dequantization of a stored weight.
        By default it stays (`Trait.DECODES`), since folding it would undo the storage.

    Random operators, effects, operators with data-dependent sizes, other dialects, updated buffers and, where the
    result is trained, parameters are left alone.
    """

    contract = Contract.REASSOCIATING

    limit: int = 64 * 1024
    growth: int = 4 * 1024 * 1024
    decode: bool = False

    def rules(self) -> Iterable[Rule]:
        """The rules that bring constants together."""
        return RULES

    def folding(self, graph: Graph, context: PassContext, notes: list[str]) -> Fold | None:
        """The hook of the driver."""
        surroundings = Surroundings(context.trainable, frozenset(graph.mutations))
        return _Folder(self, surroundings, notes).fold


@dataclass
class _Folder:
    options: FoldConstants
    surroundings: Surroundings
    notes: list[str]
    grown: int = 0
    refused: set[Node] = field(default_factory=set)

    def fold(self, node: Node, rewriter: Rewriter) -> Sequence[Value] | None:
        """Return constants in place of the node's results, or None."""
        for operand in node._operands:
            if operand is not None and operand.constant is None:
                if node.op.base not in _SHAPE_ONLY:
                    return None
                break
        if node in self.refused or not self._foldable(node):
            return None
        added = self._added_bytes(node)
        if added is None:
            return None
        tensors = self._compute(node)
        if tensors is None:
            self.refused.add(node)
            return None
        self.grown += max(added, 0)
        return [_store(r, t, rewriter) for r, t in zip(node.results, tensors)]

    def _foldable(self, node: Node) -> bool:
        op = node.op
        if Trait.DECODES in op.traits and not self.options.decode:
            return False
        if op.evaluate is None or op.dialect not in _DIALECTS or Trait.DATA_DEPENDENT in op.traits or node.regions:
            return False
        if not is_pure(node, self.surroundings.trainable) or any(map(_is_symbolic, node.attributes.values())):
            return False
        if op.base in _SHAPE_ONLY:
            return True
        return all(self.surroundings.is_fixed(v) for v in node.inputs) and not op.base.startswith("aten.empty")

    def _added_bytes(self, node: Node) -> int | None:
        """The bytes that the fold adds, or None if they are too many or unknown."""
        sizes = [type_bytes(r) for r in node.results]
        if any(size is None for size in sizes):
            return None
        dying = sum(type_bytes(v) or 0 for v in dict.fromkeys(node.inputs) if {u.node for u in v._uses} == {node})
        added = sum(size for size in sizes if size is not None) - dying
        if added <= self.options.limit and self.grown + max(added, 0) <= self.options.growth:
            return added
        if node not in self.refused:
            self.refused.add(node)
            self.notes.append(f"{node!r} is constant, but storing it would add {added} bytes ({node.location})")
        return None

    def _compute(self, node: Node) -> list[torch.Tensor] | None:
        try:
            results = evaluate(node, [_input(v) for v in node.operands])
        except _REFUSALS as error:
            self.notes.append(f"{node!r} cannot be folded: {error} ({node.location})")
            return None
        if len(results) != len(node.results) or not all(map(_fits, node.results, results)):
            return None
        if _transposes(node):
            return [t.detach() for t in results]
        # A view of a weight would keep the whole weight alive, and an expansion is not yet as large as it will be.
        return [t.detach().clone(memory_format=torch.contiguous_format) for t in results]


def _transposes(node: Node) -> bool:
    """True for the transpose of a matrix: kernels take either layout, so a view of the stored one does."""
    return permutation(node) == (1, 0)


def _input(value: Value | None) -> torch.Tensor | None:
    if value is None or value.constant is not None:
        return None if value is None else stored_tensor(value)
    return torch.empty((), dtype=value.dtype.torch).expand(value.shape)


def _fits(result: Value, tensor: object) -> bool:
    if not isinstance(tensor, torch.Tensor) or not isinstance(result.type, TensorType):
        return False
    return tuple(tensor.shape) == result.type.shape and tensor.dtype == result.type.dtype.storage


def _store(result: Value, tensor: torch.Tensor, rewriter: Rewriter) -> Value:
    assert isinstance(result.type, TensorType)
    name = result.name or "folded"
    node = result.producer
    if not result.name and node is not None and _transposes(node) and node.operands[0] is not None:
        name = f"{node.operands[0].name}_t"
    return rewriter.constant(tensor, name, device=result.type.device, dtype=result.type.dtype)


def _is_symbolic(attribute: object) -> bool:
    if isinstance(attribute, tuple):
        return any(map(_is_symbolic, attribute))
    return isinstance(attribute, Expr)
