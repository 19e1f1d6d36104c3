"""Gradients of the mean loss over the calibration data by the weights of layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graphopt.analysis import Interpreter
from graphopt.errors import GraphOptError
from graphopt.ir import Graph
from graphopt.passes.pruning.criteria.batches import Batch
from graphopt.passes.pruning.criteria.objective import Objective
from graphopt.passes.weight_pruning.layers import Layer


def gradients(
    graph: Graph, layers: Sequence[Layer], batches: Sequence[Batch], objective: Objective
) -> dict[Layer, torch.Tensor]:
    """Return ∂L/∂W of each layer, L being the mean of the loss over all samples; zeros where L does not depend on W.

    A batch counts by the size of its first dim, so the result does not depend on how samples are batched.

    Raises:
        GraphOptError: the loss does not depend on any weight in a differentiable way.
    """
    values = [layer.weight for layer in layers]
    interpreter = Interpreter(graph, differentiate=values)
    leaves = [interpreter.leaf(value) for value in values]
    sums = [torch.zeros_like(leaf, requires_grad=False) for leaf in leaves]
    total = 0
    for batch in batches:
        size = next((len(x) for x in batch.inputs if isinstance(x, torch.Tensor) and x.dim()), 1)
        with torch.enable_grad():
            loss = objective(graph, interpreter.run(*batch.inputs), batch)
        if not loss.requires_grad:
            raise GraphOptError("the loss does not depend on the weights in a differentiable way")
        for sum_, gradient in zip(sums, torch.autograd.grad(loss, leaves, allow_unused=True)):
            if gradient is not None:
                sum_ += size * gradient
        total += size
    return {layer: sum_ / max(total, 1) for layer, sum_ in zip(layers, sums)}
