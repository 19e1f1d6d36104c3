"""What a node may do besides computing its results."""

from __future__ import annotations

from collections.abc import Callable

from graphopt.ir import Graph, Node, Trait

_MODES = ("training", "train")


def _drops(node: Node) -> bool:
    return bool(node.attr("dropout_p") != 0)


def _drops_between_layers(node: Node) -> bool:
    return bool(node.attr("dropout") != 0 and node.attr("train") is not False)


# Operators that draw numbers only in some configurations, by name without overload.
_DRAWS: dict[str, Callable[[Node], bool]] = {
    "aten.scaled_dot_product_attention": _drops,
    "aten.lstm": _drops_between_layers,
    "aten.gru": _drops_between_layers,
    "aten.rnn_tanh": _drops_between_layers,
    "aten.rnn_relu": _drops_between_layers,
}
_DROPOUTS = frozenset(
    f"aten.{name}"
    for name in ["dropout", "native_dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "rrelu"]
)


def is_deterministic(node: Node, trainable: bool = False) -> bool:
    """True if the results depend on the operands and attributes alone, and nothing else happens.

    A node in training mode draws numbers or updates statistics; one that follows its module's mode does so only
    where the result is trained. A node with regions is as pure as what they hold.
    """
    traits = node.op.traits
    if Trait.PURE in traits and Trait.RANDOM not in traits and Trait.EFFECT not in traits:
        return not is_training(node, trainable)
    if Trait.REGION in traits:
        return bool(node.regions) and all(
            is_deterministic(inner, trainable) for region in node.regions for inner in region
        )
    return Trait.EFFECT not in traits and Trait.RANDOM in traits and not _draws(node, trainable)


def is_training(node: Node, trainable: bool) -> bool:
    """True if the node computes as in training (batch statistics, dropout), or may where the graph is trained."""
    attributes = node.attributes
    for name in _MODES:
        if name in attributes:
            mode = attributes[name]
            return mode is True or (mode == "follow" and trainable)
    return False


def _draws(node: Node, trainable: bool) -> bool:
    base = ".".join(node.op.name.split(".", 2)[:2])
    if base in _DROPOUTS:
        # `native_dropout` takes None for True.
        modes = [node.attributes[name] for name in _MODES if name in node.attributes]
        return modes != [False] and (modes != ["follow"] or trainable)
    decide = _DRAWS.get(base)
    return decide is None or decide(node)


def is_removable(node: Node) -> bool:
    """True if the node may be dropped once its results are unused."""
    if Trait.REGION in node.op.traits:
        return bool(node.regions) and all(is_removable(inner) for region in node.regions for inner in region)
    return node.op.is_removable


def graph_and_regions(graph: Graph) -> list[Graph]:
    """Return `graph` and every region nested in it, inner ones first."""
    found: list[Graph] = []
    for node in graph:
        for region in node.regions:
            found += graph_and_regions(region)
    return [*found, graph]
