"""What targets do with quantized operators, as data: which operands they take quantized, at which granularity, and
whether the result has to be.

ONNX Runtime puts the integer kernel in the place of a group dequantize → operator → quantize. `Conv`, `Add` and
poolings are found only if the result is quantized, too; products of matrices also run from integers to floats. What
only moves elements runs on integers if input and result have one scale. A ReLU or a clip in front of the quantization
goes into it.

TensorRT and OpenVINO fuse by themselves what stands between quantized inputs, so they want pairs at the inputs alone;
TensorRT takes symmetric scales only. A depthwise convolution sums over no channels, so what it reads may have a scale
for each, as OpenVINO takes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from graphopt.errors import unknown_name
from graphopt.ops.quantization import Format, find_format


@dataclass(frozen=True)
class Fusion:
    """How a target runs an operator on integers.

    inputs: parameters that are activations. weight: the parameter that is a stored weight, with its output channels
    along `channels`. bias: the parameter that is a bias.
    result: "integer": must be quantized; "any": may stay a float; "same": has the scale of the inputs.
    """

    inputs: tuple[str, ...]
    weight: str = ""
    channels: int = 0
    bias: str = ""
    result: Literal["integer", "any", "same"] = "integer"


@dataclass(frozen=True)
class Profile:
    """What a target wants.

    fusions: by operator. tails: operators that go into the quantization behind them.
    activations: the format of activations; symmetric: without zero points. integer_bias: whether biases are stored as
    32-bit integers of scale s_x·s_w. narrowest: the fewest bits that kernels read weights in; narrower ones are stored
    in so many. channelwise: whether depthwise convolutions read a scale for each channel.
    byte_pairs: whether kernels multiply unsigned by signed bytes and, on chips that have no better, add the
    products in pairs, in 16 bits. split_linear: whether a linear layer on more than two dims is to be a product with
    a transposed weight, since that is what is written.
    """

    fusions: dict[str, Fusion]
    tails: frozenset[str] = frozenset()
    activations: str = "uint8"
    symmetric: bool = False
    integer_bias: bool = True
    narrowest: int = 8
    channelwise: bool = False
    byte_pairs: bool = True
    split_linear: bool = True

    def stored(self, format_: Format) -> Format:
        """The format that weights of a signed format are stored in."""
        return find_format(f"int{self.narrowest}") if format_.bits < self.narrowest else format_


def _convolutions(result: Literal["integer", "any"]) -> dict[str, Fusion]:
    fusion = Fusion(("input",), "weight", 0, "bias", result)
    return {f"aten.conv{n}d{kind}": fusion for n in (1, 2) for kind in ("", ".padding")}


_PRODUCTS = {
    "aten.linear": Fusion(("input",), "weight", 0, "bias", "any"),
    "aten.addmm": Fusion(("mat1",), "mat2", 1, "self", "any"),
    "aten.matmul": Fusion(("self",), "other", -1, "", "any"),
    "aten.mm": Fusion(("self",), "mat2", 1, "", "any"),
    "aten.bmm": Fusion(("self", "mat2"), result="any"),
}
_MOVES = {
    name: Fusion((operand,), result="same")
    for operand, names in (
        ("self", "max_pool2d reshape view flatten.using_ints permute transpose.int t squeeze squeeze.dim unsqueeze"),
        ("self", "slice.Tensor select.int expand contiguous"),
    )
    for name in (f"aten.{word}" for word in names.split())
}
_MOVES["aten.cat"] = Fusion(("tensors",), result="same")
_ELEMENTWISE = {f"aten.{name}.Tensor": Fusion(("self", "other")) for name in ("add", "mul")}
_POOLS = {f"aten.{name}": Fusion(("self",)) for name in ("avg_pool2d", "adaptive_avg_pool2d", "leaky_relu")}
_CLIPS = frozenset(f"aten.{name}" for name in ("relu", "relu6", "hardtanh", "clamp"))

PROFILES: dict[str, Profile] = {
    "onnxruntime": Profile({**_convolutions("integer"), **_PRODUCTS, **_MOVES, **_ELEMENTWISE, **_POOLS}, tails=_CLIPS),
    "openvino": Profile({**_convolutions("any"), **_PRODUCTS, **_ELEMENTWISE}, channelwise=True, split_linear=False),
    "tensorrt": Profile(
        {**_convolutions("any"), **_PRODUCTS, **_ELEMENTWISE},
        activations="int8",
        symmetric=True,
        integer_bias=False,
        byte_pairs=False,
        split_linear=False,
    ),
}
_SAME = {
    "onnx": "onnxruntime",
    "cpu": "onnxruntime",
    "fx": "onnxruntime",
    "eager": "onnxruntime",
    "inductor": "onnxruntime",
}


def get_profile(target: str) -> Profile:
    """Return what a target wants; what runs on PyTorch is quantized as for ONNX Runtime.

    Raises:
        UnknownNameError: nothing is known of the target.
    """
    name = _SAME.get(target, target)
    if name not in PROFILES:
        raise unknown_name("quantization profile", target, (*PROFILES, *_SAME))
    return PROFILES[name]
