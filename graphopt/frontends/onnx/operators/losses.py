"""Losses over classes."""

from __future__ import annotations

from typing import Any

from graphopt.frontends.onnx.application import Application, tensor_type, translates
from graphopt.ir import DType, Value

REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}
IGNORED = -100
"""PyTorch's ignored class, which is none."""


@translates("NegativeLogLikelihoodLoss")
def negative_log_likelihood(a: Application) -> Value:
    """−w[t]·x[t] of the target class t; the mean is weighted, an ignored class weighs nothing."""
    return _loss(a, "aten.nll_loss_nd", a[0])


@translates("SoftmaxCrossEntropyLoss")
def softmax_cross_entropy(a: Application) -> Any:
    """The same of the logarithm of a softmax over dim 1, which is the second result."""
    if not a.uses(1):
        return _loss(a, "aten.cross_entropy_loss", a[0])
    scores = a.emit("aten.log_softmax.int", a[0], 1)
    return [_loss(a, "aten.nll_loss_nd", scores) if a.uses(0) else None, scores]


def _loss(a: Application, op: str, scores: Value) -> Value:
    target = a.cast(a[1], DType.I64)
    reduction, ignored = REDUCTIONS[a.attr("reduction", "mean")], a.attr("ignore_index", IGNORED)
    weight = a.get(2)
    if weight is not None:
        weight = a.cast(weight, tensor_type(scores).dtype)
    return a.emit(op, scores, target, weight, reduction, ignored)
