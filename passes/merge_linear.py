"""Merge adjacent linear layers where one is cheaper than two.

    W₂ (W₁ x + b₁) + b₂  →  (W₂ W₁) x + (W₂ b₁ + b₂)

The same for a convolution and a 1×1 one, whichever is first; a bias of the first one and padding of the second do not
go together. What stands between must have no other use, and the merged layer neither more weights nor more
multiply-adds. The product is computed in double precision and rounded once. Reassociating: the same function over the
reals.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from graphopt.analysis import CostModel, bind_sizes
from graphopt.ir import ConstantKind, Graph, Node, Value
from graphopt.passes.decomposition.factors import composed
from graphopt.passes.decomposition.pairs import Pair, pair_at
from graphopt.passes.support.constants import drop_unused, take_name
from graphopt.passmanager import Pass, PassContext, PassResult
from graphopt.rewrite import Contract, Rewriter


@dataclass(frozen=True)
class MergeLinear(Pass):
    """Merge two layers in a row into one where that costs no more.

    It undoes factors that turned out too wide, and simplifies models that were written with more layers than they
    need. The merged weight takes the name of the second layer's.
    """

    contract = Contract.REASSOCIATING
    conflicts = frozenset({"quantized"})
    idempotent = True

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        bindings = bind_sizes(graph.inputs, context.samples[0]) if context.samples else {}
        rewriter = Rewriter(graph, context.listeners)
        cost = CostModel(bindings)
        notes = []
        for node in list(graph):
            while isinstance(pair := pair_at(node, graph), Pair):
                found = _merged(pair, cost)
                title = f"{pair.weights[0].name} and {pair.weights[1].name}"
                if isinstance(found, str):
                    notes.append(f"{title} stay apart: {found}")
                    break
                notes.append(f"{title} are one")
                node = _replace(pair, *found, rewriter, self.name)
        return PassResult(rewriter.changed, notes=notes)


def _merged(pair: Pair, cost: CostModel) -> tuple[torch.Tensor, torch.Tensor | None] | str:
    """The weight and bias of one layer for two, or why two are kept."""
    first, second = pair.tensors
    numel = second.shape[0] * first.shape[1] * max(first[0, 0].numel(), second[0, 0].numel())
    if numel > first.numel() + second.numel():
        return f"together they would have {numel:,} weights, and have {first.numel() + second.numel():,}"
    heavy = pair.second if pair.outer or not pair.spatial else pair.first
    positions = cost.node(heavy).macs // max((second if heavy is pair.second else first).numel(), 1)
    macs = cost.node(pair.first).macs + cost.node(pair.second).macs
    if positions * numel > macs:
        return f"together they would take {positions * numel:,} multiply-adds, and take {macs:,}"
    dtype = pair.weights[1].constant.tensor.dtype  # type: ignore[union-attr]
    bias = pair.bias_tensor()
    weight = composed(first, second).to(dtype)
    bias = None if bias is None else bias.to(dtype)
    if not all(bool(t.isfinite().all()) for t in (weight, bias) if t is not None):
        return "the product of their weights is not finite"
    return weight, bias


def _replace(pair: Pair, weight: torch.Tensor, bias: torch.Tensor | None, rewriter: Rewriter, name: str) -> Node:
    first, second = pair.first, pair.second
    stored = [value for node in (first, second) for value in node.operands[1:3] if value is not None]
    old = pair.weights[1]
    new = rewriter.constant_like(old, weight.contiguous())
    old_bias = pair.biases[1]
    added = old_bias
    if bias is not None and pair.biases[0] is not None:
        added = rewriter.constant_like(old_bias, bias) if old_bias is not None else _new_bias(old, bias, rewriter)
    with rewriter.at(second, name):
        kept: Node = first if pair.spatial and not pair.outer else second
        merged = rewriter.rebuild(kept, (first.operands[0], new, added))
    rewriter.replace(second, [merged.result])
    rewriter.erase(first)
    drop_unused(rewriter, *stored)
    take_name(rewriter, new, old.name)
    if added is not None and old_bias is not None:
        take_name(rewriter, added, old_bias.name)
    return merged


def _new_bias(weight: Value, bias: torch.Tensor, rewriter: Rewriter) -> Value:
    constant = weight.constant
    assert constant is not None
    names = tuple(n.removesuffix("weight") + "bias" for n in constant.names if n.endswith(".weight"))[:1]
    kind = constant.kind if names else ConstantKind.CONSTANT
    return rewriter.constant(
        bias,
        names[0] if names else f"{weight.name}_bias",
        kind,
        names=names,
        requires_grad=constant.requires_grad and bool(names),
        device=weight.type.device,  # type: ignore[union-attr]
    )
