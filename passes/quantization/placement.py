"""Which values get a pair of quantize and dequantize, and which of them must share a scale.

Layers with weights are quantized. Any other operator is if its result is read as integers: then it may run on integers
between integer neighbours. So a pair is placed where a target's kernel reads or writes integers, and nowhere else; a
ReLU or a clip stays with the operator before it, and the pair comes behind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from graphopt.ir import DType, Graph, Node, TensorType, Value
from graphopt.passes.quantization.profiles import Fusion, Profile


@dataclass
class Placement:
    """The plan for a graph.

    layers: nodes whose weight is quantized, with how. others: further quantized nodes.
    pairs: the values that get a pair, in the order of the graph. channelwise: those that may have a scale for each
    channel, with the axis of channels from the end. reasons: why a node that the target knows was left.
    """

    layers: dict[Node, Fusion] = field(default_factory=dict)
    others: dict[Node, Fusion] = field(default_factory=dict)
    pairs: list[Value] = field(default_factory=list)
    channelwise: dict[Value, int] = field(default_factory=dict)
    reasons: dict[Node, str] = field(default_factory=dict)
    _shares: dict[Value, Value] = field(default_factory=dict)

    def scale_of(self, value: Value) -> Value:
        """The value that stands for all that have one scale with `value`."""
        while value in self._shares:
            value = self._shares[value]
        return value

    def share(self, first: Value, second: Value) -> None:
        """Let two values have one scale."""
        a, b = self.scale_of(first), self.scale_of(second)
        if a is not b:
            self._shares[b] = a

    def sources(self) -> dict[Value, list[Value]]:
        """For each scale the values from which all others that have it are taken."""
        taken = {tail for node, f in self.others.items() if f.result == "same" for tail in node.results}
        found: dict[Value, list[Value]] = {}
        for value in self.pairs:
            members = found.setdefault(self.scale_of(value), [])
            if value not in taken:
                members.append(value)
        return found


def place(graph: Graph, profile: Profile, ignored: Callable[[Node], str | None]) -> Placement:
    """Plan the pairs of a graph. ignored: why a node is left in floating point on request, or None."""
    plan = Placement()
    needed: dict[Value, None] = {}
    for node in reversed(list(graph)):
        fusion = profile.fusions.get(node.name)
        if fusion is None:
            if any(_is_weight(value) for value in node.inputs):
                plan.reasons[node] = "the target has no integer kernel for it"
            continue
        result = tail_of(node, profile)
        is_layer = bool(fusion.weight) and weight_of(node, fusion) is not None
        if not is_layer and not _between_integers(fusion, result, needed):
            continue
        reason = ignored(node) or _unfit(node, fusion, is_layer, graph)
        if reason is not None:
            plan.reasons[node] = reason
            continue
        (plan.layers if is_layer else plan.others)[node] = fusion
        operands = [v for v in activations_of(node, fusion, is_layer) if v is not _absorbed(node, profile)]
        needed.update(dict.fromkeys(operands))
        if fusion.result == "integer":
            needed[result] = None
        if fusion.result == "same":
            for operand in operands:
                plan.share(result, operand)
    plan.layers, plan.others = (dict(reversed(found.items())) for found in (plan.layers, plan.others))
    order = {value: i for i, value in enumerate((*graph.inputs, *(r for node in graph for r in node.results)))}
    plan.pairs = sorted(needed, key=lambda value: order.get(value, -1))
    if profile.channelwise:
        plan.channelwise = {value: -1 - _spatial(value.users[0]) for value in plan.pairs if _by_channel(value, plan)}
    return plan


def _absorbed(node: Node, profile: Profile) -> Value | None:
    """What a sum reads of the layer that it goes into; None if it goes into none."""
    for value in node.inputs:
        layer = value.producer
        fusion = None if layer is None else profile.fusions.get(layer.name)
        if layer is None or fusion is None or node.name not in fusion.absorbs or value.num_uses != 1:
            continue
        if weight_of(layer, fusion) is not None:
            return value
    return None


def _by_channel(value: Value, plan: Placement) -> bool:
    """True if all that read a value are depthwise convolutions on integers."""
    return value.constant is None and all(
        isinstance(user, Node)
        and user in plan.layers
        and user.op.base.startswith("aten.conv")
        and user.attr("groups") == value.shape[-1 - _spatial(user)] != 1
        for user in value.users
    )


def _spatial(node: Node) -> int:
    """The number of spatial dims of a convolution."""
    return int(node.op.base[len("aten.conv")])


def _between_integers(fusion: Fusion, result: Value, needed: dict[Value, None]) -> bool:
    """True if something reads the result as integers; a product of activations is worth it by itself."""
    return result in needed or (fusion.result == "any" and not fusion.bias)


def tail_of(node: Node, profile: Profile) -> Value:
    """The result, behind the clips that go into its quantization."""
    value, tails = node.results[0], profile.tails_of(node.name)
    while value.num_uses == 1 and value.users[0].name in tails:
        value = value.users[0].results[0]
    return value


def weight_of(node: Node, fusion: Fusion) -> Value | None:
    """The stored weight, or None if it is computed."""
    weight = node.arguments().get(fusion.weight)
    return weight if isinstance(weight, Value) and weight.constant is not None else None


def _is_weight(value: Value) -> bool:
    type_ = value.type
    return value.constant is not None and isinstance(type_, TensorType) and type_.dtype is DType.F32 and type_.rank > 1


def activations_of(node: Node, fusion: Fusion, is_layer: bool) -> list[Value]:
    """The operands that are activations; a weight that is computed is one, too."""
    arguments = node.arguments()
    names = fusion.inputs if is_layer or not fusion.weight else (*fusion.inputs, fusion.weight)
    found: list[Value] = []
    for name in names:
        given = arguments[name]
        found += given if isinstance(given, tuple) else [given]
    return found


def _unfit(node: Node, fusion: Fusion, is_layer: bool, graph: Graph) -> str | None:
    if is_layer and activations_of(node, fusion, True)[0].constant is not None:
        return "what it reads is stored"
    if any(value.name in graph.mutations for value in node.inputs if value.constant is not None):
        return "it reads a buffer that the model updates"
    bias = node.arguments().get(fusion.bias)
    if is_layer and isinstance(bias, Value) and len(bias.shape) != 1:
        return "its bias is not one number for each output"
    types = [value.type for value in (*node.inputs, node.results[0])]
    if not all(isinstance(t, TensorType) and t.dtype is DType.F32 for t in types):
        return "it does not compute in single precision"
    if node.attributes.get("alpha", 1) != 1 or node.attributes.get("beta", 1) != 1:
        return "its operands are scaled by numbers of its own"
    if fusion.weight and not fusion.bias and weight_of(node, fusion) is not None and len(node.operands[1].shape) != 2:  # type: ignore[union-attr]
        return "its weight is no matrix"
    return None
