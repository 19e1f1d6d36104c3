"""Wrong passes that apply no rules: they walk the graph themselves."""

from __future__ import annotations

from typing import Any

import torch

from graphopt.ir import TensorType
from graphopt.passmanager.decorators import pass_
from graphopt.rewrite import Contract
from tests.planted.rules import tensor_of


@pass_
def equalize(graph, rewriter):
    """Halve the weight of each layer and double its result; a weight that two layers share is halved twice."""
    for node in graph.nodes:
        if node.op.name != "aten.linear" or node.operands[1].constant is None:
            continue
        weight = node.operands[1]
        rewriter.replace_value(weight, rewriter.constant_like(weight, tensor_of(weight) * 0.5))
        with rewriter.at(node, "equalize"):
            plain = rewriter.create("aten.linear", node.operands[0], node.operands[1])
            made = rewriter.create("aten.mul.Scalar", plain.result, 2.0)
            if node.operands[2] is not None:
                made = rewriter.create("aten.add.Tensor", made.result, node.operands[2])
        rewriter.replace(node, [made.result])


@pass_(contract=Contract.BITWISE)
def static_batch(graph, rewriter):
    """Write sizes into views, the batch of the example inputs among them."""
    for node in graph.nodes:
        if node.op.name == "aten.reshape" and node.attributes.symbols:
            sizes = [2 if not isinstance(d, int) else d for d in node.attr("shape")]
            rewriter.set_attributes(node, shape=tuple(sizes))


@pass_
def merged_biases(graph, rewriter):
    """Add up the two biases of each recurrent cell: right for an LSTM, wrong for a GRU, which scales one of them."""
    for node in graph.nodes:
        if node.op.name not in ("aten.lstm.input", "aten.gru.input"):
            continue
        for index, value in enumerate(node.operands[:-1]):
            following = node.operands[index + 1]
            if not (_is_vector(value) and _is_vector(following) and "bias_ih" in value.name):
                continue
            total = tensor_of(value) + tensor_of(following)
            rewriter.set_operand(node, index, rewriter.constant_like(value, total))
            rewriter.set_operand(node, index + 1, rewriter.constant_like(following, torch.zeros_like(total)))


@pass_
def drop_casts(graph, rewriter):
    """Casts taken for copies: what follows is computed, and returned, in another dtype."""
    for node in graph.nodes:
        if node.op.name == "aten._to_copy":
            rewriter.replace(node, [node.operands[0]])


def _is_vector(value: Any) -> bool:
    return (
        value is not None and value.constant is not None and isinstance(value.type, TensorType) and value.type.rank == 1
    )
