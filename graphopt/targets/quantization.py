"""What engines do with quantized operators, as capability rows.

The row of `graphopt.quantize` is about all pairs: `dtypes` are the integers that there are, those of activations first
(`i32`: biases are stored as integers, `i4`: weights are read so narrow); `granularity` "channel" says that a depthwise
convolution may read a scale for each channel; `symmetric` that there are no zero points; `fusion` names what goes into
the quantization behind it.

ONNX Runtime puts the integer kernel in the place of a group dequantize → operator → quantize. `Conv`, `Add` and
poolings are found only if the result is quantized, too; products of matrices also run from integers to floats. What
only moves elements runs on integers if input and result have one scale. A ReLU or a clip in front of the quantization
goes into it.

TensorRT and OpenVINO fuse by themselves what stands between quantized inputs, so they want pairs at the inputs alone.
TensorRT takes symmetric scales only, and puts the sum of a residual into the layer in front of it: what that gives
stays a float, and the other branch is quantized. A depthwise convolution sums over no channels, so what it reads may
have a scale for each, as OpenVINO takes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from graphopt.targets.device import Capability

PAIR = "graphopt.quantize"


def _rows(names: str, scales: str, granularity: str = "", **more: Any) -> tuple[Capability, ...]:
    """A row for each ATen operator of a list of names."""
    rows = (f"aten.{name}" for name in names.split())
    return tuple(Capability(name, granularity=granularity, scales=scales, **more) for name in rows)


_CONVOLUTIONS = "conv1d conv1d.padding conv2d conv2d.padding"
_PRODUCTS = "linear addmm matmul mm bmm"
_MOVES = (
    "max_pool2d reshape view flatten.using_ints permute transpose.int t squeeze squeeze.dim unsqueeze slice.Tensor "
    "select.int expand contiguous cat"
)
_ARITHMETIC = "add.Tensor mul.Tensor"
_POOLS = "avg_pool2d adaptive_avg_pool2d leaky_relu"
_CLIPS = tuple(f"aten.{name}" for name in ("relu", "relu6", "hardtanh", "clamp"))

QUANTIZED: dict[str, tuple[Capability, ...]] = {
    "onnxruntime": (
        Capability(PAIR, dtypes=("u8", "i8", "i32"), fusion=_CLIPS),
        *_rows(_CONVOLUTIONS, "integer", "channel"),
        *_rows(_PRODUCTS, "any", "channel"),
        *_rows(_MOVES, "same"),
        *_rows(f"{_ARITHMETIC} {_POOLS}", "integer"),
    ),
    "openvino": (
        Capability(PAIR, dtypes=("u8", "i8", "i32"), granularity="channel"),
        *_rows(f"{_CONVOLUTIONS} {_PRODUCTS}", "any", "channel"),
        *_rows(_ARITHMETIC, "integer"),
    ),
    "tensorrt": (
        Capability(PAIR, dtypes=("i8",), symmetric=True),
        *_rows(f"{_CONVOLUTIONS} {_PRODUCTS}", "any", "channel", symmetric=True, fusion=("aten.add.Tensor",)),
        *_rows(_ARITHMETIC, "integer", symmetric=True, fusion=_CLIPS),
    ),
}
"""By engine."""


def quantized_rows(rows: Iterable[Capability]) -> tuple[Capability, ...]:
    """Those rows that say what is quantized: that of pairs, and those with a rule of scales."""
    rows = tuple(rows)
    return rows if any(row.scales for row in rows) else ()
