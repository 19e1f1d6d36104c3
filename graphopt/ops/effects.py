"""What a node may do besides computing its results: what CSE, folding and dead-code removal ask.

Traits belong to operators; whether `dropout` draws numbers or `batch_norm` updates its statistics is up to a node's
attributes. An operator without traits (a custom one) may do anything.

A mode attribute that follows its module (`training="follow"`) is False wherever a graph is run or optimized for
inference. Say `trainable=True` where the result is to be trained: there the node may be in training mode.
"""

from __future__ import annotations

from graphopt.ir import Node, Trait
from graphopt.ir.fresh import new_symbols

_MODES = ("training", "train")
_PROBABILITIES = ("p", "dropout_p", "dropout")
# Where these run in training mode, they write running statistics that their schema calls read-only.
_UPDATES = {
    f"aten.{name}": mode
    for name, mode in {
        "batch_norm": "training",
        "native_batch_norm": "training",
        "cudnn_batch_norm": "training",
        "miopen_batch_norm": "training",
        "_batch_norm_impl_index": "training",
        "instance_norm": "use_input_stats",
    }.items()
}


def is_random(node: Node, trainable: bool = False) -> bool:
    """True if the results are not a function of the operands and attributes: drawn, or never written (`empty`).

    >>> from graphopt.ops import parse
    >>> node, = parse("input %x: f32[2]\\n%y = dropout(%x) {p=0.5, train=false}\\nreturn %y")
    >>> is_random(node)
    False
    """
    if Trait.RANDOM in node.op.traits:
        return _in_training(node, _MODES, trainable) and not _never_drops(node)
    return any(is_random(inner, trainable) for region in node.regions for inner in region)


def has_effect(node: Node, trainable: bool = False) -> bool:
    """True if the node does, or may do, something that its results don't show."""
    traits = node.op.traits
    if Trait.EFFECT in traits:
        return True
    if Trait.REGION in traits:
        return not node.regions or any(has_effect(inner, trainable) for region in node.regions for inner in region)
    if Trait.PURE not in traits and Trait.RANDOM not in traits:
        return True
    mode = _UPDATES.get(node.op.base)
    if mode is None or node.operand("running_mean") is None:
        return False
    return _in_training(node, (mode,), trainable)


def is_pure(node: Node, trainable: bool = False) -> bool:
    """True if the node may be merged with its like, computed ahead of time, or moved.

    False too for a node that introduces a symbol (`nonzero`): others may mention the symbol.
    """
    traits = node.op.traits
    if Trait.PURE in traits and Trait.EFFECT not in traits:
        if node.op.base in _UPDATES and has_effect(node, trainable):
            return False
    elif has_effect(node, trainable) or is_random(node, trainable):
        return False
    return not new_symbols(node)


def is_removable(node: Node, trainable: bool = False) -> bool:
    """True if the node may be dropped when its results are unused: it has no effect, and introduces no symbol."""
    return not has_effect(node, trainable) and not new_symbols(node)


def _in_training(node: Node, modes: tuple[str, ...], trainable: bool) -> bool:
    """True unless an attribute says that the node does not compute as in training (None stands for yes)."""
    for name in modes:
        if name in node.attributes:
            mode = node.attributes[name]
            return mode is not False and (mode != "follow" or trainable)
    return True


def _never_drops(node: Node) -> bool:
    return any(node.attributes.get(name) == 0 for name in _PROBABILITIES)
