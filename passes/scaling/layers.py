"""Factors through what has weights: layers, norms, embedding tables, and products."""

from __future__ import annotations

import numpy as np

from graphopt.analysis.channels.atoms import Ids
from graphopt.ir import Node, Value
from graphopt.passes.scaling.tracker import Tracker, barrier, rank_of, rule
from graphopt.passes.support.contractions import CONTRACTIONS, Contraction, contraction


def _names(bases: frozenset[str]) -> str:
    return " ".join(base.partition(".")[2] for base in sorted(bases))


@rule(_names(CONTRACTIONS))
def layer(t: Tracker, node: Node) -> None:
    """W'[o, i] = t_y[o] W[o, i] / t_x[i],  b' = t_y b."""
    found = contraction(node, t.surroundings)
    if isinstance(found, str):
        barrier(t, node, found)
        return
    x = node.operands[0]
    assert x is not None
    source = t.along(t.labels(x), found.channel_axis(x))
    target = t.fresh(found.out_channels)
    source = np.broadcast_to(source, (found.in_channels,))
    t.claim(found.weight, "layer", **{"out": (_outputs(found, target), 1), "in": (_inputs(found, source), -1)})
    t.shift(found.bias, target)
    t.set(node.result, target.reshape(-1, *[1] * found.spatial))


def _outputs(layer: Contraction, labels: Ids) -> Ids:
    rest = [1] * layer.spatial
    if not layer.transposed:
        return labels.reshape(-1, 1, *rest)
    return _grouped(layer, labels)


def _inputs(layer: Contraction, labels: Ids) -> Ids:
    return labels.reshape(-1, 1, *[1] * layer.spatial) if layer.transposed else _grouped(layer, labels)


def _grouped(layer: Contraction, labels: Ids) -> Ids:
    """Labels of the weight's second axis, whose channels differ from group to group of the first."""
    rows = labels.reshape(layer.groups, -1)
    if layer.groups > 1:
        rows = rows.repeat(int(layer.weight.shape[0]) // layer.groups, 0)
    return rows.reshape(*rows.shape, *[1] * layer.spatial)


@rule("matmul mm addmm bmm")
def product(t: Tracker, node: Node) -> None:
    """A product with a stored matrix is a layer; one of activations passes on the factors of one side."""
    at = 1 if node.op.base == "aten.addmm" else 0
    x, weight = node.operands[at], node.operands[at + 1]
    assert x is not None and weight is not None
    if weight.constant is None or rank_of(weight) != 2 or rank_of(x) < 2 or x.constant is not None:
        _activations(t, node, x, weight) if at == 0 else barrier(t, node)
        return
    source = np.broadcast_to(t.along(t.labels(x), -1), (int(weight.shape[0]),))
    target = t.fresh(int(weight.shape[1]))
    t.claim(weight, "layer", **{"out": (target.reshape(1, -1), 1), "in": (source.reshape(-1, 1), -1)})
    t.shift(node.operands[0] if at else None, target)
    t.set(node.result, target)


def _activations(t: Tracker, node: Node, left: Value, right: Value) -> None:
    """(A B)' = A B' where A keeps its scale and B has no factors along what is summed; or the other way round."""
    a, b = t.labels(left), t.labels(right)
    if a.ndim < 2 or b.ndim < 2:
        barrier(t, node)
        return
    if not t.is_still(a) and t.is_still(b):
        t.set(node.result, t.uniform(a, a.ndim - 1))
        return
    t.freeze(a, f"{node.op.base} multiplies it with another activation")
    t.set(node.result, t.uniform(b, b.ndim - 2))


@rule("scaled_dot_product_attention")
def attention(t: Tracker, node: Node) -> None:
    """softmax(…) V passes on the factors of V that are the same for all positions."""
    query, key, value, *masks = node.operands
    for other in (query, key, *masks):
        if other is not None and other.constant is None:
            t.freeze(t.labels(other), "softmax does not pass scales on")
    assert value is not None
    labels = t.labels(value)
    labels = t.uniform(labels, labels.ndim - 2)
    if node.attr("enable_gqa") and labels.ndim > 2:
        labels = t.uniform(labels, labels.ndim - 3)
    t.set(node.result, labels)


@rule("layer_norm rms_norm")
def norm(t: Tracker, node: Node) -> None:
    """γ' = t_y γ,  β' = t_y β; what is normalized keeps its scale."""
    arguments = node.arguments()
    x, gain = arguments["input"], arguments["weight"]
    if gain is None or gain.constant is None or x.constant is not None:
        barrier(t, node, f"{node.op.base} has no stored weight")
        return
    t.freeze(t.labels(x), f"{node.op.base} divides it by a mean over all channels")
    labels = t.fresh(*map(int, gain.shape))
    t.claim(gain, "gain", out=(labels, 1))
    t.shift(arguments.get("bias"), labels)
    t.set(node.results[0], labels)


@rule("batch_norm group_norm instance_norm")
def channel_norm(t: Tracker, node: Node) -> None:
    """The same for norms whose weights run along axis 1."""
    arguments = node.arguments()
    x, gain, bias = arguments["input"], arguments["weight"], arguments["bias"]
    if gain is None or gain.constant is None or rank_of(x) < 2:
        barrier(t, node, f"{node.op.base} has no stored weight")
        return
    t.freeze(t.labels(x), f"{node.op.base} stands before it; fold-batch-norm may make it part of a layer")
    labels = t.fresh(int(gain.shape[0]))
    t.claim(gain, "gain", out=(labels, 1))
    t.shift(bias, labels)
    t.set(node.results[0], labels.reshape(-1, *[1] * (rank_of(x) - 2)))


@rule("embedding")
def table(t: Tracker, node: Node) -> None:
    """Rows of a table: its columns take the factors."""
    weight = node.operands[0]
    assert weight is not None
    if weight.constant is None:
        barrier(t, node)
        return
    labels = t.fresh(int(weight.shape[1]))
    t.claim(weight, "table", out=(labels.reshape(1, -1), 1))
    t.set(node.result, labels)
