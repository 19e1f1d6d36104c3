"""Masks whose numbers are known when the model is compiled: stored, or computed from what is."""

from __future__ import annotations

import torch

from graphopt.errors import GraphOptError
from graphopt.ir import Node, Value
from graphopt.ops.effects import is_pure
from graphopt.passes.attention.sites import Site
from graphopt.passes.support.evaluation import evaluate, stored_tensor, type_bytes
from graphopt.rewrite.pattern import Surroundings

_DEPTH = 256
"""Nodes that may make a mask."""
_LARGEST = 1 << 29
"""Bytes of a mask, and of what it is made of."""


def known_tensor(value: Value, surroundings: Surroundings) -> torch.Tensor | None:
    """What a value always holds, computed by its operators' own semantics; None where it depends on an input."""
    order = _makers(value, surroundings)
    if order is None:
        return None
    found: dict[Value, torch.Tensor] = {}
    for node in order:
        operands = [None if v is None else found[v] if v in found else stored_tensor(v) for v in node.operands]
        try:
            found |= zip(node.results, evaluate(node, operands))
        except (RuntimeError, IndexError, ValueError, NotImplementedError, TypeError):
            return None
    return found[value] if value in found else stored_tensor(value)


def _makers(value: Value, surroundings: Surroundings) -> list[Node] | None:
    """The nodes that make a value, in order; None if they read an input, or are too many or too large to run."""
    order: dict[Node, None] = {}
    pending: list[tuple[Value, bool]] = [(value, False)]
    while pending:
        current, ready = pending.pop()
        node = current.producer
        if node is None:
            if not surroundings.is_fixed(current):
                return None
        elif ready:
            order[node] = None
        elif node not in order:
            if len(order) >= _DEPTH or node.regions or not is_pure(node) or node.op.evaluate is None:
                return None
            if any((type_bytes(result) or _LARGEST) >= _LARGEST for result in node.results if result.num_uses):
                return None
            pending.append((current, True))
            pending += [(operand, False) for operand in node.inputs]
    return list(order)


def by_head(mask: torch.Tensor, site: Site) -> torch.Tensor | str:
    """A mask as [H or 1, L, S], or why it has no such form.

    Raises:
        GraphOptError: its shape is not one that the scores' can be taken for.
    """
    batch, length, keys = site.dims
    if not isinstance(length, int) or not isinstance(keys, int):
        return "its sizes are dynamic"
    scores = (batch, length, keys) if site.single else (batch, site.heads[0], length, keys)
    if mask.dim() > len(scores) or any(
        have != 1 and isinstance(want, int) and have != want for have, want in zip(mask.shape[::-1], scores[::-1])
    ):
        shapes = f"[{', '.join(map(str, mask.shape))}] for scores of [{', '.join(map(str, scores))}]"
        raise GraphOptError(f"{site.node!r}: its mask has the shape {shapes}; give one that broadcasts to them")
    mask = mask.reshape((1,) * (len(scores) - mask.dim()) + tuple(mask.shape))
    if site.single:
        mask = mask.unsqueeze(1)
    alike = _first_if_alike(mask, 0)
    if alike.shape[0] > 1:
        return "its mask is another one for each sample"
    return _first_if_alike(alike[0], 0).expand(-1, length, keys)


def _first_if_alike(mask: torch.Tensor, dim: int) -> torch.Tensor:
    first = mask.narrow(dim, 0, 1) if mask.shape[dim] else mask
    return first if bool((mask == first).all()) else mask
