"""How a caller's arguments map to graph inputs, and graph outputs to the caller's results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Slot:
    """A leaf of the pytree that is an input (or output) of the graph, by index."""

    index: int


@dataclass(frozen=True, slots=True)
class Literal:
    """A leaf that is fixed at capture: a number, string or None that the graph was specialised to."""

    value: Any


Leaf = Slot | Literal


@dataclass(frozen=True, slots=True)
class Signature:
    """The calling convention of a captured model.

    in_tree, out_tree: `torch.utils._pytree.TreeSpec` of `(args, kwargs)` and of the result.
    in_leaves, out_leaves: one entry for each leaf. in_names: a name for each leaf, for messages.
    parameters: the names under which the original takes positional arguments, in order. defaults: those of its
        arguments that are numbers, strings or None; so that a call may pass or omit them as it likes.
    """

    in_tree: Any
    out_tree: Any
    in_leaves: tuple[Leaf, ...]
    out_leaves: tuple[Leaf, ...]
    in_names: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    defaults: tuple[tuple[str, Any], ...] = ()
