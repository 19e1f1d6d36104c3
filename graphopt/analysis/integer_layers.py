"""Which layers PyTorch runs on integers, and why others are computed in floating point on rounded numbers.

    Q(clip(f(D(x), D(W), b)))   is one kernel on x and W, where f is a linear layer, a product or a convolution

A layer reads a quantized activation with one scale, and a stored weight of 8 signed bits without zero points. Where its
result is not quantized, or with a scale for each channel, the kernel gives floats.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from graphopt.ir import DType, Graph, Node, TensorType, Value
from graphopt.ops.quantization import find_format
from graphopt.ops.quantization.layers import lacking_kernels
from graphopt.targets.chip import get_chip

_FROM, _TO, _FAKE = "graphopt.dequantize", "graphopt.quantize", "graphopt.fake_quantize"
_PRODUCTS = {"aten.linear": (0, 1, 2), "aten.matmul": (0, 1, None), "aten.mm": (0, 1, None), "aten.addmm": (1, 2, 0)}
"""Which operands are the activation, the weight and the bias."""
_CONVOLUTIONS = ("aten.conv1d", "aten.conv2d", "aten.conv1d.padding", "aten.conv2d.padding")
NO_PAIR = "what it reads is no integer"


@dataclass(frozen=True)
class Affine:
    """A scale and a zero point, and the format of the integers."""

    scale: float
    zero_point: int
    format: str


@dataclass(frozen=True)
class IntegerLayer:
    """A layer that one integer kernel computes.

    node: the product or convolution. x, source: the integers that it reads, and what they stand for. weight: its
    integers [N, K] or [O, C/groups, *]; transposed: stored as [K, N]. weight_scale: one, or one for each output.
    bias: as floats. window: stride, padding, dilation and groups of a convolution. low, high: where the result is cut.
    last: whose result the kernel gives; result: how that is quantized, None if it is a float.
    """

    node: Node
    x: Value
    source: Affine
    weight: Value
    transposed: bool
    weight_scale: Value
    bias: torch.Tensor | None
    window: tuple[list[int], list[int], list[int], int] | None
    low: float | None
    high: float | None
    last: Node
    result: Affine | None


def integer_layers(graph: Graph) -> dict[Node, IntegerLayer | str]:
    """For each layer whose weight is rounded: the kernel that computes it, or why none does."""
    found = {node: integer_layer(node) for node in graph}
    return {node: layer for node, layer in found.items() if layer is not None}


def integer_layer(node: Node) -> IntegerLayer | str | None:
    """The kernel that computes a layer, or why none does; None if it is no layer on rounded numbers."""
    if node.name not in _PRODUCTS and node.name not in _CONVOLUTIONS:
        return None
    left, right, added = _PRODUCTS.get(node.name, (0, 1, 2))
    x, weight = node.operands[left], node.operands[right]
    assert x is not None and weight is not None
    stored = weight.producer
    if stored is None or stored.name not in (_FROM, _FAKE) or _constant(stored.operands[0]) is None:
        return _computed(x, weight)
    if stored.name == _FAKE:
        return "weights are rounded as they are read, since they train"
    lacking = lacking_kernels()
    if lacking is not None:
        return lacking
    source = _affine(x.producer, _FROM)
    if source is None:
        return NO_PAIR
    if isinstance(source, str):
        return f"what it reads has {source}"
    axis = 0 if node.name in _CONVOLUTIONS or node.name == "aten.linear" else 1
    scale = _weight_scale(stored, axis)
    if isinstance(scale, str):
        return f"its weight has {scale}"
    integers = stored.operands[0]
    assert integers is not None and integers.constant is not None and x.producer is not None
    if _saturates(integers.constant.tensor):
        return "this chip adds pairs of products in 16 bits, where weights of all 8 bits saturate; round them to 7"
    if added is None and len(x.shape) < 2:
        return "it is a product with a vector"
    if any(node.attributes.get(name, 1) != 1 for name in ("alpha", "beta")):
        return "its operands are scaled by numbers of its own"
    window = None
    if node.name in _CONVOLUTIONS:
        window = _window(node, integers)
        if window is None:
            return "its padding differs before and behind"
    operand = None if added is None else node.operands[added]
    bias, last = _stored(operand), node
    if operand is not None and (bias is None or bias.dim() != 1):
        return "its bias is not one stored number for each output"
    if added is None:
        bias, last = _sum_behind(node, int(integers.shape[-1]))
    low, high, last, result = _tail(last)
    q = x.producer.operands[0]
    assert q is not None
    return IntegerLayer(node, q, source, integers, axis == 1, scale, bias, window, low, high, last, result)


def affine_of(node: Node | None, name: str) -> Affine | None:
    """What a conversion of that name says, if it is one of single-precision numbers and bytes with one scale."""
    found = _affine(node, name)
    return found if isinstance(found, Affine) else None


def _computed(x: Value, weight: Value) -> str | None:
    """Why a product of activations is computed in floating point, if it is one of rounded ones."""
    if all(v.producer is not None and v.producer.name in (_FROM, _FAKE) for v in (x, weight)):
        return "PyTorch has no integer kernel for products of activations"
    return None


def _constant(value: Value | None) -> torch.Tensor | None:
    return None if value is None or value.constant is None else value.constant.tensor.detach()


def _affine(node: Node | None, name: str) -> Affine | str | None:
    """What a conversion says, or what is not right with it; None if there is none."""
    if node is None or node.name != name:
        return None
    scale, zero = _constant(node.operands[1]), _constant(node.operands[2])
    if scale is None or (node.operands[2] is not None and zero is None):
        return "a scale that is computed"
    if scale.numel() != 1 or node.attr("axis") is not None:
        return "a scale for each channel or block"
    integers = node.result if name == _TO else node.operands[0]
    if integers is None or not isinstance(integers.type, TensorType) or integers.type.dtype.storage not in (
        torch.int8, torch.uint8
    ):  # fmt: skip
        return "more than 8 bits, or floating-point numbers"
    floats = node.operands[0] if name == _TO else node.result
    if floats is None or not isinstance(floats.type, TensorType) or floats.type.dtype is not DType.F32:
        return "half or double precision"
    return Affine(float(scale), 0 if zero is None else int(zero), node.attr("dtype"))


def _weight_scale(stored: Node, axis: int) -> Value | str:
    scale, zero = _constant(stored.operands[1]), _constant(stored.operands[2])
    integers = stored.operands[0]
    assert integers is not None
    if integers.type.dtype.storage is not torch.int8 or (zero is not None and bool(zero.any())):  # type: ignore[union-attr]
        return "no 8 signed bits without zero points, as the kernels read"
    along, rank = stored.attr("axis"), len(integers.shape)
    if scale is None or scale.dtype is not torch.float32:
        return "scales that are computed, or not in single precision"
    if stored.attr("block_size") or (along is not None and along % rank != axis):
        return "scales that are not those of output channels"
    if axis == 1 and rank != 2:
        return "more than two dims"
    value = stored.operands[1]
    assert value is not None
    return value


def _saturates(weight: torch.Tensor) -> bool:
    return get_chip().saturates and int(weight.to(torch.int16).abs().amax()) > 64


def _stored(value: Value | None) -> torch.Tensor | None:
    """A bias as floats, stored so or as integers."""
    if value is None or value.constant is not None:
        return _constant(value)
    node = value.producer
    if node is None or node.name != _FROM:
        return None
    q, scale = _constant(node.operands[0]), _constant(node.operands[1])
    return None if q is None or scale is None or node.operands[2] is not None else q.float() * scale


def _window(node: Node, weight: Value) -> tuple[list[int], list[int], list[int], int] | None:
    """Stride, padding, dilation and groups; None if the padding is not the same on both sides."""
    dims = len(weight.shape) - 2

    def each(name: str) -> list[int]:
        given = node.attr(name)
        given = list(given) if isinstance(given, tuple | list) else [given]
        return given * dims if len(given) == 1 else given

    dilation, padding = each("dilation"), node.attr("padding")
    if padding == "valid":
        sizes = [0] * dims
    elif padding == "same":
        whole = [d * (int(k) - 1) for d, k in zip(dilation, weight.shape[2:])]
        if any(size % 2 for size in whole):
            return None
        sizes = [size // 2 for size in whole]
    else:
        sizes = each("padding")
    return each("stride"), sizes, dilation, int(node.attr("groups"))


def _only_user(value: Value) -> Node | None:
    """The one node that reads a value, if nothing else does."""
    user = value.users[0] if value.num_uses == 1 else None
    return user if isinstance(user, Node) and user.results else None


def _sum_behind(node: Node, outputs: int) -> tuple[torch.Tensor | None, Node]:
    """The bias that is added behind a product."""
    user = _only_user(node.result)
    if user is not None and user.name == "aten.add.Tensor" and user.attr("alpha") == 1:
        other = user.operands[1] if user.operands[0] is node.result else user.operands[0]
        bias = _stored(other)
        if bias is not None and list(bias.shape) == [outputs] and bias.dtype is torch.float32:
            return bias, user
    return None, node


def _tail(node: Node) -> tuple[float | None, float | None, Node, Affine | None]:
    """The cut behind a layer, whose result the kernel gives, and how that is quantized."""
    low: float | None = None
    high: float | None = None
    user = _only_user(node.result)
    while user is not None and user.name in _CUTS:
        bounds = _bounds(user)
        if bounds is None:
            break
        low, high = _within(low, high, *bounds)
        node, user = user, _only_user(user.result)
    result = _affine(user, _TO)
    if user is None or not isinstance(result, Affine) or result.format not in ("int8", "uint8"):
        return low, high, node, None
    return *_needed(low, high, result), user, result


_CUTS = ("aten.relu", "aten.relu6", "aten.hardtanh", "aten.clamp")


def _bounds(node: Node) -> tuple[float | None, float | None] | None:
    if node.name == "aten.relu":
        return 0.0, None
    if node.name == "aten.relu6":
        return 0.0, 6.0
    names = ("min", "max") if node.name == "aten.clamp" else ("min_val", "max_val")
    found = [node.attributes.get(name) for name in names]
    if not all(x is None or isinstance(x, int | float) for x in found):
        return None
    return found[0], found[1]


def _within(
    low: float | None, high: float | None, lower: float | None, upper: float | None
) -> tuple[float | None, float | None]:
    """The bounds of two cuts, the second behind the first: clip(clip(x, a, b), c, d) = clip(x, A, B)."""

    def moved(x: float | None) -> float | None:
        if x is None:
            return None
        x = x if lower is None else max(x, lower)
        return x if upper is None else min(x, upper)

    return (lower if low is None else moved(low)), (upper if high is None else moved(high))


def _needed(low: float | None, high: float | None, result: Affine) -> tuple[float | None, float | None]:
    """The bounds without those that quantization saturates at anyway."""
    format_ = find_format(result.format)
    least, greatest = ((bound - result.zero_point) * result.scale for bound in (format_.low, format_.high))
    return (None if low is None or low <= least else low), (None if high is None or high >= greatest else high)
