"""What the report of quantization says: pairs that the engine fused, and histograms with the chosen clip."""

from __future__ import annotations

import json
import math
from collections import Counter

import pytest
import torch
from torch import nn

import graphopt
from graphopt.ops.quantization import find_format
from graphopt.passes.quantization.clipping import METHODS
from graphopt.passes.quantization.histograms import BINS, histogram
from graphopt.passes.quantization.insertion import Parameters
from graphopt.passes.quantization.report import QuantizationReport
from graphopt.passes.quantization.spread import Spread
from graphopt.passes.quantize import Quantize
from graphopt.passmanager import PassContext
from graphopt.targets import Kernel, ShowsKernels, get_engine
from tests.passes.test_quantize import SMALL, Depthwise, data, emitted, fused, quantized


def fused_of(text: str, pass_: Quantize | None = None) -> QuantizationReport:
    context = PassContext(target="onnxruntime", calibration=[data(shape=(2, 6, 6))], engine=get_engine("onnxruntime"))
    details: QuantizationReport = (pass_ or Quantize()).run(graphopt.parse(text), context).details
    return details


def test_fused_pairs_are_those_of_the_optimized_graph() -> None:
    """Counted again in the file that ONNX Runtime writes of the emitted model."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Depthwise()
    compiled = emitted(module, data(16, (4, 8, 8)))
    report = compiled.report.quantization
    assert report.fused is not None
    left = fused(compiled.to_onnx())
    assert Counter(report.fused.kernels) == left
    assert len(report.fused.remaining) == left["QuantizeLinear"] + left["DequantizeLinear"] == 1
    assert report.fused.pairs == sum(node.name == "graphopt.quantize" for node in compiled.graph)
    assert report.fused.fused == report.fused.pairs - 1
    assert report.fused.remaining[0].why == "an input of the model is a float"
    assert f"onnxruntime fused {report.fused.fused} of {report.fused.pairs} pairs" in str(compiled.report)


def test_what_remains_says_why() -> None:
    text = """
    input %x: f32[N, 2, 6, 6]
    parameter %w: f32[4, 2, 3, 3]
    parameter %v: f32[4, 4, 3, 3]
    %y = conv2d(%x, %w) {padding=(1, 1)}
    %e = exp(%y)
    %z = conv2d(%e, %v) {padding=(1, 1)}
    return %z"""
    report = fused_of(text)
    assert report.fused is not None
    why = {(one.name, one.what): one.why for one in report.fused.remaining}
    assert why["y", "dequantize"] == "Exp reads floats"
    assert why["e", "quantize"] == "Exp gives floats"
    assert why["x", "quantize"] == "an input of the model is a float"
    assert why["z", "dequantize"] == "an output of the model is a float"
    assert report.fused.fused == 0 and report.fused.kernels["QLinearConv"] == 2


def test_without_an_engine_nothing_is_said_of_fusion() -> None:
    context = PassContext(target="onnxruntime", calibration=[data()])
    assert Quantize().run(graphopt.parse(SMALL), context).details.fused is None
    trained = fused_of(SMALL, Quantize(trainable=True))
    assert trained.fused is None


def test_engines_that_show_kernels() -> None:
    engine = get_engine("onnxruntime")
    assert isinstance(engine, ShowsKernels) and not isinstance(get_engine("eager"), ShowsKernels)
    graph = graphopt.parse(
        "input %x: f32[2, 4]\nparameter %w: f32[3, 4]\n%y = linear(%x, %w)\n%z = relu(%y)\nreturn %z"
    )
    found = engine.kernels(graph)
    assert all(isinstance(kernel, Kernel) for kernel in found) and "x" in found[0].inputs
    plain = get_engine("onnxruntime", optimization="off").kernels(graph)  # type: ignore[attr-defined]
    assert "Relu" in {kernel.operator for kernel in plain} and len(found) <= len(plain)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_layer_has_the_histogram_of_its_input(method: str) -> None:
    x = data()
    context = PassContext(target="onnxruntime", calibration=x.split(5))
    first = Quantize(method=method).run(graphopt.parse(SMALL), context).details.layers[0]
    if method in ("minmax", "mean"):
        assert first.histogram is None
        return
    assert sum(first.histogram.counts) == x.numel() and len(first.histogram.counts) == BINS
    low, high = first.histogram.low, first.histogram.high
    assert low <= min(first.seen[0], first.covered[0]) + 1e-6 and high >= max(first.seen[1], first.covered[1]) - 1e-6
    exact = torch.histc(x, BINS, low, high)
    assert float((torch.tensor(first.histogram.counts) - exact).abs().sum()) <= 0.1 * x.numel()


def test_outliers_fall_to_the_last_bin() -> None:
    spread = Spread()
    spread.add(torch.linspace(-1, 1, 20000))
    spread.add(torch.tensor([1e30]))
    found = histogram(spread, Parameters(0.01, 128).covered(find_format("uint8")))
    assert found is not None and found.high < 2 and sum(found.counts) == 20001
    assert histogram(Spread(), (0.0, 1.0)) is None


def test_the_report_is_json() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    x = torch.randn(16, 8)
    compiled = emitted(module, x)
    found = json.loads(compiled.report.to_json())["quantization"]
    assert [layer["format"] for layer in found["layers"]] == ["int8", "int8"]
    assert found["fused"]["engine"] == "onnxruntime" and len(found["layers"][0]["histogram"]["counts"]) == BINS
    page = compiled.report.to_html()
    assert '"quantization":{' in page


def test_infinite_ratios_are_words() -> None:
    """A layer of weights that are integers already has no noise of its own on inputs that are."""
    text = "input %x: f32[4, 2]\nparameter %w: f32[2, 2]\n%y = linear(%x, %w)\nreturn %y"
    graph = graphopt.parse(text)
    graph.constants["w"].constant.tensor.copy_(torch.tensor([[127.0, 0.0], [0.0, 127.0]]))  # type: ignore[union-attr]
    x = torch.tensor([[0.0, 255.0], [255.0, 0.0], [0.0, 0.0], [255.0, 255.0]])
    details = Quantize(method="minmax").run(graph, PassContext(target="onnxruntime", calibration=[x])).details
    assert details.layers[0].own == math.inf
    assert details.to_dict()["layers"][0]["own"] == "Infinity"
    assert quantized(text, [x]) is not None
