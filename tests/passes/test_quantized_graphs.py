"""Random graphs on integers: ONNX Runtime, and the FX module with and without integer kernels, agree at each quantized
value: within one step, ties included, and one step for each that what it reads differs by."""

from __future__ import annotations

from collections.abc import Sequence

import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.analysis import run_graph
from graphopt.backends.fx import emit_fx
from graphopt.backends.onnx import emit_onnx
from graphopt.testing.quantized import QuantizedGraph, draw_quantized
from graphopt.testing.source import HypothesisSource, RandomSource

LEVELS = onnxruntime.GraphOptimizationLevel


def in_onnxruntime(made: QuantizedGraph, x: torch.Tensor, optimized: bool) -> list[torch.Tensor]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = LEVELS.ORT_ENABLE_ALL if optimized else LEVELS.ORT_DISABLE_ALL
    running = onnxruntime.InferenceSession(emit_onnx(made.graph).SerializeToString(), options)
    return [torch.from_numpy(y) for y in running.run(None, {running.get_inputs()[0].name: x.numpy()})]


def assert_within_a_step(made: QuantizedGraph, ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]) -> None:
    """Each stage, by as many steps as what it reads allows."""
    differences: list[int] = []
    for stage, mine, other in zip(made.stages, ours, theirs):
        assert mine.dtype is other.dtype and mine.shape == other.shape
        differences.append(int((mine.int() - other.int()).abs().max()))
        allowed = stage.allowed(differences)
        assert differences[-1] <= allowed, f"{stage.operator} differs by {differences[-1]} steps, {allowed} are allowed"


def assert_engines_agree(made: QuantizedGraph, x: torch.Tensor) -> None:
    ours = run_graph(made.graph, x)
    with torch.no_grad():
        plain, integers = emit_fx(made.graph)(x), emit_fx(made.graph, integers=True)(x)
    assert all(torch.equal(a, b) for a, b in zip(ours, plain))
    assert_within_a_step(made, ours, integers)
    for optimized in (False, True):
        theirs = in_onnxruntime(made, x, optimized)
        assert_within_a_step(made, ours, theirs)
        assert_within_a_step(made, integers, theirs)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_engines_agree_on_integers(data: st.DataObject) -> None:
    made = draw_quantized(HypothesisSource(data.draw))
    assert_engines_agree(made, made.inputs(data.draw(st.integers(0, 999))))


@pytest.mark.parametrize("seed", range(20))
def test_engines_agree_on_longer_graphs(seed: int) -> None:
    made = draw_quantized(RandomSource(seed), stages=12)
    assert_engines_agree(made, made.inputs(seed))


def test_the_generator_draws_all_it_knows() -> None:
    seen = {stage.operator for seed in range(60) for stage in draw_quantized(RandomSource(seed), stages=8).stages}
    assert seen >= {
        *("quantize", "conv2d", "conv1d", "linear", "matmul", "add", "mul", "cat", "max_pool2d", "avg_pool2d"),
        *("reshape", "relu", "clamp", "product"),
    }
