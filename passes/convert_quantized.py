"""Make integers of fake quantization, as after training with it.

FQ(x) → D(Q(x))          FQ(W) → D(W_q), W_q stored          b → D(b_q), b_q = round(b / (s_x s_w)) in 32 bits
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from graphopt.errors import GraphOptError, requested
from graphopt.ir import Graph, Node, Value
from graphopt.ops.quantization import find_format
from graphopt.ops.quantization.arithmetic import quantized
from graphopt.passes.quantization.insertion import integer_bias, operand_index, stored
from graphopt.passes.quantization.profiles import Profile, profile_for
from graphopt.passes.support.constants import drop_unused
from graphopt.passmanager import Pass, PassContext, PassResult
from graphopt.rewrite import Contract, Rewriter

_FAKE, _BACK = "graphopt.fake_quantize", "graphopt.dequantize"


@dataclass(frozen=True)
class ConvertQuantized(Pass):
    """Replace fake quantization by stored integers and pairs of quantize and dequantize, and biases by 32-bit integers.

    The numbers stay, but for the rounding of biases. profile: the target whose kernels are meant; by default the one
    compiled for.
    """

    contract = Contract.LOSSY
    establishes = frozenset({"quantized"})

    profile: str = ""

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Rewrite `graph` in place.

        Raises:
            GraphOptError: a scale that is not positive, as training may leave one.
        """
        rewriter = Rewriter(graph, context.listeners)
        fakes = [node for node in graph if node.name == _FAKE]
        with requested():
            for node in fakes:
                _check(node)
            profile = profile_for(self.profile, context)
        fixed: dict[Value, Value] = {}
        for node in fakes:
            read = [v for v in node.operands if v is not None and v.constant is not None]
            with rewriter.at(node, self.name):
                rewriter.replace(node, [_converted(node, profile, fixed, rewriter)])
            drop_unused(rewriter, *read)
        biases = _integer_biases(graph, profile, rewriter, self.name) if profile.integer_bias else 0
        notes = [f"{len(fakes)} roundings became integers, {biases} biases"] if fakes or biases else []
        return PassResult(rewriter.changed, notes=notes)


def _check(node: Node) -> None:
    scale = stored(node.operands[1])
    if scale is not None and not bool((scale > 0).all()):
        raise GraphOptError(f"%{node.operands[1].name} of {node!r} is not positive; train with a smaller rate")  # type: ignore[union-attr]


def _converted(node: Node, profile: Profile, fixed: dict[Value, Value], rewriter: Rewriter) -> Value:
    """fixed: what stands for scales that were parameters."""
    x, scale, zero = node.operands
    assert x is not None and scale is not None
    name, axis, block_size = node.attr("dtype"), node.attr("axis"), node.attr("block_size")
    tensor, number = stored(x), stored(scale)
    if number is not None and scale not in fixed:
        fixed[scale] = rewriter.constant(number, f"{scale.name}_fixed")
    scale = fixed.get(scale, scale)
    if tensor is None or number is None or (zero is not None and zero.constant is None):
        q = rewriter.create("graphopt.quantize", x, scale, zero, name, axis, block_size).result
    else:
        format_ = find_format(name)
        offset = None if zero is None or zero.constant is None else zero.constant.tensor
        integers = quantized(tensor, number, offset, format_, axis, block_size)
        if not format_.is_float and format_.low < 0 and zero is None:
            format_ = profile.stored(format_)
        q = rewriter.constant(integers.to(format_.storage), f"{x.name}_quantized", dtype=format_.dtype)
        name = format_.name
    return rewriter.create(_BACK, q, scale, zero, name, axis, block_size).result


def _integer_biases(graph: Graph, profile: Profile, rewriter: Rewriter, name: str) -> int:
    count = 0
    for node in list(graph):
        fusion = profile.fusions.get(node.name)
        if fusion is None or not fusion.bias or (node.name == "aten.linear" and len(node.operands[0].shape) != 2):  # type: ignore[union-attr]
            continue
        arguments = node.arguments()
        bias = stored(arguments[fusion.bias])
        scales = [_scale_of(arguments[operand]) for operand in (fusion.inputs[0], fusion.weight)]
        if bias is None or scales[0] is None or scales[1] is None or scales[0].numel() != 1:
            continue
        old = arguments[fusion.bias]
        with rewriter.at(node, name):
            new = integer_bias(rewriter, bias, scales[0].reshape(()) * scales[1], old.name)
        rewriter.set_operand(node, operand_index(node, fusion.bias), new)
        drop_unused(rewriter, old)
        count += 1
    return count


def _scale_of(value: Value) -> torch.Tensor | None:
    """The stored scale of a dequantized value."""
    producer = value.producer
    return stored(producer.operands[1]) if producer is not None and producer.name == _BACK else None
