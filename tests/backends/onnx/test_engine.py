"""ONNX Runtime as an engine: results, state, types, errors."""

from __future__ import annotations

import pytest
import torch

from graphopt.analysis import run_graph
from graphopt.backends.onnx import OnnxRuntimeEngine
from graphopt.errors import EmissionError, InputError, TargetError
from graphopt.ir import Graph
from graphopt.ops import parse
from graphopt.targets import Engine
from graphopt.targets.registry import get_engine

MLP = """
input %x: f32[N, 40]
parameter %w: f32[30, 40]
%h = linear(%x, %w)
%y = relu(%h)
return %y"""


def load(graph: Graph, **options: object) -> object:
    return OnnxRuntimeEngine(threads=1, **options).load(graph)  # type: ignore[arg-type]


def test_it_is_an_engine_under_its_name() -> None:
    engine = get_engine("onnxruntime", threads=1)
    assert isinstance(engine, Engine) and isinstance(engine, OnnxRuntimeEngine)
    assert engine.name == "onnxruntime" and engine.missing() is None


@pytest.mark.parametrize("optimization", ["off", "basic", "extended", "all"])
@pytest.mark.parametrize("share", [False, True])
def test_results_are_those_of_the_graph(optimization: str, share: bool) -> None:
    graph = parse(MLP)
    executable = OnnxRuntimeEngine(threads=1, optimization=optimization, share_weights=share).load(graph)
    for size in (1, 5):
        x = torch.randn(size, 40)
        (result,) = executable.run([x])
        torch.testing.assert_close(result, run_graph(graph, x)[0])


def test_inputs_may_be_strided_views_and_require_gradients() -> None:
    graph = parse(MLP)
    x = torch.randn(40, 6, requires_grad=True).t()[::2]
    torch.testing.assert_close(load(graph).run([x])[0], run_graph(graph, x.detach())[0])  # type: ignore[attr-defined]


def test_weights_are_copied_unless_shared() -> None:
    graph = parse(MLP)
    executable = OnnxRuntimeEngine(threads=1).load(graph)
    x = torch.randn(2, 40)
    expected = executable.run([x])[0].clone()
    graph.constants["w"].constant.tensor.zero_()  # type: ignore[union-attr]
    torch.testing.assert_close(executable.run([x])[0], expected)


COUNTER = """
input %x: f32[3]
buffer %total: f32[3] = (0.0, 0.0, 0.0)
%sum = add.Tensor(%total, %x)
%y = mul.Scalar(%sum) {other=2}
return %y
update "total" = %sum"""


def test_a_mutated_buffer_lives_in_the_executable() -> None:
    graph = parse(COUNTER)
    first, second = (OnnxRuntimeEngine(threads=1).load(graph) for _ in range(2))
    x = torch.ones(3)
    assert [first.run([x])[0][0].item() for _ in range(3)] == [2.0, 4.0, 6.0]
    assert second.run([x])[0][0].item() == 2.0
    assert graph.constants["total"].constant.tensor.tolist() == [0.0, 0.0, 0.0]  # type: ignore[union-attr]


def test_a_mutated_input_is_written_in_place() -> None:
    graph = parse("""
        input %x: f32[3]
        input %cache: f32[3]
        %new = add.Tensor(%cache, %x)
        return %x
        update "cache" = %new""")
    cache = torch.zeros(3)
    (y,) = OnnxRuntimeEngine(threads=1).load(graph).run([torch.ones(3), cache])
    assert cache.tolist() == [1.0, 1.0, 1.0] and y.tolist() == [1.0, 1.0, 1.0]


def test_a_mutated_strided_input_is_written_in_place() -> None:
    graph = parse('input %c: f32[2, 3]\n%new = add.Scalar(%c) {other=1}\nreturn %new\nupdate "c" = %new')
    cache = torch.zeros(3, 2)
    OnnxRuntimeEngine(threads=1).load(graph).run([cache.t()])
    assert cache.tolist() == [[1.0, 1.0]] * 3


TYPES = {
    "bf16": "linear(%x, %w)",
    "f16": "linear(%x, %w)",
    "f64": "linear(%x, %w)",
}


@pytest.mark.parametrize("dtype", TYPES)
def test_other_floating_types_run(dtype: str) -> None:
    graph = parse(f"""
        input %x: {dtype}[N, 40]
        parameter %w: {dtype}[30, 40]
        %h = linear(%x, %w)
        %s = softmax.int(%h) {{dim=-1}}
        %y = add.Tensor(%s, %h)
        return %y""")
    x = torch.randn(3, 40).to(graph.inputs[0].dtype.torch)
    (result,) = OnnxRuntimeEngine(threads=1).load(graph).run([x])
    tolerance = 1e-9 if dtype == "f64" else 2e-2
    torch.testing.assert_close(result, run_graph(graph, x)[0], rtol=tolerance, atol=tolerance)


def test_numbers_are_inputs_and_outputs() -> None:
    graph = parse("""
        input %n: int(K)
        %y = ones() {size=(K,)}
        return %y, %n""")
    y, n = OnnxRuntimeEngine(threads=1).load(graph).run([4])
    assert y.shape == (4,) and n == 4 and isinstance(n, int)


def test_wrong_inputs_are_one_clear_error() -> None:
    executable = OnnxRuntimeEngine(threads=1).load(parse(MLP))
    with pytest.raises(InputError, match="takes 1 inputs, got 2"):
        executable.run([torch.ones(1, 40), torch.ones(1)])
    with pytest.raises(InputError, match=r"'x' is torch\.float64"):
        executable.run([torch.ones(1, 40, dtype=torch.float64)])
    with pytest.raises(InputError, match="Got: 41 Expected: 40"):
        executable.run([torch.ones(1, 41)])
    with pytest.raises(InputError, match="'x' is a list"):
        executable.run([[1.0]])


def test_what_cannot_run_is_said_without_loading() -> None:
    engine = OnnxRuntimeEngine(threads=1)
    assert engine.unsupported(parse(MLP)) is None
    convolution = parse("input %x: f64[1, 1, 4, 4]\nparameter %w: f64[1, 1, 3, 3]\n%y = conv2d(%x, %w)\nreturn %y")
    assert "no f64 kernel for Conv" in str(engine.unsupported(convolution))
    unknown = parse("input %x: f32[3]\n%y = special_i0(%x)\nreturn %y")
    assert "aten.special_i0 cannot be expressed" in str(engine.unsupported(unknown))
    elsewhere = parse("input %x: f32[3]@cuda:0\nreturn %x")
    assert "runs on the CPU" in str(engine.unsupported(elsewhere))
    with pytest.raises(EmissionError, match="runs on the CPU"):
        engine.load(elsewhere)


def test_a_wrong_option_is_refused() -> None:
    with pytest.raises(TargetError, match="unknown optimization level 'max'"):
        OnnxRuntimeEngine(optimization="max")
