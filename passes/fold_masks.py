"""Fold masks into the weights that they multiply.

    mul(W, M) → W ⊙ M,   M of zeros and ones

A mask is a stored tensor that is no parameter, holds zeros and ones alone, and multiplies a stored parameter to a
result of the parameter's shape: as `prune-weights` leaves it in a model that trains, and as `torch.nn.utils.prune` does
(any method). Of the latter, `weight_orig` and `weight_mask` become `weight`, the name that the model had before.
Bitwise: the product is computed once as it was at every call.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from graphopt.ir import ConstantKind, Graph, Node, Value
from graphopt.passes.support.constants import drop_unused, take_name
from graphopt.passes.support.evaluation import stored_tensor
from graphopt.passmanager import Pass, PassContext, PassResult
from graphopt.rewrite import Contract, Rewriter

ORIGINAL, MASK = "_orig", "_mask"
"""What `torch.nn.utils.prune` appends to the name of a pruned tensor, and of its mask."""


@dataclass(frozen=True)
class FoldMasks(Pass):
    """Multiply masks into their weights; a weight that is also used without its mask keeps its own copy."""

    contract = Contract.BITWISE

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Rewrite `graph` in place."""
        rewriter = Rewriter(graph, context.listeners)
        notes = []
        for node in graph.nodes:
            found = masked_weight(node, graph)
            if found is not None:
                notes.append(_fold(node, *found, rewriter))
        return PassResult(rewriter.changed, notes=notes)


def masked_weight(node: Node, graph: Graph) -> tuple[Value, Value] | None:
    """The parameter and the mask that `node` multiplies, if it does."""
    if node.name != "aten.mul.Tensor":
        return None
    first, second = node.operands
    for weight, mask in ((first, second), (second, first)):
        if weight is not None and mask is not None and _is_weight(weight, node, graph) and is_mask(mask, graph):
            return weight, mask
    return None


def is_mask(value: Value, graph: Graph) -> bool:
    """True for a stored tensor of zeros and ones that neither training nor the graph changes."""
    constant = value.constant
    if constant is None or constant.kind is ConstantKind.PARAMETER or constant.requires_grad:
        return False
    if value.name in graph.mutations or constant.tensor.is_meta:
        return False
    tensor = constant.tensor.detach()
    return bool(((tensor == 0) | (tensor == 1)).all())


def _is_weight(value: Value, node: Node, graph: Graph) -> bool:
    constant = value.constant
    if constant is None or constant.kind is not ConstantKind.PARAMETER or value.name in graph.mutations:
        return False
    return value.type == node.result.type and not constant.tensor.is_meta


def _fold(node: Node, weight: Value, mask: Value, rewriter: Rewriter) -> str:
    constant = weight.constant
    assert constant is not None and mask.constant is not None
    names = _plain_names(constant.names, mask.constant.names)
    alone = weight.num_uses == 1 or names != constant.names
    product = stored_tensor(weight) * stored_tensor(mask)
    folded = rewriter.constant(
        product,
        weight.name,
        constant.kind,
        names=names if alone else (),
        requires_grad=constant.requires_grad,
        persistent=constant.persistent,
        device=weight.type.device,  # type: ignore[union-attr]
        kept=constant.kept,
    )
    rewriter.replace(node, [folded])
    drop_unused(rewriter, weight, mask)
    take_name(rewriter, folded, weight.name.removesuffix(ORIGINAL) if names != constant.names else weight.name)
    return f"{folded.name}: {share_of_zeros(product):.1%} zeros"


def _plain_names(weights: tuple[str, ...], masks: tuple[str, ...]) -> tuple[str, ...]:
    """The names before `torch.nn.utils.prune` parametrized the module."""
    plain = []
    for name in weights:
        stem = name.removesuffix(ORIGINAL)
        plain.append(stem if stem != name and stem + MASK in masks else name)
    return tuple(plain)


def share_of_zeros(tensor: torch.Tensor) -> float:
    """The share of elements that are zero."""
    return 1.0 - int(torch.count_nonzero(tensor)) / tensor.numel() if tensor.numel() else 0.0
