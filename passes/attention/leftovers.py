"""What made a mask, once no attention reads it any more."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from graphopt.ir import Value
from graphopt.ops.effects import is_removable
from graphopt.passes.support.constants import drop_unused
from graphopt.passmanager import PassContext
from graphopt.rewrite import Rewriter


def drop_leftovers(rewriter: Rewriter, values: Iterable[Value], context: PassContext) -> None:
    """Drop those values that nothing uses, and what only they used."""
    removable = context.removable or partial(is_removable, trainable=context.trainable)
    pending = list(values)
    while pending:
        value = pending.pop()
        node = value.producer
        if node is None:
            drop_unused(rewriter, value)
        elif node.graph is not None and not any(r.num_uses for r in node.results) and removable(node):
            pending += node.inputs
            rewriter.erase(node)
