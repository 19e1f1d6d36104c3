"""Training with quantization: a module that rounds, learns its weights and scales, and becomes an integer model."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import graphopt
from graphopt.analysis import run_graph
from graphopt.errors import GraphOptError
from graphopt.passes.convert_quantized import ConvertQuantized
from graphopt.passes.quantize import Quantize
from graphopt.passmanager import PassContext

TEXT = """
input %x: f32[N, 2, 6, 6]
parameter %w: f32[4, 2, 3, 3] requires_grad
parameter %b: f32[4] requires_grad
parameter %v: f32[3, 144] requires_grad
parameter %c: f32[3] requires_grad
%y = conv2d(%x, %w, %b) {padding=(1, 1)}
%r = relu(%y)
%f = flatten.using_ints(%r) {start_dim=1}
%o = linear(%f, %v, %c)
return %o"""


def data(count: int = 32) -> torch.Tensor:
    return torch.randn(count, 2, 6, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 8, 3, padding=1), nn.Linear(8 * 36, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(x)).flatten(1))


def test_fake_and_stored_quantization_are_the_same_numbers() -> None:
    """The same pass for training, converted, gives what it gives for an engine, but for the scales of tiny weights."""
    graph, x = graphopt.parse(TEXT), data()
    context = PassContext(target="onnxruntime", calibration=[x])
    fake = Quantize(trainable=True)(graph, context)
    names = [node.name for node in fake]
    assert "graphopt.quantize" not in names and names.count("graphopt.fake_quantize") == 5
    assert all(fake.constants[name].constant.requires_grad for name in ("w", "v", "w_scale", "v_scale"))  # type: ignore[union-attr]
    converted = ConvertQuantized()(fake, context)
    stored = Quantize(trainable=False)(graph, context)
    assert [n.name for n in converted].count("graphopt.dequantize") == [n.name for n in stored].count(
        "graphopt.dequantize"
    )
    assert not any(value.constant.requires_grad for value in converted.constants.values())  # type: ignore[union-attr]
    (a,), (b,), (c,) = (run_graph(g, x) for g in (fake, converted, stored))
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(b, c, rtol=1e-3, atol=1e-2)


def test_training_makes_up_for_two_bits() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher, x = Net().eval(), data(256)
        with torch.no_grad():
            labels = teacher(x).argmax(1)
        quantized = graphopt.compile(
            teacher, (x[:4],), target="fx", dynamic_shapes="batch", passes="quantize{dtype=int2}", calibration=[x]
        )

        def hits(module: nn.Module) -> float:
            with torch.no_grad():
                return float((module(x).argmax(1) == labels).float().mean())

        before = hits(quantized)
        trained = {name for name, p in quantized.named_parameters() if p.requires_grad}
        assert {"conv.weight", "conv.weight_scale", "head.weight", "head.weight_scale"} <= trained
        loader = [(x[rows], labels[rows]) for rows in torch.arange(256).split(32)]
        graphopt.finetune(quantized, loader, F.cross_entropy, epochs=20)
        after = hits(quantized)
    assert after > before + 0.1
    deployed = graphopt.compile(
        quantized.eval(),
        (x[:4],),
        target="onnxruntime",
        dynamic_shapes="batch",
        passes="default,convert-quantized,fold-constants,dead-code",
        on_failure="raise",
    )
    assert abs(hits(deployed) - after) <= 0.02
    integers = [value for value in deployed.graph.constants.values() if value.dtype.value in ("i8", "i32")]
    assert len(integers) == 4  # no kernel reads weights of two bits
    assert all(
        set(value.constant.tensor.unique().tolist()) <= {-2, -1, 0, 1}
        for value in integers
        if value.dtype.value == "i8"
    )


def test_a_scale_that_is_not_positive_is_named() -> None:
    graph = Quantize(trainable=True)(graphopt.parse(TEXT), PassContext(target="onnxruntime", calibration=[data()]))
    graph.constants["w_scale"].constant.tensor[1] = -0.1  # type: ignore[union-attr]
    with pytest.raises(GraphOptError, match="w_scale"):
        ConvertQuantized()(graph, PassContext(target="onnxruntime"))
