"""quantize on what it cannot take as it is: one clear error, or a fallback that the report states."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator

import pytest
import torch

import graphopt
from graphopt.analysis import run_graph
from graphopt.errors import InputError, PassError
from graphopt.passes.quantize import Quantize
from graphopt.passmanager import PassContext

SMALL = """
input %x: f32[N, 2, 6, 6]
parameter %w: f32[3, 2, 3, 3]
parameter %b: f32[3]
parameter %v: f32[4, 48]
parameter %c: f32[4]
%y = conv2d(%x, %w, %b)
%r = relu(%y)
%f = flatten.using_ints(%r) {start_dim=1}
%z = linear(%f, %v, %c)
return %z"""


def small() -> graphopt.Graph:
    return graphopt.parse(SMALL)


def test_an_operator_without_integer_kernel_stays_a_float_and_is_named() -> None:
    graph = graphopt.parse("""
    input %x: f32[N, 2, 6, 6]
    parameter %u: f32[2, 2, 3, 3]
    parameter %w: f32[3, 2, 3, 3]
    %t = conv_transpose2d.input(%x, %u)
    %y = conv2d(%t, %w)
    return %y""")
    x = torch.randn(8, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    (wanted,) = run_graph(graph, x)
    result = Quantize().run(graph, PassContext(target="onnxruntime", calibration=[x]))
    assert result.details.counts["layers"] == 1
    assert any("conv_transpose2d" in note and "no integer kernel" in note for note in result.notes)
    (found,) = run_graph(graph, x)
    assert bool(((found - wanted).abs() <= 0.05 * wanted.abs().max()).all())


def test_a_bias_that_would_overflow_32_bits_widens_the_scale() -> None:
    """b / (s_x s_w) is 1e9 / (1e-2 * 1e-9), far beyond 2^31."""
    graph = small()
    w, b = (graph.constants[name].constant.tensor for name in "wb")  # type: ignore[union-attr]
    w[0] *= 1e-7
    b[0], b[1], b[2] = 1e9, -3.0, 0.5
    x = torch.randn(8, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    Quantize(correct_bias=False).run(graph, PassContext(target="onnxruntime", calibration=[x]))
    convolution = next(node for node in graph if node.name == "aten.conv2d")
    bias = convolution.operands[2].producer  # type: ignore[union-attr]
    integers, scales = (bias.operands[i].constant.tensor for i in (0, 1))  # type: ignore[union-attr]
    assert integers.dtype is torch.int32 and int(integers.abs().max()) < 2**31 - 1
    assert bool(((integers.double() * scales - b).abs() <= 1e-5 * b.abs() + scales).all())


def test_a_product_that_overflows_is_named() -> None:
    """Numbers that are finite at the input, and infinite where they are multiplied."""
    graph, x = small(), torch.full((2, 2, 6, 6), 3e38)
    with pytest.raises(InputError, match=r"%r.* holds a NaN or an infinity in calibration sample 0"):
        Quantize().run(graph, PassContext(target="onnxruntime", calibration=[x]))


def test_endless_data_is_read_to_the_limit_and_not_held() -> None:
    """Batches are dropped as they are used: what lives is the samples that corrections are made on."""
    living: set[int] = set()
    most = made = 0

    def batches() -> Iterator[torch.Tensor]:
        nonlocal most, made
        generator = torch.Generator().manual_seed(0)
        while True:
            x = torch.randn(1, 2, 6, 6, generator=generator)
            made += 1
            living.add(made)
            weakref.finalize(x, living.discard, made)
            most = max(most, len(living))
            yield x
            del x

    graph = small()
    Quantize(samples=300, correct_bias=False).run(graph, PassContext(target="onnxruntime", calibration=batches()))
    assert made <= 301
    assert most <= 20


def test_memory_of_calibration_does_not_grow_with_data() -> None:
    """What is known of an activation has the same size after one batch and after a hundred."""
    from graphopt.passes.quantization.spread import Spread

    sizes = []
    for count in (1, 100):
        spread = Spread()
        for seed in range(count):
            spread.add(torch.randn(4096, generator=torch.Generator().manual_seed(seed)))
        assert spread.counts is not None
        sizes.append(spread.counts.nbytes)
        assert len(spread.lows) == count and math.isfinite(spread.low)
    assert sizes[0] == sizes[1]


def test_a_loader_that_raises_says_what_it_was_for() -> None:
    def batches() -> Iterator[torch.Tensor]:
        yield torch.zeros(1, 2, 6, 6)
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        Quantize().run(small(), PassContext(target="onnxruntime", calibration=batches()))


def test_pruning_what_is_quantized_is_refused_with_the_right_order() -> None:
    x = torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    context = PassContext(target="onnxruntime", calibration=[x])
    with pytest.raises(PassError) as caught:
        graphopt.PassManager("quantize,prune-channels{ratio=0.5}", on_failure="raise").run(small(), context)
    assert "'prune-channels' cannot run on a graph that is 'quantized'" in str(caught.value)
    order = str(caught.value).split("the right order is: ")[1]
    assert order.index("prune-channels") < order.index("quantize")


def test_pruned_and_quantized_is_smaller_than_either_and_each_step_states_its_error() -> None:
    x = torch.randn(8, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    context = PassContext(target="onnxruntime", calibration=[x], samples=[[x]])
    graph, report = graphopt.PassManager("prune-channels{ratio=0.4},quantize").run(small(), context)
    errors = {record.name: record.error for record in report.records}
    assert errors["prune-channels"] is not None and errors["quantize"] is not None
    convolution = next(node for node in graph if node.name == "aten.conv2d")
    assert convolution.result.shape[1] < 3
    assert any(node.name == "graphopt.quantize" for node in graph)


@pytest.mark.parametrize("number", [0.0, 3.0, -2.0])
def test_constant_batches_have_a_scale(number: float) -> None:
    """What never varies is rounded to itself, or nearly; what is zero throughout has a scale all the same."""
    graph = small()
    x = torch.full((4, 2, 6, 6), number)
    (wanted,) = run_graph(graph, x)
    Quantize(correct_bias=False).run(graph, PassContext(target="onnxruntime", calibration=[x]))
    scales = [node.operands[1].constant.tensor for node in graph if node.name == "graphopt.quantize"]  # type: ignore[union-attr]
    assert scales and all(bool((scale > 0).all()) and bool(scale.isfinite().all()) for scale in scales)
    (found,) = run_graph(graph, x)
    assert bool(((found - wanted).abs() <= 0.03 * wanted.abs().max() + 1e-3).all())


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_channels_of_zeros_stay_zeros(granularity: str) -> None:
    graph = small()
    w, b = (graph.constants[name].constant.tensor for name in "wb")  # type: ignore[union-attr]
    w[1], b[1] = 0.0, 0.0
    x = torch.randn(8, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    Quantize(correct_bias=False, granularity=granularity).run(graph, PassContext(target="onnxruntime", calibration=[x]))
    convolution = next(node for node in graph if node.name == "aten.conv2d")
    stored = convolution.operands[1].producer.operands  # type: ignore[union-attr]
    assert not bool(stored[0].constant.tensor[1].any())  # type: ignore[union-attr]
    assert bool((stored[1].constant.tensor > 0).all())  # type: ignore[union-attr]
    graph.set_outputs([convolution.result])
    (found,) = run_graph(graph, x)
    assert not bool(found[:, 1].any()) and bool(found.isfinite().all())
