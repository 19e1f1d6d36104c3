"""A scale for each channel of what depthwise convolutions read: where it stands, what it is, and what it is worth."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

import graphopt
from graphopt.analysis import run_graph
from graphopt.backends.onnx import emit_onnx
from graphopt.passes.quantization.spread import CHANNEL_CODES, Spread
from graphopt.passes.quantize import Quantize
from tests.backends.onnx.oracle import run_session, session
from tests.passes.figures import decibels
from tests.passes.test_quantize import data, quantized

DEPTHWISE = """
input %x: f32[N, 6, 5, 5]
parameter %w: f32[6, 1, 3, 3]
parameter %b: f32[6]
parameter %v: f32[4, 6, 1, 1]
%r = relu(%x)
%y = conv2d(%r, %w, %b) {padding=(1, 1), groups=6}
%z = conv2d(%y, %v)
return %z"""


def test_what_a_depthwise_convolution_reads_has_a_scale_for_each_channel_where_the_target_takes_it() -> None:
    x = data(24, (6, 5, 5)) * torch.logspace(-2, 2, 6)[:, None, None]
    graph = quantized(DEPTHWISE, [x[:16]], Quantize(profile="openvino", method="minmax"))
    first, second = [node for node in graph if node.name == "graphopt.quantize"]
    assert first.attr("axis") == 1 and second.attr("axis") is None
    largest = x[:16].relu().amax((0, 2, 3))
    assert torch.allclose(first.operands[1].constant.tensor, largest / 255)  # type: ignore[union-attr]
    assert np.allclose(run_session(session(emit_onnx(graph)), [x[16:]])[0], run_graph(graph, x[16:])[0], atol=1e-4)
    for options in ({}, {"profile": "openvino", "granularity": "tensor"}):
        graph = quantized(DEPTHWISE, [x], Quantize(**options))  # type: ignore[arg-type]
        assert {node.attr("axis") for node in graph if node.name == "graphopt.quantize"} == {None}


def test_a_scale_for_each_channel_lets_no_channel_drown_and_no_split_changes_it() -> None:
    x = data(24, (6, 5, 5)) * torch.logspace(-2, 2, 6)[:, None, None]
    graph = graphopt.parse(DEPTHWISE)
    pass_ = Quantize(profile="openvino", correct_bias=False)
    errors = []
    for batches in ([x], x.split(5), x.flip(0).split(7)):
        small = quantized(DEPTHWISE, batches, pass_)
        errors.append(run_graph(small, x)[0] - run_graph(graph, x)[0])
    assert torch.equal(errors[0], errors[1]) and torch.equal(errors[0], errors[2])
    coarse = quantized(DEPTHWISE, [x], Quantize(profile="openvino", granularity="tensor", correct_bias=False))
    within = [run_graph(one, x)[0] for one in (graph, small, coarse)]
    assert decibels(within[0], within[1]) > decibels(within[0], within[2]) + 3


@given(st.lists(st.floats(-1e4, 1e4, width=32).map(float), min_size=2, max_size=60))
def test_coarse_bins_hold_all_numbers_near_where_they_are(numbers: list[float]) -> None:
    x = torch.tensor(numbers)
    coarse = Spread(np.zeros(CHANNEL_CODES, np.int64))
    coarse.add(x)
    values, counts = coarse.bins()
    assert counts.sum() == len(numbers) and (coarse.low, coarse.high) == (float(x.min()), float(x.max()))
    found = np.sort(np.repeat(values, counts.astype(int)))
    expected = np.sort(x.numpy().astype(np.float64))
    assert (np.abs(found - expected) <= np.abs(expected) / 14 + 1e-38).all()
