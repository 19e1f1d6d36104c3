"""Integer kernels of PyTorch in FX modules: exact sums, a step of rounding at most, and reasons where none can be."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import graphopt
from graphopt.analysis import run_graph
from graphopt.analysis.integer_layers import IntegerLayer, integer_layers
from graphopt.backends.fx import emit_fx
from graphopt.ops.quantization import find_format, layers
from graphopt.passes.quantize import Quantize
from graphopt.passmanager import PassContext
from tests.passes.test_quantization_numerics import stored


def layer(
    x: str = '"uint8"', zero: str = "u8[] = 9", scale: str = "f32[] = 0.25", weight: str = "i8", number: int = 1,
    kernel: tuple[int, ...] = (6, 4, 3, 3), w: str = '"int8"', v: str = "f32[] = 0.5", call: str = "conv2d(%d, %u)",
) -> graphopt.Graph:  # fmt: skip
    """A convolution on a pair and a stored weight."""
    numbers = stored("w", weight, torch.full(kernel, number))
    return graphopt.parse(f"""
input %x: f32[N, 4, 5, 5]
{numbers}
constant %v: {v}
constant %s: {scale}
constant %z: {zero}
%q = graphopt.quantize(%x, %s, %z) {{dtype={x}}}
%d = graphopt.dequantize(%q, %s, %z) {{dtype={x}}}
%u = graphopt.dequantize(%w, %v) {{dtype={w}}}
%y = {call}
return %y""")


def integers(dtype: torch.dtype, shape: tuple[int, ...], generator: torch.Generator, bound: int = 128) -> torch.Tensor:
    low, high = (0, 256) if dtype is torch.uint8 else (-bound, bound)
    return torch.randint(low, high, shape, generator=generator).to(dtype)


def quantized(y: torch.Tensor, dtype: str, scale: float, zero_point: int) -> torch.Tensor:
    """What a double is quantized to."""
    format_ = find_format(dtype)
    return ((y / scale).round() + zero_point).clamp(format_.low, format_.high)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_kernels_sum_exactly_and_round_to_a_neighbour(data: st.DataObject) -> None:
    """Against sums in 64 bits, for each rank, sign, stride, padding, group, bias, cut and result."""
    draw = data.draw
    dims = draw(st.integers(0, 2))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    x_type, out = draw(st.sampled_from((torch.uint8, torch.int8))), draw(st.sampled_from(("", "uint8", "int8")))
    groups = draw(st.sampled_from((1, 2, 4))) if dims else 1
    outputs = 4 * draw(st.integers(1, 2))
    w = integers(torch.int8, (outputs, 4 // groups, *[3] * dims) if dims else (outputs, 4), generator, 64)
    x = integers(x_type, (2, 4, *[6] * dims) if dims else (2, 3, 4), generator)
    x = x.contiguous(memory_format=torch.channels_last) if dims == 2 and draw(st.booleans()) else x
    scale, zero_point = 2.0 ** draw(st.integers(-6, 0)), draw(st.sampled_from((0, 7, 100)))
    weight_scale = torch.rand(outputs if draw(st.booleans()) else 1, generator=generator) + 0.1
    bias = torch.randn(outputs, generator=generator) * 30 if draw(st.booleans()) else None
    low, high = draw(st.sampled_from(((None, None), (0.0, None), (0.0, 6.0), (-3.0, None), (None, 5.0))))
    cut: dict[str, Any] = {"low": low, "high": high, "output_dtype": out}
    result = (draw(st.sampled_from((0.5, 1.7, 40.0))), draw(st.integers(-5, 9))) if out else (1.0, 0)
    cut |= {"output_scale": result[0], "output_zero_point": max(result[1], 0) if out == "uint8" else result[1]}
    given_ = {"scale": scale, "zero_point": zero_point, **cut}
    exact = x.double() - zero_point
    if dims:
        window: dict[str, Any] = {
            "stride": [draw(st.integers(1, 2))] * dims,
            "padding": [draw(st.integers(0, 2))] * dims,
            "dilation": [draw(st.integers(1, 2))] * dims,
            "groups": groups,
        }
        found = torch.ops.graphopt.integer_conv(x, w, weight_scale, bias, **window, **given_)
        sums = (torch.conv1d, torch.conv2d)[dims - 1](exact, w.double(), None, *window.values())
    else:
        found = torch.ops.graphopt.integer_linear(x, w, weight_scale, bias, **given_)
        sums = exact @ w.double().t()
    behind = [1] * dims
    y = sums * (scale * weight_scale.double()).reshape(-1, *behind)
    y = y if bias is None else y + bias.double().reshape(-1, *behind)
    y = y if low is None and high is None else y.clamp(low, high)
    assert found.dtype is {"": torch.float32, "uint8": torch.uint8, "int8": torch.int8}[out]
    if out:
        wanted = quantized(y, out, cut["output_scale"], cut["output_zero_point"])
        assert float((found.double() - wanted).abs().max()) <= 1
    else:
        assert float((found.double() - y).abs().max()) <= 1e-6 * float(y.abs().max() + sums.abs().max() * scale)


def test_what_runs_without_kernels_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    x, w = integers(torch.uint8, (2, 4, 6, 6), generator), integers(torch.int8, (8, 4, 3, 3), generator, 64)
    scale, bias = torch.rand(8, generator=generator), torch.randn(8, generator=generator)
    window = {"stride": [2, 1], "padding": [1, 0], "dilation": [1, 1]}
    for out, low in product(("", "int8"), (None, 0.0)):
        options = {"scale": 0.01, "zero_point": 3, "low": low, "output_dtype": out, "output_scale": 0.2}
        call = lambda options=options: torch.ops.graphopt.integer_conv(x, w, scale, bias, **window, **options)  # noqa: E731
        wanted = call()
        with monkeypatch.context() as patch:
            patch.setattr(layers, "lacking_kernels", lambda: "none")
            assert float((call().double() - wanted.double()).abs().max()) <= (1 if out else 1e-3)
    rows, matrix = x[:, :, 0, 0], w[:, :, 0, 0].contiguous()
    wanted = torch.ops.graphopt.integer_linear(rows, matrix, scale, bias, scale=0.1, zero_point=5)
    monkeypatch.setattr(layers, "lacking_kernels", lambda: "none")
    found = torch.ops.graphopt.integer_linear(rows, matrix, scale, bias, scale=0.1, zero_point=5)
    torch.testing.assert_close(found, wanted)


def test_a_weight_that_changes_is_packed_again() -> None:
    x, w = torch.ones(1, 4, dtype=torch.uint8), torch.ones(2, 4, dtype=torch.int8)
    one = torch.ones(1)
    assert torch.ops.graphopt.integer_linear(x, w, one).tolist() == [[4.0, 4.0]]
    w.mul_(3)
    assert torch.ops.graphopt.integer_linear(x, w, one).tolist() == [[12.0, 12.0]]


class Small(nn.Module):
    """Convolutions of each kind, a residual, a view, a sequence of rows, and a product of activations."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding="same"), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.rows, self.head = nn.Linear(64, 16), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        x = nn.functional.relu6(self.second(x)) + x
        rows = torch.relu(self.rows(x.view(x.shape[0], 8, 64)))
        return torch.softmax(rows @ rows.transpose(1, 2), -1) @ self.head(rows)


@pytest.mark.parametrize("target", ["eager", "fx"])
def test_a_model_runs_its_layers_on_integers(target: str) -> None:
    """As the graph says, up to roundings; and the report tells layers from what is rounded only."""
    torch.manual_seed(0)
    model, x = Small().eval(), torch.randn(12, 3, 8, 8)
    made = graphopt.compile(
        model,
        (x[:4],),
        target=target,
        trainable=False,
        dynamic_shapes="batch",
        passes="default,quantize,fold-constants,dead-code",
        calibration=x.split(4),
        on_failure="raise",
    )
    with torch.no_grad():
        (wanted,) = run_graph(made.graph, x)
        torch.testing.assert_close(made(x), wanted, rtol=0, atol=0.02 * float(wanted.abs().max()))
    kernels = [layer for layer in integer_layers(made.graph).values() if isinstance(layer, IntegerLayer)]
    assert len(kernels) == 4
    uses = {use.name: use for use in made.report.quantization.kernels}
    assert all(uses[f"{name}.weight"].kernel == "integer kernel" for name in ("first", "second", "rows", "head"))
    rounded = {use.operator: use.why for use in uses.values() if use.kernel == "fake quantization"}
    assert "aten.add" in rounded and all(rounded.values())
    assert any(line.startswith("PyTorch runs") for line in made.report.quantization.lines())
    if target == "fx":
        assert "graphopt.integer_conv" in made.module.code


def test_a_module_that_trains_rounds_floats_and_says_so() -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 4)
    made = graphopt.compile(nn.Linear(4, 3), (x,), target="fx", passes="quantize", calibration=[x])
    (use,) = made.report.quantization.kernels
    assert use.kernel == "fake quantization" and "trains" in use.why
    assert "integer_linear" not in made.module.code


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"weight": "u8", "w": '"uint8"'}, "8 signed bits"),
        ({"zero": "u16[] = 9", "x": '"uint16"'}, "more than 8 bits"),
        ({"scale": "f32[4] = (1, 2, 3, 4)", "zero": "u8[4] = (1, 2, 3, 4)", "x": '"uint8", axis=1'}, "each channel"),
        ({"call": 'conv2d.padding(%d, %u) {padding="same"}', "kernel": (6, 4, 2, 2)}, "padding"),
        ({"call": "conv2d(%x, %u)"}, "no integer"),
        ({"v": "f32[4] = (1, 2, 3, 4)", "w": '"int8", axis=1'}, "output channels"),
    ],
)  # fmt: skip
def test_what_no_kernel_takes_is_computed_on_rounded_floats(changes: dict[str, Any], why: str) -> None:
    graph = layer(**changes)
    (found,) = integer_layers(graph).values()
    assert isinstance(found, str) and why in found
    x = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(emit_fx(graph, integers=True)(x), run_graph(graph, x)[0])


def test_wide_weights_stay_floats_where_pairs_of_products_saturate(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphopt.analysis import integer_layers as module
    from graphopt.targets import get_chip

    monkeypatch.setattr(module, "get_chip", lambda: get_chip("avx2"))
    assert isinstance(next(iter(integer_layers(layer()).values())), IntegerLayer)
    (found,) = integer_layers(layer(number=65)).values()
    assert isinstance(found, str) and "saturate" in found


def test_layers_of_the_integer_formats_that_quantize_takes() -> None:
    """Weights of fewer bits are read as bytes; activations of 7 bits end as floats, which are then rounded to them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    x = torch.randn(16, 6)
    for pass_ in (Quantize(dtype="int4"), Quantize(activations="int8"), Quantize(activations="uint6"), Quantize()):
        graph = pass_(graphopt.trace(model, (x,)), PassContext(target="eager", calibration=[x]))
        module = emit_fx(graph, integers=True)
        assert "integer_linear" in module.code
        with torch.no_grad():
            wanted = run_graph(graph, x)[0]
            torch.testing.assert_close(module(x), wanted, rtol=0, atol=0.03 * float(wanted.abs().max()))
