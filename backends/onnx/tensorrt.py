"""Holding an ONNX file to what TensorRT documents of explicit quantization.

Pairs are `QuantizeLinear` and `DequantizeLinear` with stored scales and zero points of 0, to signed integers of 8 bits
(or float8 e4m3; weights alone in 4 bits, too). Activations have one scale; weights may have one for each output
channel: axis 0 of `Conv`, 1 of `ConvTranspose`, that of the columns of a product. Biases stay floats. Of a residual sum
the branch that is no layer's result is quantized: the layer takes the sum in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from graphopt.errors import EmissionError, unknown_name

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
OPSETS = (13, 22)
"""The first in which a pair may have a scale for each channel, and the newest that TensorRT 10 reads."""

_ANYWHERE = {TensorProto.INT8, TensorProto.FLOAT8E4M3FN}
_WEIGHTS_ALONE = {TensorProto.INT4, TensorProto.FLOAT4E2M1}
_REFUSED = [
    "QLinearConv",
    "QLinearMatMul",
    "QLinearAdd",
    "QGemm",
    "ConvInteger",
    "MatMulInteger",
    "DynamicQuantizeLinear",
    "MatMulNBits",
]
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def tensorrt_problems(model: onnx.ModelProto) -> list[str]:
    """Return what TensorRT would refuse of the quantization in a file, or not fuse, a sentence each; none if all is
    well.

    >>> from onnx import parser
    >>> tensorrt_problems(parser.parse_model('''<ir_version: 8, opset_import: ["" : 17]>
    ... g (float[N, 4] x) => (float[N, 4] y) <float s = {0.5}, uint8 z = {3}> {
    ...   q = QuantizeLinear(x, s, z)
    ...   y = DequantizeLinear(q, s, z)
    ... }'''))[0]
    'QuantizeLinear of x: the zero point is not 0; TensorRT quantizes symmetrically'
    """
    return list(_Rules(model).problems())


def check_tensorrt(model: onnx.ModelProto) -> None:
    """Hold a file to TensorRT's rules.

    Raises:
        EmissionError: it breaks some; the message lists them.
    """
    found = tensorrt_problems(model)
    if found:
        more = f"\n  and {len(found) - 10} more" if len(found) > 10 else ""
        raise EmissionError(
            "TensorRT would not take this quantization (quantize with profile=tensorrt):\n  "
            + "\n  ".join(found[:10])
            + more
        )


RULES: dict[str, Callable[[onnx.ModelProto], None]] = {"tensorrt": check_tensorrt}


def hold_to(rules: str, model: onnx.ModelProto) -> None:
    """Hold a file to an engine's rules, by name.

    Raises:
        UnknownNameError: no such rules.
        EmissionError: the file breaks some.
    """
    if rules not in RULES:
        raise unknown_name("set of rules", rules, RULES, f"There are rules of {', '.join(RULES)}.")
    RULES[rules](model)


class _Rules:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        graph = model.graph
        self.stored = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                self.stored[node.output[0]] = node.attribute[0].t
        self.made_by = {name: node for node in graph.node for name in node.output}
        self.read_by: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.read_by.setdefault(name, []).append(node)

    def problems(self) -> Iterator[str]:
        opset = next((one.version for one in self.model.opset_import if one.domain in ("", "ai.onnx")), 0)
        has_pairs = any(node.op_type in (QUANTIZE, DEQUANTIZE) for node in self.model.graph.node)
        if has_pairs and not OPSETS[0] <= opset <= OPSETS[1]:
            yield f"the file is of opset {opset}; TensorRT reads such pairs from {OPSETS[0]} to {OPSETS[1]}"
        for node in self.model.graph.node:
            if node.op_type in _REFUSED:
                yield f"{node.op_type} of {node.input[0]}: TensorRT reads pairs of quantize and dequantize alone"
            elif node.op_type in (QUANTIZE, DEQUANTIZE):
                yield from (f"{node.op_type} of {node.input[0]}: {why}" for why in self._conversion(node))
            elif node.op_type in _LAYERS:
                yield from (f"{node.op_type} of {node.input[0]}: {why}" for why in self._layer(node))
            elif node.op_type == "Add":
                yield from (f"Add of {' and '.join(node.input)}: {why}" for why in self._sum(node))

    def _conversion(self, node: onnx.NodeProto) -> Iterator[str]:
        is_weight = self._is_weight(node)
        scale = self._array(node.input[1])
        if scale is None:
            yield "its scale is computed; TensorRT wants it stored"
        elif not (np.isfinite(scale).all() and (scale > 0).all()):
            yield "its scale is not positive"
        zero = self.stored.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if len(node.input) > 2 and node.input[2] and zero is None:
            yield "its zero point is computed; TensorRT wants it to be 0"
        elif zero is not None and any(zero.raw_data) | any(zero.int32_data):
            yield "the zero point is not 0; TensorRT quantizes symmetrically"
        yield from self._format(node, zero, is_weight)
        if _attribute(node, "block_size", 0) and not is_weight:
            yield "blocks have scales of their own, which TensorRT takes of weights alone"
        elif scale is not None and scale.size > 1 and not is_weight:
            yield "each channel has a scale, which TensorRT takes of weights alone"
        yield from self._pairing(node)

    def _format(self, node: onnx.NodeProto, zero: TensorProto | None, is_weight: bool) -> Iterator[str]:
        source = self.stored.get(node.input[0])
        if zero is not None:
            dtype = zero.data_type
        elif node.op_type == QUANTIZE:
            dtype = _attribute(node, "output_dtype", TensorProto.UINT8) or TensorProto.UINT8
        elif source is not None:
            dtype = source.data_type
        else:
            return  # that of the quantize in front, which is looked at by itself
        name = TensorProto.DataType.Name(dtype).lower()
        if dtype == TensorProto.INT32:
            yield "it stores a bias as integers; TensorRT wants biases in floating point"
        elif dtype in _WEIGHTS_ALONE:
            if not is_weight:
                yield f"{name} is a format of weights alone"
        elif dtype not in _ANYWHERE:
            yield f"{name} is no format that TensorRT computes in; it takes int8"

    def _pairing(self, node: onnx.NodeProto) -> Iterator[str]:
        if node.op_type == DEQUANTIZE:
            before = self.made_by.get(node.input[0])
            if node.input[0] not in self.stored and (before is None or before.op_type != QUANTIZE):
                yield "there is no quantize in front of it"
            return
        for user in self.read_by.get(node.output[0], []):
            if user.op_type != DEQUANTIZE:
                yield f"{user.op_type} reads its integers; TensorRT wants a dequantize behind each quantize"
            elif not self._same(node.input[1], user.input[1]):
                yield "the dequantize behind it has another scale"
        if any(node.output[0] == output.name for output in self.model.graph.output):
            yield "its integers are an output; TensorRT wants a dequantize behind each quantize"

    def _layer(self, node: onnx.NodeProto) -> Iterator[str]:
        data, weight = (self._dequantize(name) for name in node.input[:2])
        bias = self._dequantize(node.input[2]) if len(node.input) > 2 else None
        if bias is not None:
            yield "its bias is dequantized; TensorRT wants biases in floating point"
        if weight is None:
            return
        if not self._is_weight(weight):
            return
        scale = self._array(weight.input[1])
        rank = self._rank(weight)
        if scale is not None and scale.size > 1 and not _attribute(weight, "block_size", 0) and rank:
            axis = self._moved(node.input[1], _attribute(weight, "axis", 1) % rank, rank)
            wanted = _channels(node, rank)
            if axis != wanted:
                yield f"its weight has scales along axis {axis}; TensorRT takes them along the outputs, axis {wanted}"
        if data is None and not self._is_narrow(weight):
            yield "its weight is quantized and what it reads is not, so that it runs in floating point"

    def _sum(self, node: onnx.NodeProto) -> Iterator[str]:
        pairs = [self._dequantize(name) for name in node.input]
        if any(pair is None or self._is_weight(pair) for pair in pairs):
            return
        for pair in pairs:
            assert pair is not None
            quantize = self.made_by.get(pair.input[0])
            layer = None if quantize is None else self.made_by.get(quantize.input[0])
            if quantize is None or layer is None or layer.op_type not in _LAYERS:
                continue
            if len(self.read_by[quantize.input[0]]) == 1 and len(self.read_by[quantize.output[0]]) == 1:
                yield (
                    f"both branches are quantized, the result of {layer.op_type} too, which then cannot take the sum "
                    "in; quantize the other branch alone"
                )
                return

    def _dequantize(self, name: str) -> onnx.NodeProto | None:
        """The dequantize that makes a value, behind a transposition at most."""
        node = self.made_by.get(name)
        if node is not None and node.op_type == "Transpose":
            node = self.made_by.get(node.input[0])
        return node if node is not None and node.op_type == DEQUANTIZE else None

    def _moved(self, name: str, axis: int, rank: int) -> int:
        """Where an axis of what is dequantized is in a value, which may be its transposition."""
        node = self.made_by[name]
        if node.op_type != "Transpose":
            return axis
        perm = next((list(a.ints) for a in node.attribute if a.name == "perm"), list(range(rank))[::-1])
        return perm.index(axis)

    def _is_weight(self, node: onnx.NodeProto) -> bool:
        """Whether a conversion is of something stored."""
        if node.input[0] in self.stored:
            return True
        before = self.made_by.get(node.input[0])
        return before is not None and before.op_type == QUANTIZE and before.input[0] in self.stored

    def _is_narrow(self, weight: onnx.NodeProto) -> bool:
        stored = self.stored.get(weight.input[0])
        return stored is not None and stored.data_type in _WEIGHTS_ALONE

    def _rank(self, weight: onnx.NodeProto) -> int:
        before = self.made_by.get(weight.input[0])
        stored = self.stored.get(weight.input[0] if before is None else before.input[0])
        return 0 if stored is None else len(stored.dims)

    def _same(self, first: str, second: str) -> bool:
        a, b = self._array(first), self._array(second)
        return first == second or (a is not None and b is not None and np.array_equal(a, b))

    def _array(self, name: str) -> np.ndarray[Any, Any] | None:
        tensor = self.stored.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor).astype(np.float64)


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)


def _channels(node: onnx.NodeProto, rank: int) -> int:
    """Along which axis of a layer's weight its outputs are."""
    if node.op_type == "Gemm":
        return 0 if _attribute(node, "transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1}.get(node.op_type, rank - 1)
