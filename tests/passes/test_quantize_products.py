"""Products of matrices: dynamic quantization, and weights stored in few bits."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import graphopt
from graphopt.analysis import run_graph
from graphopt.backends.onnx import emit_onnx
from graphopt.errors import GraphOptError, InputError, UnknownNameError
from graphopt.ops.quantization import find_format
from graphopt.passes.quantization.blocks import block_parameters
from graphopt.passes.quantization.rounding import output_moments
from graphopt.passes.quantize_dynamic import QuantizeDynamic
from graphopt.passes.quantize_weights import QuantizeWeights
from graphopt.passes.weight_pruning.layers import Layer, Reader
from graphopt.passmanager import Pass, PassContext
from graphopt.testing import check_pass
from tests.passes.figures import decibels

TEXT = """
input %x: f32[N, 5, 64]
parameter %w: f32[48, 64]
parameter %b: f32[48]
parameter %v: f32[48, 64]
parameter %u: f32[48, 64]
%y = linear(%x, %w, %b)
%r = relu(%y)
%z = matmul(%r, %v)
%o = linear(%x, %u)
return %z, %o"""


def data(count: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 5, 64, generator=torch.Generator().manual_seed(seed))


def in_onnx_runtime(model: onnx.ModelProto, x: torch.Tensor) -> tuple[list[torch.Tensor], Counter[str]]:
    """The results, and the operators that are left once it has fused."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(Path(folder) / "fused.onnx")
        options.log_severity_level = 3
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        left = Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
    results = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return [torch.tensor(array) for array in results], left


def test_dynamic_products_run_on_integers() -> None:
    graph, x = graphopt.parse(TEXT), data()
    found = QuantizeDynamic()(graph)
    assert [node.op.base.split(".")[1] for node in found].count("dynamic_quantize") == 2  # two products read %x
    assert sum(1 for value in found.constants.values() if value.dtype.value == "i8") == 3
    results, expected = run_graph(found, x), run_graph(graph, x)
    assert all(decibels(e, r) > 30 for e, r in zip(expected, results))
    in_runtime, left = in_onnx_runtime(emit_onnx(found), x)
    assert left["DynamicQuantizeMatMul"] + left["MatMulIntegerToFloat"] == 3 and left["MatMul"] == 0
    assert all(decibels(r, i) > 60 for r, i in zip(results, in_runtime))


def test_small_and_ignored_weights_stay() -> None:
    graph = graphopt.parse(TEXT)
    found = QuantizeDynamic(ignore=("[wu]",))(graph)
    assert sum(node.name == "graphopt.matmul_integer" for node in found) == 1
    assert str(QuantizeDynamic(smallest=10**6)(graph)) == str(graph)
    assert QuantizeDynamic(smallest=10**6).run(graph.clone(), PassContext()).notes
    for pass_ in (QuantizeDynamic(ignore=("y",)), QuantizeWeights(ignore=("y",))):
        with pytest.raises(UnknownNameError, match="'y'"):
            pass_(graph)


@pytest.mark.parametrize("dtype", ["uint4", "int4", "int8", "uint8", "int2", "int3", "int6"])
@pytest.mark.parametrize("block_size", [0, 16, 40])
def test_weights_in_few_bits(dtype: str, block_size: int) -> None:
    """In FX, and in ONNX Runtime within rounding; more bits are better."""
    graph, x = graphopt.parse(TEXT), data()
    found = QuantizeWeights(dtype=dtype, block_size=block_size)(graph)
    results, expected = run_graph(found, x), run_graph(graph, x)
    least = {8: 35, 6: 23, 4: 12, 3: 6, 2: 0}[find_format(dtype).bits]
    assert all(decibels(e, r) > least for e, r in zip(expected, results))
    in_runtime, _ = in_onnx_runtime(emit_onnx(found), x)
    assert all(decibels(r, i) > 90 for r, i in zip(results, in_runtime))


def test_blocks_become_packed_products() -> None:
    found = QuantizeWeights(dtype="uint4", block_size=16)(graphopt.parse(TEXT))
    model = emit_onnx(found)
    _, left = in_onnx_runtime(model, data())
    assert left["MatMulNBits"] == 3
    packed = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.UINT4]
    assert {len(t.raw_data) for t in packed if t.dims[0] in (48, 64) and t.dims[1] in (48, 64)} == {48 * 64 // 2}


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from(["uint4", "int4", "int2", "uint8"]),
    st.integers(1, 20),
    st.integers(1, 5),
    st.integers(0, 7),
    st.integers(0, 2**31),
)
def test_searched_scales_are_no_worse(dtype: str, inputs: int, outputs: int, block: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(inputs, outputs, generator=generator) ** 3
    matrix[:, 0] = 0
    axis = 0 if block else 1
    errors = []
    for search in (False, True):
        scales, zeros = block_parameters(matrix, find_format(dtype), block, search)
        points = None if zeros is None else zeros.to(find_format(dtype).storage)
        back = graphopt.fake_quantize(matrix, scales, points, dtype, axis, block)
        assert not bool(back[:, 0].any())
        errors.append(float((back - matrix).square().sum()))
    assert errors[1] <= errors[0] * (1 + 1e-5) + 1e-9


def test_gptq_makes_up_for_rounding() -> None:
    graph = graphopt.parse(TEXT)
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(64, 64, generator=generator) / 8
    batches = [torch.randn(8, 5, 64, generator=generator) @ mixing for _ in range(8)]
    held_out = torch.randn(8, 5, 64, generator=generator) @ mixing
    expected = run_graph(graph, held_out)
    context = PassContext(calibration=batches)
    nearest, compensated = (
        run_graph(QuantizeWeights(rounding=rounding)(graph, context), held_out) for rounding in ("nearest", "gptq")
    )
    for e, n, c in zip(expected, nearest, compensated):
        assert decibels(e, c) > decibels(e, n) + 1


@pytest.mark.parametrize("rounding, objective", [("gptq", "model"), ("adaround", "layer")])
def test_rounding_by_data_is_better_at_the_outputs(rounding: str, objective: str) -> None:
    text = TEXT.replace("return %z, %o", "%q = relu(%z)\n%p = matmul(%q, %m)\nreturn %p")
    graph = graphopt.parse(text.replace("%y =", "parameter %m: f32[64, 64]\n%y =", 1))
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(64, 64, generator=generator) / 8
    batches = [torch.randn(8, 5, 64, generator=generator) @ mixing for _ in range(8)]
    held_out = torch.randn(8, 5, 64, generator=generator) @ mixing
    (expected,) = run_graph(graph, held_out)
    context = PassContext(calibration=batches)
    options: dict[str, Any] = {"rounding": rounding, "objective": objective, "iterations": 100}
    found = QuantizeWeights(**options)(graph, context)
    (nearest,), (better,) = run_graph(QuantizeWeights()(graph), held_out), run_graph(found, held_out)
    assert decibels(expected, better) > decibels(expected, nearest) + 0.5
    assert str(QuantizeWeights(**options)(graph, context)) == str(found)


def test_moments_of_the_outputs_are_those_of_every_row() -> None:
    """Σ G^T G of a linear model: v^T y has the derivative v x^T, so that the sum is |v|² x x^T."""
    graph = graphopt.parse("input %x: f32[1, 8]\nparameter %w: f32[4, 8]\n%y = linear(%x, %w)\nreturn %y")
    x = [torch.randn(1, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(5)]
    node = next(iter(graph))
    layer = Layer(node.operands[1], "linear", 1, (Reader(node, node.operands[0]),))  # type: ignore[arg-type]
    found = output_moments(graph, [layer], [[one] for one in x])[layer.weight]
    expected = sum(4 * one.T @ one for one in x)
    assert torch.allclose(found[0], expected, atol=1e-4)  # type: ignore[arg-type]


def test_embedding_tables_rounded_by_the_outputs() -> None:
    text = EMBEDDING.replace("return %z", "parameter %l: f32[24, 24]\n%q = tanh(%z)\n%o = linear(%q, %l)\nreturn %o")
    lines = text.strip().splitlines()
    lines.sort(key=lambda line: not line.startswith(("input", "parameter")))
    graph = graphopt.parse("\n".join(lines))
    i = torch.randint(50, (64, 3), generator=torch.Generator().manual_seed(3))
    (expected,) = run_graph(graph, i)
    context = PassContext(calibration=[(part,) for part in i.split(8)])
    options: dict[str, Any] = {"dtype": "uint2", "block_size": 8, "smallest": 1000}  # the linear layer stays
    (nearest,) = run_graph(QuantizeWeights(**options)(graph), i)
    (better,) = run_graph(QuantizeWeights(**options, rounding="gptq", objective="model")(graph, context), i)
    assert decibels(expected, better) > decibels(expected, nearest)


def test_scales_are_stored_in_half_precision() -> None:
    """Half as large in the file, and the same numbers in ONNX Runtime, which reads the weight packed."""
    graph = graphopt.parse("input %x: f32[N, 5, 256]\nparameter %w: f32[256, 256]\n%y = matmul(%x, %w)\nreturn %y")
    x = torch.randn(2, 5, 256, generator=torch.Generator().manual_seed(0))
    found = QuantizeWeights(block_size=16)(graph)
    model = emit_onnx(found)
    assert sum(t.data_type == onnx.TensorProto.FLOAT16 for t in model.graph.initializer) == 1
    in_runtime, left = in_onnx_runtime(model, x)
    assert left["MatMulNBits"] == 1 and left["Cast"] == 0
    assert decibels(run_graph(found, x)[0], in_runtime[0]) > 90
    wide = emit_onnx(QuantizeWeights(block_size=16, half_scales=False)(graph))
    assert not any(t.data_type == onnx.TensorProto.FLOAT16 for t in wide.graph.initializer)


def test_too_little_data_for_gptq_is_told() -> None:
    result = QuantizeWeights(rounding="gptq").run(graphopt.parse(TEXT), PassContext(calibration=[data(1)]))
    assert sum("fewer than" in note for note in result.notes) == 3
    with pytest.raises(InputError, match="needs data"):
        QuantizeWeights(rounding="gptq")(graphopt.parse(TEXT))


def test_a_shared_weight_is_stored_once() -> None:
    graph = graphopt.parse(TEXT.replace("linear(%x, %u)", "linear(%x, %w)").replace("parameter %u: f32[48, 64]\n", ""))
    for pass_ in (QuantizeDynamic(), QuantizeWeights()):
        found, x = pass_(graph), data()
        assert sum(1 for value in found.constants.values() if value.dtype.bits <= 8 and len(value.shape) == 2) <= 4
        assert sum("_quantized" in name for name in found.constants) == 2
        assert all(decibels(e, r) > 12 for e, r in zip(run_graph(graph, x), run_graph(found, x)))


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"dtype": "int16"}, "int16"),
        ({"block_size": -1}, "block_size"),
        ({"rounding": "up"}, "up"),
        ({"objective": "task"}, "task"),
    ],
)
def test_wrong_options_are_errors(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(GraphOptError, match=reason):
        QuantizeWeights(**options)


@pytest.mark.parametrize("passes", ["default,quantize-dynamic", "default,quantize-weights"])
def test_in_a_pipeline(passes: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 64)).eval()
    x = data()
    for target in ("onnxruntime", "fx"):
        compiled = graphopt.compile(model, (x,), target=target, dynamic_shapes="batch", passes=passes)
        with torch.no_grad():
            assert decibels(model(x), compiled(x)) > 12


EMBEDDING = """
input %i: i64[N, 3]
parameter %w: f32[50, 24]
parameter %p: f32[50, 24]
%x = embedding(%w, %i)
%y = embedding(%p, %i)
%z = add.Tensor(%x, %y)
return %z"""


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint4", "int4", "int2", "int3", "int6"])
@pytest.mark.parametrize("block_size", [0, 8, 16])
def test_embedding_tables_in_few_bits(dtype: str, block_size: int) -> None:
    """Looked up as bytes; the same numbers in ONNX Runtime."""
    graph = graphopt.parse(EMBEDDING)
    found = QuantizeWeights(dtype=dtype, block_size=block_size)(graph)
    i = torch.tensor([[0, 49, 7], [3, 3, 11]])
    (result,), (expected,) = run_graph(found, i), run_graph(graph, i)
    assert decibels(expected, result) > {8: 35, 6: 23, 4: 12, 3: 6, 2: 0}[find_format(dtype).bits]
    (in_runtime,), left = in_onnx_runtime(emit_onnx(found), i)
    assert torch.equal(in_runtime, result) and left["Gather"] == 6
    packed = [value for name, value in found.constants.items() if name.endswith("_packed")]
    width = {8: 24, 6: 24, 4: 12, 3: 24, 2: 6}[find_format(dtype).bits]
    assert [value.shape for value in packed] == [(50, width)] * 2


def test_a_table_that_is_a_head_too_stays() -> None:
    text = EMBEDDING.replace("%z = add.Tensor(%x, %y)", "%h = add.Tensor(%x, %y)\n%z = linear(%h, %w)")
    found = QuantizeWeights(smallest=10)(graphopt.parse(text))
    names = set(found.constants)
    assert "p_packed" in names and "w_quantized" in names
    assert any(node.name == "aten.embedding" and node.operands[0].name == "w" for node in found)  # type: ignore[union-attr]


@pytest.mark.parametrize("pass_", [QuantizeDynamic(smallest=0), QuantizeWeights(smallest=0, block_size=2)])
def test_random_graphs(pass_: Pass) -> None:
    operators = "linear matmul mm addmm relu add.Tensor reshape permute embedding cat call-again"
    check_pass(pass_, examples=15, operators=operators.split(), max_nodes=10)
