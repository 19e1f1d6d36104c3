"""quantize: pairs where kernels are integers, scales that no batch split changes, accuracy held against ONNX Runtime's
own quantizer, and errors that name what is wrong."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
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
from graphopt.ir import verify
from graphopt.ops.quantization import find_format
from graphopt.passes.quantization.clipping import METHODS, Grid, affine, choose_range
from graphopt.passes.quantization.spread import Spread
from graphopt.passes.quantize import Quantize
from graphopt.passmanager import PassContext, PassManager
from graphopt.testing.generate import random_graph
from graphopt.testing.inputs import sample_inputs
from tests.backends.onnx.oracle import run_session
from tests.passes.figures import decibels
from tests.zoo import trained

SMALL = """
input %x: f32[N, 2, 6, 6]
parameter %w: f32[4, 2, 3, 3]
parameter %b: f32[4]
parameter %v: f32[3, 36]
parameter %c: f32[3]
%y = conv2d(%x, %w, %b) {padding=(1, 1)}
%r = relu(%y)
%p = max_pool2d(%r) {kernel_size=(2, 2)}
%f = flatten.using_ints(%p) {start_dim=1}
%o = linear(%f, %v, %c)
return %o"""

RESIDUAL = """
input %x: f32[N, 4, 6, 6]
parameter %w: f32[4, 4, 3, 3]
%y = conv2d(%x, %w) {padding=(1, 1)}
%s = add.Tensor(%y, %x)
%r = relu(%s)
%z = conv2d(%r, %w) {padding=(1, 1)}
%m = mean.dim(%z) {dim=(2, 3)}
return %m"""


def data(count: int = 12, shape: tuple[int, ...] = (2, 6, 6), seed: int = 0) -> torch.Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def quantized(text: str, calibration: Any, pass_: Quantize | None = None) -> graphopt.Graph:
    context = PassContext(target="onnxruntime", calibration=calibration)
    return (pass_ or Quantize())(graphopt.parse(text), context)


def ops(graph: graphopt.Graph) -> list[str]:
    return [node.op.base.split(".")[1] for node in graph]


def scales(graph: graphopt.Graph) -> list[tuple[float, int]]:
    """Scale and zero point of each pair of activations, in order."""
    pairs = [node for node in graph if node.name == "graphopt.quantize"]
    return [tuple(v.constant.tensor.item() for v in node.operands[1:3]) for node in pairs]  # type: ignore[union-attr, misc]


def test_pairs_stand_where_kernels_are_integers() -> None:
    """The ReLU goes into the quantization behind it; pool and reshape keep the scale; the output stays a float."""
    graph = quantized(SMALL, data().split(4))
    pair = ["quantize", "dequantize"]
    stored = ["dequantize", "dequantize"]
    assert ops(graph) == [
        *pair, *stored, "conv2d", "relu", *pair, "max_pool2d", *pair, "flatten", *pair, *stored, "linear",
    ]  # fmt: skip
    found = scales(graph)
    assert found[1] == found[2] == found[3]
    assert found[1][1] == 0
    weight, bias = graph.nodes[2].operands[0], graph.nodes[3].operands[0]
    assert weight.dtype.value == "i8" and bias.dtype.value == "i32"  # type: ignore[union-attr]


def test_residuals_and_means() -> None:
    graph = quantized(RESIDUAL, data(shape=(4, 6, 6)).split(4))
    assert ops(graph).count("quantize") == 4  # the input, both convolutions, and the ReLU, but not the output
    assert "adaptive_avg_pool2d" in ops(graph)
    add = next(node for node in graph if node.name == "aten.add.Tensor")
    assert all(operand.producer.name == "graphopt.dequantize" for operand in add.operands)  # type: ignore[union-attr]


def test_biases_have_the_scale_of_the_product() -> None:
    graph = quantized(SMALL, data(), Quantize(correct_bias=False))
    convolution = next(node for node in graph if node.name == "aten.conv2d")
    x, w, b = (operand.producer for operand in convolution.operands)  # type: ignore[union-attr]
    product = x.operands[1].constant.tensor * w.operands[1].constant.tensor
    assert torch.equal(b.operands[1].constant.tensor, product)
    original = graphopt.parse(SMALL).constants["b"].constant.tensor  # type: ignore[union-attr]
    stored = b.operands[0].constant.tensor.double() * product.double()
    assert bool(((stored - original).abs() <= product * 0.5001).all())


@settings(deadline=None, max_examples=12)
@given(st.data(), st.sampled_from(sorted(METHODS)))
def test_any_split_and_order_gives_the_same_scales(draw: st.DataObject, method: str) -> None:
    samples = data()
    expected = scales(quantized(SMALL, [samples], Quantize(method=method)))
    order = draw.draw(st.permutations(range(len(samples))))
    sizes = draw.draw(st.lists(st.integers(1, 5), min_size=12, max_size=12))
    shuffled = samples[torch.tensor(order)]
    batches = torch.split(shuffled, list(_filling(sizes, len(samples))))
    assert scales(quantized(SMALL, batches, Quantize(method=method))) == expected
    as_dicts = ({"x": part} for part in batches)
    assert scales(quantized(SMALL, as_dicts, Quantize(method=method))) == expected


def _filling(sizes: list[int], total: int) -> Iterator[int]:
    for size in sizes:
        if total <= 0:
            return
        yield min(size, total)
        total -= size


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=60),
    st.sampled_from(sorted(METHODS)),
    st.sampled_from(["uint8", "int8", "int4"]),
    st.booleans(),
)
def test_ranges_lie_within_what_was_seen(numbers: list[float], method: str, name: str, symmetric: bool) -> None:
    spread = Spread()
    spread.add(torch.tensor(numbers))
    grid = Grid(find_format(name), symmetric)
    low, high = choose_range(spread, method, grid, 99.9, 3.0)
    reach = max(-spread.low, spread.high, 0.0) if symmetric else math.inf
    assert max(low, -reach) >= min(spread.low, 0.0, -reach if symmetric else 0.0) - 1e-3
    assert high <= max(spread.high, 0.0, reach if symmetric else 0.0) + 1e-3
    scale, zero = affine(low, high, grid.format_, symmetric)
    assert scale > 0 and grid.format_.low <= zero <= grid.format_.high
    if not symmetric:
        assert (grid.format_.low - zero) * scale <= min(low, 0.0) + scale
        assert (grid.format_.high - zero) * scale >= max(high, 0.0) - scale


def test_the_mse_range_is_the_best_of_many() -> None:
    """Against a search by brute force on the numbers themselves."""
    x = torch.randn(20000, generator=torch.Generator().manual_seed(3)) ** 3
    spread = Spread()
    spread.add(x)
    grid = Grid(find_format("int8"), symmetric=True)

    def loss(reach: float) -> float:
        scale = torch.tensor(affine(-reach, reach, grid.format_, True)[0])
        return float((graphopt.fake_quantize(x, scale) - x).square().sum())

    _, high = choose_range(spread, "mse", grid, 99.9, 2.0)
    reaches = np.linspace(0.02, 1.0, 200) * float(x.abs().max())
    assert loss(high) <= 1.05 * min(map(loss, reaches))


def test_an_outlier_widens_no_range() -> None:
    x = data()
    x[3, 0, 0, 0] = 1e30
    graph = quantized(SMALL, [x])
    assert scales(graph)[0][0] < 1.0
    notes = Quantize().run(graphopt.parse(SMALL), PassContext(target="onnxruntime", calibration=[x])).notes
    assert any("outliers" in note and "%x" in note for note in notes)


@pytest.mark.parametrize("method", ["minmax", "lp"])
def test_constant_and_zero_data_give_sound_scales(method: str) -> None:
    for value in (0.0, 3.0, -2.0):
        graph = quantized(SMALL, [torch.full((4, 2, 6, 6), value)], Quantize(method=method))
        assert all(0 < scale < math.inf for scale, _ in scales(graph))
        x = torch.full((2, 2, 6, 6), value)
        (found,), (expected,) = run_graph(graph, x), run_graph(graphopt.parse(SMALL), x)
        assert bool((found - expected).abs().max() <= 0.1 * expected.abs().max() + 1e-3)


def test_channels_of_zeros_keep_their_bias() -> None:
    graph = graphopt.parse(SMALL)
    w, b = graph.constants["w"].constant.tensor, graph.constants["b"].constant.tensor  # type: ignore[union-attr]
    w[1] = 0
    w[2] *= 1e-9
    b[1], b[2] = 100.0, -100.0
    found = Quantize()(graph, PassContext(target="onnxruntime", calibration=[data()]))
    convolution = next(node for node in found if node.name == "aten.conv2d")
    bias = convolution.operands[2].producer  # type: ignore[union-attr]
    stored = bias.operands[0].constant.tensor.double() * bias.operands[1].constant.tensor  # type: ignore[union-attr]
    assert abs(stored[1] - 100) < 1e-3 and abs(stored[2] + 100) < 1e-3


def test_not_finite_activations_are_named() -> None:
    x = data()
    x[5, 1, 2, 2] = math.nan
    with pytest.raises(InputError, match=r"%x holds a NaN.*sample 5"):
        quantized(SMALL, x.split(4))
    text = SMALL.replace("%r = relu(%y)", "%l = log(%y)\n%r = relu(%l)")
    with pytest.raises(InputError, match=r"%r.* holds a NaN"):
        quantized(text, [data()])


@pytest.mark.parametrize("batches", [[], [torch.empty(0, 2, 6, 6)], iter(())])
def test_no_data_is_an_error(batches: Any) -> None:
    with pytest.raises(InputError, match="no sample"):
        quantized(SMALL, batches)


def test_wrong_options_are_errors() -> None:
    with pytest.raises(InputError, match="needs data"):
        Quantize()(graphopt.parse(SMALL), PassContext(target="onnxruntime"))
    with pytest.raises(InputError, match="does not fit"):
        quantized(SMALL, [torch.zeros(2, 3)])
    with pytest.raises(UnknownNameError, match="entrpy"):
        Quantize(method="entrpy")
    with pytest.raises(UnknownNameError, match="int9"):
        Quantize(dtype="int9")
    with pytest.raises(GraphOptError, match="float8_e5m2"):
        Quantize(activations="float8_e5m2")
    with pytest.raises(UnknownNameError, match="conv3"):
        quantized(SMALL, [data()], Quantize(ignore=("conv3",)))
    with pytest.raises(UnknownNameError, match="profile"):
        quantized(SMALL, [data()], Quantize(profile="nowhere"))
    with pytest.raises(GraphOptError, match="quantized"):
        context = PassContext(target="onnxruntime", calibration=[data()])
        PassManager([Quantize(), Quantize()], on_failure="raise").run(graphopt.parse(SMALL), context)


def test_ignored_operators_stay_floats_and_are_reported() -> None:
    graph = graphopt.parse(SMALL)
    result = Quantize(ignore=("linear",)).run(graph, PassContext(target="onnxruntime", calibration=[data()]))
    linear = next(node for node in graph if node.name == "aten.linear")
    assert linear.operands[1].constant is not None  # type: ignore[union-attr]
    assert any("linear" in note and "ignored" in note for note in result.notes)


@pytest.mark.parametrize("target, symmetric", [("tensorrt", True), ("openvino", False)])
def test_other_targets_want_pairs_at_inputs_alone(target: str, symmetric: bool) -> None:
    graph = quantized(SMALL, [data()], Quantize(profile=target))
    assert ops(graph).count("quantize") == 2
    assert all((zero == 0) is symmetric or not symmetric for _, zero in scales(graph))
    assert ("int32" in str(graph)) is not symmetric


class Depthwise(nn.Module):
    """Squeeze, expand, depthwise, with clips and a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(4, 8, 1), nn.ReLU6(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU6(), nn.Conv2d(8, 4, 1)
        )
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.cat([x + self.inner(x), x], 1)[:, :4]
        return self.head(nn.functional.avg_pool2d(y, 2).mean((2, 3)))


class Sequence(nn.Module):
    """Linear layers on three dims, and a product of activations."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 8, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.second(torch.relu(self.first(x)))
        return y @ x.transpose(1, 2)


def emitted(module: nn.Module, x: torch.Tensor, passes: str = "default,quantize,fold-constants,dead-code") -> Any:
    return graphopt.compile(
        module.eval(), (x[:2],), target="onnxruntime", dynamic_shapes="batch", passes=passes, calibration=[x],
        on_failure="raise",
    )  # fmt: skip


def fused(model: onnx.ModelProto) -> Counter[str]:
    """The operators that are left once ONNX Runtime has fused."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(Path(folder) / "fused.onnx")
        options.log_severity_level = 3
        onnxruntime.InferenceSession(model.SerializeToString(), options)
        return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def test_onnx_runtime_fuses_every_pair() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Depthwise()
    x = data(16, (4, 8, 8))
    compiled = emitted(module, x)
    found = fused(compiled.to_onnx())
    assert found["QLinearConv"] == 3 and found["QLinearAdd"] == 1 and found["QGemm"] == 1
    assert not any(found[name] for name in ("Conv", "Add", "Gemm", "Clip", "Relu", "AveragePool", "GlobalAveragePool"))
    assert found["QuantizeLinear"] == 1 and found["DequantizeLinear"] == 0
    with torch.no_grad():
        assert decibels(module(x), compiled(x)) > 25


def test_sequences() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Sequence()
    x = data(16, (5, 8))
    compiled = emitted(module, x)
    found = fused(compiled.to_onnx())
    assert found["MatMul"] == found["Gemm"] == 0
    with torch.no_grad():
        assert decibels(module(x), compiled(x)) > 25


def test_more_accurate_than_onnx_runtimes_own_quantizer(tmp_path: Path) -> None:
    """The same trained weights, the same data, in the same engine: signal to noise of the logits."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    model = trained.trained_resnet8()
    calibration, held_out = model.data.train_images[:64], model.data.images
    with torch.no_grad():
        reference = model.module(held_out)
    plain = graphopt.compile(model.module, (calibration[:2],), target="onnx", dynamic_shapes="batch").to_onnx()
    onnx.save(plain, tmp_path / "plain.onnx")

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter([{plain.graph.input[0].name: x.numpy()} for x in calibration.split(1)])

        def get_next(self) -> Any:
            return next(self.batches, None)

    quantize_static(
        tmp_path / "plain.onnx", tmp_path / "theirs.onnx", Reader(), per_channel=True, activation_type=QuantType.QUInt8
    )
    session = onnxruntime.InferenceSession(tmp_path / "theirs.onnx")
    theirs = torch.tensor(session.run(None, {session.get_inputs()[0].name: held_out.numpy()})[0])
    ours = emitted(model.module, calibration)
    assert decibels(reference, ours(held_out)) >= decibels(reference, theirs) + 2
    assert (ours(held_out).argmax(1) == model.data.labels).float().mean() >= model.accuracy - 0.01


def test_fx_runs_the_same_numbers() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = Depthwise().eval()
    x = data(8, (4, 8, 8), seed=2)
    graph = emitted(module, x).graph
    from graphopt.backends.fx import emit_fx

    with torch.no_grad():
        assert decibels(run_graph(graph, x)[0], emit_fx(graph)(x)) > 60


def test_gptq_lowers_the_error_of_each_layer() -> None:
    """Against rounding to the nearest, on what the layer reads; and brute force over one row of few columns."""
    from itertools import product

    from graphopt.passes.quantization.gptq import gptq

    generator = torch.Generator().manual_seed(5)
    format_ = find_format("int4")
    x = torch.randn(200, 6, generator=generator) @ torch.randn(6, 6, generator=generator)
    weight = torch.randn(3, 6, generator=generator)
    scales = (weight.abs().amax(1) / 7)[:, None]
    found = gptq(weight, x.T @ x, scales, format_)
    assert bool(((found >= -8) & (found <= 7) & (found == found.round())).all())

    def cost(q: torch.Tensor) -> torch.Tensor:
        return ((q.double() * scales - weight) @ x.double().T).square().sum(1)

    nearest = (weight / scales).round().clamp(-8, 7)
    assert bool((cost(found) <= cost(nearest) + 1e-9).all())
    floor = (weight[0] / scales[0]).floor()
    around = torch.stack([floor + torch.tensor(c) for c in product((-1, 0, 1, 2), repeat=6)]).clamp(-8, 7)
    best = ((around.double() * scales[0] - weight[0]) @ x.double().T).square().sum(1).min()
    assert cost(found)[0] <= 1.5 * best


def test_gptq_on_a_model() -> None:
    model = trained.trained_resnet8()
    calibration, held_out = model.data.train_images[:24], model.data.images[:100]
    graph = graphopt.compile(model.module, (calibration[:2],), target="onnx", dynamic_shapes="batch").graph
    with torch.no_grad():
        reference = model.module(held_out)
    context = PassContext(target="onnxruntime", calibration=[calibration])
    nearest, compensated = (
        decibels(reference, run_graph(Quantize(dtype="int4", rounding=rounding)(graph, context), held_out)[0])
        for rounding in ("nearest", "gptq")
    )
    assert compensated > nearest + 2


def test_the_report_tells_each_layers_noise() -> None:
    """Alone it is what one finds by quantizing that layer alone; accumulated, what the whole graph gives there."""
    graph, x = graphopt.parse(SMALL), data(8)
    result = Quantize(correct_bias=False, method="minmax").run(
        graph, PassContext(target="onnxruntime", calibration=[x])
    )
    report = result.details.to_dict()
    assert report["counts"] == {"layers": 2, "other operators": 2, "pairs": 4}
    first, last = report["layers"]
    assert (first["name"], first["operator"], last["name"]) == ("w", "aten.conv2d", "v")
    assert first["seen"] == [float(x.min()), float(x.max())]
    assert 30 < first["own"] == first["accumulated"] < 60
    assert last["own"] > last["accumulated"]
    found = 10 * math.log10(
        sum(float(run_graph(graphopt.parse(SMALL), s)[0].double().square().sum()) for s in x.split(1))
        / sum(
            float((run_graph(graph, s)[0] - run_graph(graphopt.parse(SMALL), s)[0]).double().square().sum())
            for s in x.split(1)
        )
    )
    assert last["accumulated"] == pytest.approx(found, abs=1e-3)
    assert any("dB alone" in line for line in result.notes)


def test_what_is_no_faster_is_reverted_on_request() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Linear(4, 4)
    x = torch.randn(8, 4)
    compiled = emitted(module, x, "default,quantize{only_if_faster=true}")
    stays = any(node.name == "graphopt.quantize" for node in compiled.graph)
    assert stays or "no faster" in str(compiled.report)


OPERATORS = (
    "conv2d conv1d conv2d.padding linear matmul mm addmm bmm relu relu6 hardtanh clamp add.Tensor mul.Tensor "
    "max_pool2d avg_pool2d adaptive_avg_pool2d mean.dim cat reshape flatten.using_ints permute transpose.int "
    "leaky_relu call-again"
)


@pytest.mark.parametrize("optimized", [False, True])
def test_random_graphs_run_alike_in_onnx_runtime(optimized: bool) -> None:
    """Sound graphs, and but for numbers that fall to the next step the same outputs, fused or not."""
    fired = 0
    for seed in range(40, 70) if optimized else range(30):
        graph = random_graph(seed, operators=OPERATORS.split(), max_nodes=14)
        if graph.mutations:
            continue
        inputs = sample_inputs(graph, seed=seed)
        made = graph.clone()
        context = PassContext(target="onnxruntime", samples=[inputs, sample_inputs(graph, seed=seed + 1)])
        try:
            Quantize().run(made, context)
        except InputError:  # sizes of 0, and numbers that are not finite
            continue
        verify(made)
        if not any(node.name == "graphopt.quantize" for node in made):
            continue
        fired += 1
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        if not optimized:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(emit_onnx(made).SerializeToString(), options)
        for wanted, found in zip(run_graph(made, *inputs), run_session(session, inputs)):
            assert found.shape == wanted.shape
            if wanted.numel():
                far = (wanted - found).abs() > 0.02 * wanted.abs().max() + 1e-6
                assert far.double().mean() <= 0.02
    assert fired > 8
