"""Quantization in ONNX files: the same bits in ONNX Runtime as in FX, packed weights, and files read back."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import graphopt
from graphopt.analysis import run_graph
from graphopt.backends.onnx import emit_onnx
from graphopt.backends.onnx.quantization_opsets import least_opset
from graphopt.errors import EmissionError
from graphopt.frontends.onnx import read_onnx
from graphopt.ir import TensorType
from graphopt.ops.onnx_dtypes import FROM_ONNX_CODE, ONNX_CODES
from graphopt.ops.quantization import FORMATS, Format
from graphopt.passmanager import PassManager
from graphopt.targets import get_engine
from tests.backends.onnx.oracle import run_session, session

OPSET = 25
"""Of it, ONNX Runtime knows all of quantization but floats of fewer than 8 bits."""
RUN = [f for f in FORMATS.values() if f.bits <= 16 and not (f.is_float and f.bits < 8)]
PACKED = [f for f in FORMATS.values() if f.bits < 8 and f.bits == f.dtype.bits]


def pair_text(format_: Format, x: str, scale: str, zero: str | None, options: str) -> str:
    zero_text = "none" if zero is None else "%z"
    declared = "" if zero is None else f"input %z: {zero}\n"
    return f"""
input %x: {x}
input %s: {scale}
{declared}%q = graphopt.quantize(%x, %s, {zero_text}) {{dtype="{format_.name}"{options}}}
%y = graphopt.dequantize(%q, %s, {zero_text}) {{dtype="{format_.name}"{options}}}
return %y"""


def ties(count: int, scale: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Numbers of which a third is half-way between two steps."""
    steps = torch.randint(-400, 400, (count,), generator=generator).float() / 2
    noise = torch.randn(count, generator=generator) * 100
    return torch.where(torch.rand(count, generator=generator) < 0.3, steps, noise) * scale


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(RUN), st.sampled_from(["tensor", "axis", "blocks"]), st.booleans(), st.integers(0, 2**31))
def test_bits_are_those_of_onnx_runtime(format_: Format, grid: str, asymmetric: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = {"tensor": "", "axis": "6", "blocks": "6, 2"}[grid]
    options = {"tensor": "", "axis": ", axis=0", "blocks": ", axis=1, block_size=4"}[grid]
    sizes = [int(d) for d in shape.split(", ") if d]
    scale = torch.rand(sizes, generator=generator) * 0.2 + 0.01
    zero = None
    if asymmetric and not format_.is_float and format_.bits == 8:
        zero = torch.randint(int(format_.low), int(format_.high) + 1, sizes, generator=generator).to(format_.storage)
    per_element = scale.reshape(-1, 1) if grid != "blocks" else scale.repeat_interleave(4, 1)
    x = ties(48, torch.ones(()), generator).reshape(6, 8) * per_element
    zero_type = None if zero is None else f"{format_.dtype.value}[{shape}]"
    text = pair_text(format_, "f32[6, 8]", f"f32[{shape}]", zero_type, options)
    graph = graphopt.parse(text)
    inputs = [x, scale] if zero is None else [x, scale, zero]
    model = emit(graph, OPSET)
    onnx.checker.check_model(model, full_check=True)
    (found,) = run_session(session(model), inputs)
    assert torch.equal(found, run_graph(graph, *inputs)[0])
    assert torch.equal(run_graph(read_onnx(model), *inputs)[0], found)


@pytest.mark.parametrize("scale", ["f16", "f32"])
@pytest.mark.parametrize("x", ["f16", "f32"])
def test_half_precision(x: str, scale: str) -> None:
    graph = graphopt.parse(pair_text(FORMATS["int8"], f"{x}[96]", f"{scale}[]", None, ""))
    generator = torch.Generator().manual_seed(1)
    inputs = [
        ties(96, torch.tensor(0.05), generator).to(graph.inputs[0].dtype.torch),
        torch.tensor(0.05, dtype=graph.inputs[1].dtype.torch),
    ]
    (expected,) = run_graph(graph, *inputs)
    for opset in (18, 19, 21, 23):
        model = emit_onnx(graph, opset=opset)
        assert torch.equal(run_session(session(model), inputs)[0], expected)
        assert torch.equal(run_graph(read_onnx(model), *inputs)[0], expected)


@pytest.mark.parametrize("opset", [21, 23])
@pytest.mark.parametrize("axis", [None, 1])
def test_half_precision_of_a_file_is_divided_as_its_version_says(opset: int, axis: int | None) -> None:
    shape = [] if axis is None else [8]
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"], **({} if axis is None else {"axis": axis}))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT16, [12, 8])]
    stored = [
        helper.make_tensor("s", TensorProto.FLOAT16, shape, [0.05] * (8 if shape else 1)),
        helper.make_tensor("z", TensorProto.INT8, shape, [1] * (8 if shape else 1)),
    ]
    graph = helper.make_graph(
        [node], "g", inputs, [helper.make_tensor_value_info("y", TensorProto.INT8, [12, 8])], stored
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    x = ties(96, torch.tensor(0.05), torch.Generator().manual_seed(1)).half().reshape(12, 8)
    assert torch.equal(run_graph(read_onnx(model), x)[0], run_session(session(model), [x])[0])


def test_fake_quantize_is_a_pair() -> None:
    graph = graphopt.parse("""
        input %x: f32[N, 4]
        constant %s: f32[1] = (0.1,)
        %y = graphopt.fake_quantize(%x, %s, none) {dtype="int8"}
        return %y""")
    model = emit_onnx(graph)
    assert [node.op_type for node in model.graph.node] == ["QuantizeLinear", "DequantizeLinear"]
    assert all(list(i.dims) == [] for i in model.graph.initializer)
    x = torch.randn(3, 4) * 20
    assert torch.equal(run_session(session(model), [x])[0], run_graph(graph, x)[0])


@pytest.mark.parametrize("format_", PACKED, ids=lambda f: f.name)
def test_initializers_are_packed(format_: Format) -> None:
    """The element type and the packed bytes are ONNX's own; the reader gives the same graph."""
    stored = graphopt.quantize(torch.linspace(-9, 9, 15), torch.tensor(1.0), dtype=format_.name).reshape(5, 3)
    graph = graphopt.parse(
        f"""
        constant %q: {format_.dtype.value}[5, 3] sha256 "{content(stored)}"
        constant %s: f32[5] = (0.5, 1.0, 2.0, 4.0, 8.0)
        input %x: f32[5, 3]
        %d = graphopt.dequantize(%q, %s, none) {{dtype="{format_.name}", axis=0}}
        %y = add.Tensor(%d, %x)
        return %y""",
        {"q": stored},
    )
    opset = least_opset(format_.dtype, axis=0)
    model = emit(graph, opset)
    tensor = next(t for t in model.graph.initializer if t.data_type == ONNX_CODES[format_.dtype] and len(t.dims) == 2)
    assert len(tensor.raw_data) == -(-15 * format_.dtype.bits // 8)
    values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
    assert np.array_equal(values, stored.float().numpy())
    again, x = read_onnx(model), torch.randn(5, 3)
    assert torch.equal(run_graph(again, x)[0], run_graph(graph, x)[0])
    assert again.nodes[0].operands[0].dtype is format_.dtype  # type: ignore[union-attr]
    if not format_.is_float:
        assert torch.equal(run_session(session(model), [x])[0], run_graph(graph, x)[0])


def content(tensor: torch.Tensor) -> str:
    from graphopt.ir.printer import content_hash

    return content_hash(tensor)


def emit(graph: graphopt.Graph, opset: int) -> onnx.ModelProto:
    """As `emit_onnx`, at any opset."""
    from graphopt.backends.onnx.emitter import Emitter
    from graphopt.backends.onnx.model import build
    from graphopt.backends.onnx.serialize import to_model

    return to_model(build(graph, Emitter(opset)), opset, "main")


def test_the_opset_table_is_that_of_the_standard() -> None:
    for format_ in FORMATS.values():
        if format_.bits != format_.dtype.bits or format_.bits > 16:
            continue
        since = least_opset(format_.dtype)
        name = f"tensor({TensorProto.DataType.Name(ONNX_CODES[format_.dtype]).lower()})"
        assert name in allowed(since), format_
        assert since == 10 or name not in allowed(since - 1), format_


def allowed(opset: int) -> set[str]:
    schema = onnx.defs.get_schema("QuantizeLinear", opset)
    return {text for c in schema.type_constraints for text in c.allowed_type_strs}


def test_a_graph_is_written_in_the_opset_that_it_needs() -> None:
    graph = graphopt.parse(pair_text(FORMATS["int4"], "f32[6, 8]", "f32[]", None, ""))
    assert emit_onnx(graph).opset_import[0].version == 21
    assert torch.equal(
        get_engine("onnxruntime").load(graph).run([torch.ones(6, 8), torch.tensor(0.5)])[0], torch.ones(6, 8)
    )


def test_packed_inputs_are_refused_by_the_engine() -> None:
    graph = graphopt.parse("""
        input %q: i4[3]
        input %s: f32[]
        %y = graphopt.dequantize(%q, %s, none) {dtype="int4"}
        return %y""")
    assert run_graph(graph, torch.tensor([1, -8, 7], dtype=torch.int8), torch.tensor(0.5))[0].tolist() == [0.5, -4, 3.5]
    with pytest.raises(EmissionError, match="%q is i4"):
        get_engine("onnxruntime").load(graph)


@pytest.mark.parametrize(
    "dtype, options, opset",
    [("int4", "", 21), ("int16", "", 21), ("int8", ", axis=1, block_size=2", 21), ("int2", "", 25)],
)
def test_an_opset_that_cannot_say_it_is_an_error(dtype: str, options: str, opset: int) -> None:
    scale = "f32[6, 4]" if options else "f32[]"
    graph = graphopt.parse(pair_text(FORMATS[dtype], "f32[6, 8]", scale, None, options))
    with pytest.raises(EmissionError, match=f"opset={opset}"):
        emit_onnx(graph, opset=20)


def test_double_precision_is_an_error() -> None:
    graph = graphopt.parse(pair_text(FORMATS["int8"], "f64[6]", "f32[]", None, ""))
    with pytest.raises(EmissionError, match="double"):
        emit_onnx(graph)


@pytest.mark.parametrize("left", ["u8", "i8"])
@pytest.mark.parametrize("right", ["u8", "i8"])
def test_integer_products_agree(left: str, right: str) -> None:
    graph = graphopt.parse(f"""
        input %a: {left}[2, 3, 5]
        input %b: {right}[5, 4]
        input %za: {left}[]
        input %zb: {right}[]
        %y = graphopt.matmul_integer(%a, %b, %za, %zb)
        %z = graphopt.matmul_integer(%a, %b, none, none)
        return %y, %z""")
    inputs = [sample(value.type) for value in graph.inputs]
    for have, want in zip(run_session(session(emit_onnx(graph)), inputs), run_graph(graph, *inputs)):
        assert torch.equal(have, want)


def sample(type_: Any, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + sum(type_.shape))
    info = torch.iinfo(type_.dtype.torch)
    return torch.randint(info.min, info.max + 1, type_.shape, generator=generator).to(type_.dtype.torch)


def test_dynamic_quantization_agrees() -> None:
    graph = graphopt.parse("""
        input %x: f32[N, 7]
        %q, %s, %z = graphopt.dynamic_quantize(%x)
        return %q, %s, %z""")
    model = emit_onnx(graph)
    assert [node.op_type for node in model.graph.node] == ["DynamicQuantizeLinear"]
    loaded = session(model)
    for seed in range(20):
        drawn = torch.randn(5, 7, generator=torch.Generator().manual_seed(seed)) * 3 + seed % 5 - 2
        for x in (drawn, drawn.abs(), torch.zeros_like(drawn)):
            for have, want in zip(run_session(loaded, [x]), run_graph(graph, x)):
                assert torch.equal(have, want)


def qlinear_conv(x_code: int, w_code: int, per_channel: bool, bias: bool) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    w_type = helper.tensor_dtype_to_np_dtype(w_code)
    info = np.iinfo(w_type)
    w = rng.integers(info.min, info.max + 1, (6, 2, 3, 3)).astype(w_type)
    scales = rng.uniform(0.001, 0.02, 6 if per_channel else ()).astype(np.float32)
    zeros = np.zeros(6 if per_channel else (), w_type)
    names = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", *(["b"] if bias else [])]
    node = helper.make_node("QLinearConv", names, ["y"], pads=[1, 0, 1, 2], strides=[2, 1], group=2)
    stored = [
        helper.make_tensor("xs", TensorProto.FLOAT, [], [0.05]),
        helper.make_tensor("xz", x_code, [], [7]),
        onnx.numpy_helper.from_array(w, "w"),
        onnx.numpy_helper.from_array(scales, "ws"),
        onnx.numpy_helper.from_array(zeros, "wz"),
        helper.make_tensor("ys", TensorProto.FLOAT, [], [0.4]),
        helper.make_tensor("yz", x_code, [], [3]),
        helper.make_tensor("b", TensorProto.INT32, [6], [100, -200, 3000, 0, 5, -7000]),
    ]
    stored = [t for t in stored if t.name in names]
    x = helper.make_tensor_value_info("x", x_code, ["n", 4, 9, 8])
    y = helper.make_tensor_value_info("y", x_code, None)
    graph = helper.make_graph([node], "g", [x], [y], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("w_code", [TensorProto.INT8, TensorProto.UINT8])
@pytest.mark.parametrize("x_code", [TensorProto.INT8, TensorProto.UINT8])
def test_qlinear_conv_has_the_bits_of_onnx_runtime(x_code: int, w_code: int, per_channel: bool, bias: bool) -> None:
    model = qlinear_conv(x_code, w_code, per_channel, bias)
    graph = read_onnx(model)
    x = sample(TensorType(FROM_ONNX_CODE[x_code], (3, 4, 9, 8)))
    try:
        (expected,) = run_session(session(model), [x])
    except Exception as error:
        assert "NOT_IMPLEMENTED" in str(error)  # a combination without a kernel: held against the emitted file alone
        return
    assert torch.equal(run_graph(graph, x)[0], expected)
    emitted = emit_onnx(PassManager("fold-constants,dead-code").run(graph)[0])
    assert "QLinearConv" in [node.op_type for node in emitted.graph.node]
    assert torch.equal(run_session(session(emitted), [x])[0], expected)
