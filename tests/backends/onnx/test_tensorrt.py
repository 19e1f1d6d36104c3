"""TensorRT's documented rules of explicit quantization: what its profile writes keeps them, and each one is found."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from onnx import parser
from torch import nn

import graphopt
from graphopt.backends.onnx.tensorrt import check_tensorrt, tensorrt_problems
from graphopt.errors import EmissionError, UnknownNameError
from tests.zoo.nets_cnn import ResNet8

KEPT = """<ir_version: 9, opset_import: ["" : 20]>
g (float[N, 2, 4, 4] x) => (float[N, 2, 4, 4] y)
<float s = {0.5}, int8 z = {0}, int8[2, 2, 1, 1] w = {1, 2, 3, 4}, float[2] v = {0.1, 0.2}, int8[2] u = {0, 0},
 float[2] b = {1, 2}>
{
  q = QuantizeLinear(x, s, z)
  d = DequantizeLinear(q, s, z)
  k = DequantizeLinear <axis = 0> (w, v, u)
  c = Conv (d, k, b)
  y = Add (c, d)
}"""


def model(*changes: tuple[str, str]) -> onnx.ModelProto:
    text = KEPT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return parser.parse_model(text)


def test_what_keeps_the_rules_has_no_problem() -> None:
    assert tensorrt_problems(model()) == []
    check_tensorrt(model())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([("int8 z = {0}", "int8 z = {3}")], "zero point is not 0"),
        ([("int8 z", "uint8 z")], "uint8 is no format"),
        ([("(x, s, z)", "(x, s)")], "uint8 is no format"),
        ([("float s = {0.5}", "float s = {-0.5}")], "scale is not positive"),
        ([("float s = {0.5}, ", ""), ("float[N, 2, 4, 4] x", "float[N, 2, 4, 4] x, float s")], "scale is computed"),
        ([("(x, s, z)", "<axis = 1> (x, v, u)"), ("(q, s, z)", "<axis = 1> (q, v, u)")], "of weights alone"),
        ([("axis = 0", "axis = 1")], "scales along axis 1; TensorRT takes them along the outputs, axis 0"),
        ([("float[2] b", "int32[2] i"), ("c = Conv", "b = DequantizeLinear(i, s)\n  c = Conv")], "biases in floating"),
        ([("Conv (d", "Conv (x")], "what it reads is not"),
        ([("(q, s, z)", "(q, t, z)"), ("int8 z", "float t = {0.25}, int8 z")], "another scale"),
        ([("y = Add (c, d)", "e = QuantizeLinear(c, s, z)\n  f = DequantizeLinear(e, s, z)\n  y = Add (f, d)")],
         "quantize the other branch alone"),
        ([('"" : 20', '"" : 11')], "opset 11"),
        ([("d = Deq", "r = Relu(q)\n  d = Deq"), ("(q, s, z)", "(r, s, z)")], "Relu reads its integers"),
        ([("k = DequantizeLinear <axis = 0> (w, v, u)\n  c = Conv (d, k, b)", "c = ConvInteger(q, w)")], "ConvInteger"),
    ],
)  # fmt: skip
def test_each_rule_that_is_broken_is_named(changes: list[tuple[str, str]], message: str) -> None:
    broken = model(*changes)
    assert any(message in problem for problem in tensorrt_problems(broken)), tensorrt_problems(broken)
    with pytest.raises(EmissionError, match="profile=tensorrt"):
        check_tensorrt(broken)


class Attention(nn.Module):
    """Layers on rows, and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = torch.softmax(self.query(x) @ self.key(x).transpose(1, 2), -1)
        return self.out(weights @ self.value(x)) + x


def emitted(network: nn.Module, x: torch.Tensor, target: str) -> graphopt.CompiledModel:
    return graphopt.compile(
        network.eval(),
        (x[:2],),
        target=target,
        dynamic_shapes="batch",
        passes="default,quantize,fold-constants,dead-code",
        calibration=[x],
        on_failure="raise",
    )


def test_the_profile_writes_what_tensorrt_takes() -> None:
    """A residual network, and rows beside attention."""
    torch.manual_seed(0)
    for network, shape in ((ResNet8(), (4, 1, 8, 8)), (Attention(), (4, 6, 8))):
        made = emitted(network, torch.randn(shape), "tensorrt")
        found = made.to_onnx()
        assert tensorrt_problems(found) == []
        pairs = [node for node in found.graph.node if node.op_type == "QuantizeLinear"]
        assert len(pairs) >= 2


def test_a_residual_keeps_the_result_of_its_layer_in_floating_point() -> None:
    """The layer takes the sum in; the other branch has the pair. What the last one gives is read as floats alone."""
    torch.manual_seed(0)
    made = emitted(ResNet8(), torch.randn(4, 1, 8, 8), "tensorrt")
    sums = [node for node in made.graph if node.name == "aten.add.Tensor"]
    assert len(sums) == 3
    for node in sums[:2]:
        kinds = sorted(value.producer.op.base for value in node.operands if value is not None and value.producer)
        assert kinds == ["aten.conv2d", "graphopt.dequantize"]


def test_a_file_for_another_engine_is_refused_before_it_is_written(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = emitted(Attention(), torch.randn(4, 6, 8), "onnxruntime")
    path = tmp_path / "model.onnx"
    with pytest.raises(EmissionError, match="uint8"):
        made.to_onnx(path, rules="tensorrt")
    assert not path.exists()
    made.to_onnx(path, rules="")
    with pytest.raises(UnknownNameError, match="tensorrt"):
        made.to_onnx(rules="tensort")
