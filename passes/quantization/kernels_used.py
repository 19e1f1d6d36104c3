"""What PyTorch computes each quantized operator with: an integer kernel, or floating point on rounded numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from graphopt.analysis.integer_layers import IntegerLayer, integer_layers
from graphopt.ir import Graph, Node
from graphopt.passes.quantization.insertion import Layer
from graphopt.passmanager import PassContext

INTEGER, FAKE = "integer kernel", "fake quantization"
MOVED = frozenset(
    f"aten.{name}"
    for name in [
        "reshape",
        "view",
        "flatten",
        "permute",
        "transpose",
        "t",
        "squeeze",
        "unsqueeze",
        "slice",
        "select",
        "cat",
        "expand",
        "contiguous",
    ]
)
PYTORCH = ("fx", "eager", "inductor")


@dataclass(frozen=True)
class KernelUse:
    """name: of the layer's weight, or of an operator's result. kernel: `INTEGER` or `FAKE`. why: if it is `FAKE`."""

    name: str
    operator: str
    kernel: str
    why: str = ""


def runs_in_pytorch(context: PassContext) -> bool:
    """Whether PyTorch runs the result."""
    return (context.target if context.engine is None else context.engine.name) in PYTORCH


def kernels_used(
    graph: Graph, layers: Mapping[Node, Layer], others: Iterable[tuple[str, str]], trains: bool
) -> list[KernelUse]:
    """layers: by what they were, in a graph that is quantized now. others: name and operator of further nodes."""
    if trains:
        why = "the result trains, so that floats are rounded"
        everything = [(layer.name, node.op.base) for node, layer in layers.items()] + list(others)
        return [KernelUse(name, operator, FAKE, why) for name, operator in everything]
    found = integer_layers(graph)
    by_last = {kernel.last: kernel for kernel in found.values() if isinstance(kernel, IntegerLayer)}
    uses = []
    for node, layer in layers.items():
        kernel = found.get(layer.node) or by_last.get(layer.node) or _product_of(layer.node, found)
        why = kernel if isinstance(kernel, str) else ""
        uses.append(KernelUse(layer.name, node.op.base, FAKE if why else INTEGER, why))
    return uses + [_other(name, operator) for name, operator in others]


def _product_of(node: Node, found: Mapping[Node, IntegerLayer | str]) -> IntegerLayer | str:
    """What was found of the product in front of the sum that a layer ends with."""
    for value in node.operands:
        producer = None if value is None else value.producer
        if producer is not None and producer in found:
            return found[producer]
    return "no kernel was looked for"


def _other(name: str, operator: str) -> KernelUse:
    if operator in MOVED:
        return KernelUse(name, operator, INTEGER)
    return KernelUse(name, operator, FAKE, "PyTorch has no integer kernel for it")


def lines(uses: Iterable[KernelUse]) -> list[str]:
    """Sentences: how many run on integers, and why each other does not."""
    uses = list(uses)
    integer = sum(use.kernel == INTEGER for use in uses)
    found = [f"PyTorch runs {integer} of {len(uses)} quantized operators by integer kernels"] if uses else []
    reasons: dict[str, list[str]] = {}
    for use in uses:
        if use.why:
            reasons.setdefault(use.why, []).append(use.name)
    return found + [f"{FAKE}: {', '.join(names)}: {why}" for why, names in reasons.items()]
