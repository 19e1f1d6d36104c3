"""Formats of single layers, and weights of 7 bits where pairs of products would saturate."""

from __future__ import annotations

import platform

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import graphopt
from graphopt.analysis import run_graph
from graphopt.errors import GraphOptError, UnknownNameError
from graphopt.ops.quantization import find_format
from graphopt.passes.quantize import Quantize
from graphopt.passes.quantize_weights import QuantizeWeights
from graphopt.passmanager import PassContext, PassManager
from graphopt.targets import Target, get_chip
from graphopt.targets.chip import chip_with
from graphopt.targets.cpuinfo import CPUINFO, flags_of
from graphopt.targets.device import Device
from tests.passes.test_quantize import SMALL, data, ops, quantized


def stored_bits(graph: graphopt.Graph) -> dict[str, int]:
    """The fewest bits that hold the integers of each stored weight."""
    found = {}
    for name, value in graph.constants.items():
        if name.endswith("_quantized") and value.dtype.value == "i8":  # type: ignore[union-attr]
            q = value.constant.tensor.int()  # type: ignore[union-attr]
            reach = int(torch.where(q < 0, -1 - q, q).max())
            found[name.removesuffix("_quantized")] = reach.bit_length() + 1
    return found


def test_layers_have_formats_of_their_own() -> None:
    pass_ = Quantize(formats={"w": "int4", "v": "int3"})
    result = pass_.run(graph := graphopt.parse(SMALL), PassContext(target="onnxruntime", calibration=data().split(4)))
    assert stored_bits(graph) == {"w": 4, "v": 3}
    assert [figures.format for figures in result.details.layers] == ["int4", "int3"]


def test_the_first_name_that_fits_counts_and_float_leaves_a_layer() -> None:
    graph = quantized(SMALL, data(), Quantize(formats={"aten.conv*": "int5", "*": "float"}))
    assert stored_bits(graph) == {"w": 5}
    assert ops(graph)[-1] == "linear" and graph.nodes[-1].operands[1].name == "v"  # type: ignore[union-attr]
    notes = Quantize(formats={"linear": "float"}).run(
        graphopt.parse(SMALL), PassContext(target="onnxruntime", calibration=[data()])
    )
    assert any("asked for as 'linear'" in note for note in notes.notes)


def test_names_of_modules_and_parameters_are_names() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4)).eval()
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    for name in ("2.weight", "2"):
        compiled = graphopt.compile(
            module, (x,), target="onnx", passes=f'default,quantize{{formats={{"{name}"=int4}}}}', calibration=[x]
        )
        (report,) = (record.details for record in compiled.report.passes.records if record.details is not None)
        assert [figures.format for figures in report.layers] == ["int8", "int4"]


@pytest.mark.parametrize(
    "formats", [{"w": "float8_e4m3fn"}, {"w": "int32"}, {"w": "int99"}, {"nothing": "int4"}, "int4"]
)
def test_formats_that_are_none(formats: object) -> None:
    with pytest.raises((GraphOptError, UnknownNameError)):
        quantized(SMALL, data(), Quantize(formats=formats))  # type: ignore[arg-type]


@settings(deadline=None, max_examples=8)
@given(st.dictionaries(st.sampled_from(["w", "v", "*"]), st.sampled_from(["int2", "int4", "int7", "int8", "float"])))
def test_text_of_the_pipeline_carries_formats(formats: dict[str, str]) -> None:
    manager = PassManager([Quantize(formats=formats)])
    assert PassManager(str(manager.pipeline)).pipeline == manager.pipeline


def test_pairs_of_products_fit_16_bits_without_vnni() -> None:
    """The kernel adds a₀b₀ + a₁b₁ of a in 0 … 255 in 16 bits; whichever numbers meet, they fit."""
    narrow = quantized(SMALL, data(), Quantize(chip="avx2"))
    assert stored_bits(narrow) == {"w": 7, "v": 7}
    for name in ("w_quantized", "v_quantized"):
        weights = narrow.constants[name].constant.tensor.int()  # type: ignore[union-attr]
        assert 255 * 2 * int(weights.max()) < 2**15 and 255 * 2 * int(weights.min()) >= -(2**15)
    assert stored_bits(quantized(SMALL, data(), Quantize(chip="vnni"))) == {"w": 8, "v": 8}
    assert stored_bits(quantized(SMALL, data(), Quantize(chip="avx2", reduce_range=False))) == {"w": 8, "v": 8}
    assert stored_bits(quantized(SMALL, data(), Quantize(chip="vnni", reduce_range=True))) == {"w": 7, "v": 7}
    assert stored_bits(quantized(SMALL, data(), Quantize(chip="avx2", activations="int8"))) == {"w": 8, "v": 8}
    assert stored_bits(quantized(SMALL, data(), Quantize(chip="avx2", formats={"w": "int4"}))) == {"w": 4, "v": 7}


def test_the_chip_is_that_of_the_target() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(8, 16)).eval()
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    for features, expected in ((("avx2",), 7), (("avx2", "avx_vnni"), 8)):
        target = Target(
            "onnx", engines=("onnxruntime",), devices=(Device("cpu", peak={"f32": 1e11}, features=features),)
        )
        compiled = graphopt.compile(module, (x,), target=target, passes="quantize", calibration=[x])
        assert list(stored_bits(compiled.graph).values()) == [expected]


def test_chips() -> None:
    assert find_format("int7").high == 63
    assert chip_with(flags_of("flags\t: sse avx2 avx512f avx512_vnni", "x86_64")).name == "vnni"
    assert chip_with(flags_of("flags\t: sse avx2 avx512f", "AMD64")).saturates
    assert chip_with(flags_of("", "x86_64")).saturates
    assert not chip_with(flags_of("Features : asimddp", "aarch64")).saturates
    assert not chip_with(flags_of("", "aarch64")).saturates
    assert get_chip() == chip_with(flags_of(CPUINFO.read_text(), platform.machine()))
    with pytest.raises(UnknownNameError, match="avx2"):
        Quantize(chip="avx")


def test_stored_weights_have_formats_of_their_own() -> None:
    text = """
    input %x: f32[N, 32]
    parameter %w: f32[64, 32]
    parameter %v: f32[16, 64]
    parameter %u: f32[8, 16]
    %a = linear(%x, %w)
    %b = linear(%a, %v)
    %c = linear(%b, %u)
    return %c"""
    pass_ = QuantizeWeights(formats={"v": "int8", "u": "float"}, smallest=1)
    graph = pass_(graphopt.parse(text), PassContext(target="onnx"))
    found = [node.attr("dtype") for node in graph if node.name == "graphopt.dequantize"]
    assert found == ["uint4", "int8"] and graph.nodes[-1].name == "aten.linear"
    (expected,), (got,) = (run_graph(g, torch.ones(2, 32)) for g in (graphopt.parse(text), graph))
    assert bool((got - expected).norm() < 0.2 * expected.norm())
    with pytest.raises(UnknownNameError, match="quantize-weights in formats"):
        QuantizeWeights(formats={"nothing": "int4"}).run(graphopt.parse(text), PassContext())
