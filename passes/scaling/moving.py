"""Applying factors: every stored tensor times its own, in double precision, rounded once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from graphopt.ir import Node, Value
from graphopt.passes.scaling.homogeneous import clip_bounds
from graphopt.passes.scaling.spaces import Space, Spaces
from graphopt.passes.support.blocks import scaled
from graphopt.passes.support.evaluation import stored_tensor
from graphopt.rewrite import Rewriter

LIMIT = 2.0**16
"""No channel is scaled by more, or less, than this."""


def apply(spaces: Spaces, scales: np.ndarray, rewriter: Rewriter, name: str, clipped: Sequence[Node] = ()) -> list[str]:
    """Multiply what is stored by the factors `scales`, [count + 1] with 1 at 0.

    name: of the pass. clipped: clips that get bounds by channel.

    Each tensor keeps its place and its names. Returns notes; nothing is changed if a number would not be finite.
    """
    new: dict[Value, torch.Tensor] = {}
    for value, factors in _products(spaces, scales).items():
        if (factors == 1).all():
            continue
        tensor = stored_tensor(value)
        found = scaled(tensor, torch.from_numpy(np.ascontiguousarray(factors)).to(tensor.device))
        if found is None:
            return [f"nothing was moved, for numbers of {value.name} would not be finite"]
        new[value] = found
    for node in clipped:
        _clip_by_channel(node, spaces, scales, rewriter, name)
    for value, space in spaces.inserted.items():
        _divide(value, space, scales, rewriter, name)
    successors = {value: rewriter.constant_like(value, tensor, succeeds=True) for value, tensor in new.items()}
    for value, successor in successors.items():
        rewriter.replace_value(value, successor)
    rewriter.succeed_constants(successors)
    return []


def bounded(scales: np.ndarray) -> np.ndarray:
    """Factors within reason: 1 where they are none."""
    return np.clip(np.where(np.isfinite(scales) & (scales > 0), scales, 1.0), 1 / LIMIT, LIMIT)


def _products(spaces: Spaces, scales: np.ndarray) -> dict[Value, np.ndarray]:
    found: dict[Value, np.ndarray] = {}
    for factor in spaces.factors:
        own = scales[factor.channels] ** factor.exponent
        found[factor.constant] = found[factor.constant] * own if factor.constant in found else own
    return found


def _divide(value: Value, space: Space, scales: np.ndarray, rewriter: Rewriter, name: str) -> None:
    """Divide what layers read by a stored vector, in front of the first of them.

    A division and no product: a target that multiplies integers would round the value before it is smoothed.
    """
    factors = scales[space.channels]
    if (factors == 1).all():
        return
    nodes = [node for reader in space.readers for node in reader.nodes]
    vector = rewriter.constant(torch.from_numpy(1 / factors).to(value.dtype.torch), "smoothing", device=_device(value))
    with rewriter.at(nodes[0], name):
        quotient = rewriter.create("aten.div.Tensor", value, vector).result
    for node in nodes:
        rewriter.set_operand(node, node.operands.index(value), quotient)


def _clip_by_channel(node: Node, spaces: Spaces, scales: np.ndarray, rewriter: Rewriter, name: str) -> None:
    """clip(x, a, b) → clip(x, t a, t b), bounds being one number a channel."""
    x = node.operands[0]
    assert x is not None
    factors = scales[spaces.of(x)]
    if (factors == 1).all():
        return
    low, high = clip_bounds(node)
    with rewriter.at(node, name):
        bounds = [None if b is None else _bound(b, factors, x, rewriter) for b in (low, high)]
        rewriter.replace(node, [rewriter.create("aten.clamp.Tensor", x, *bounds).result])


def _bound(bound: float, factors: np.ndarray, x: Value, rewriter: Rewriter) -> Value:
    tensor = torch.from_numpy(np.ascontiguousarray(bound * factors)).to(x.dtype.torch)
    return rewriter.constant(tensor, "bound", device=_device(x))


def _device(value: Value) -> str:
    return value.type.device  # type: ignore[union-attr]
