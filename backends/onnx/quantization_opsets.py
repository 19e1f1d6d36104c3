"""From which opset on ONNX can say a quantization."""

from __future__ import annotations

from graphopt.ir import DType, Node
from graphopt.ops.quantization import find_format

SINCE = {
    **dict.fromkeys((DType.F8E4M3FN, DType.F8E4M3FNUZ, DType.F8E5M2, DType.F8E5M2FNUZ), 19),
    **dict.fromkeys((DType.I4, DType.U4, DType.I16, DType.U16), 21),
    DType.F4E2M1: 23,
    **dict.fromkeys((DType.I2, DType.U2), 25),
    **dict.fromkeys((DType.F6E2M3, DType.F6E3M2), 28),
}
"""The opset from which on `QuantizeLinear` and `DequantizeLinear` know an element type; 10 for those not listed."""
PER_AXIS, IN_BLOCKS, HALF_PRECISION, PRECISION = 13, 21, 19, 23
"""What else came when: a scale along an axis, in blocks, in half precision; a precision of its own for the quotient."""

_PAIRS = ("graphopt.quantize", "graphopt.dequantize", "graphopt.fake_quantize")


def least_opset(dtype: DType, axis: int | None = None, block_size: int = 0) -> int:
    """The opset that a quantization to an element type needs.

    >>> least_opset(DType.I8), least_opset(DType.I8, axis=0), least_opset(DType.I4)
    (10, 13, 21)
    """
    granularity = IN_BLOCKS if block_size else PER_AXIS if axis is not None else 10
    return max(SINCE.get(dtype, 10), granularity)


def needed_opset(node: Node) -> int:
    """The opset that a node needs for its quantization; 0 for other nodes."""
    if node.name == "graphopt.lookup":
        scale = node.arguments()["scale"]
        return 0 if scale is None else SINCE.get(scale.dtype, 0)
    if node.name not in _PAIRS:
        return 0
    return least_opset(find_format(node.attr("dtype")).dtype, node.attr("axis"), node.attr("block_size"))
