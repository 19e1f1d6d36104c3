"""Targets that third parties describe in files: their capability rows decide where pairs stand, and what scales are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graphopt
from graphopt.errors import GraphOptError, TargetError
from graphopt.ops import get_op
from graphopt.passes.quantization.profiles import OPERANDS, PROFILES, get_profile
from graphopt.passes.quantize import Quantize
from graphopt.passmanager import PassContext
from graphopt.targets import Capability, Target
from graphopt.targets.quantization import PAIR, QUANTIZED

NPU = """
schema = 1
name = "npu"
engines = ["eager"]

[[capabilities]]
operator = "graphopt.quantize"
dtypes = ["i8"]
symmetric = true

[[capabilities]]
operator = "aten.conv*"
granularity = "tensor"
symmetric = true
fusion = ["aten.relu"]
scales = "integer"

[[capabilities]]
operator = "aten.linear"
granularity = "channel"
symmetric = true
scales = "any"

[[capabilities]]
operator = "aten.flatten.*"
scales = "same"
"""
"""A unit that adds no integers and knows no zero points, and whose convolutions have one scale for a weight."""


class Residual(nn.Module):
    """Two convolutions, a sum, and a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        return self.head((self.second(x) + x).flatten(1))


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "npu.toml"
    path.write_text(NPU)
    return str(path)


def model_and_data() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return Residual().eval(), torch.randn(32, 3, 4, 4)


def compiled(target: Any, passes: str = "default,quantize,fold-constants,dead-code") -> Any:
    model, x = model_and_data()
    return graphopt.compile(
        model, (x[:4],), target=target, dynamic_shapes="batch", passes=passes, calibration=[x], on_failure="raise"
    )


def parameters(graph: graphopt.Graph, name: str) -> list[tuple[torch.Tensor | None, ...]]:
    """Scale and zero point of each conversion of that name."""
    found = [node.operands[1:3] for node in graph if node.name == name]
    return [tuple(None if v is None else v.constant.tensor for v in pair) for pair in found]  # type: ignore[union-attr]


def test_rows_of_a_file_decide_where_pairs_stand(file: str) -> None:
    """No pair reads or feeds the sum but those of the layers, no zero point is other than 0, and biases are floats."""
    made = compiled(file)
    pairs = parameters(made.graph, "graphopt.quantize")
    assert pairs and all(scale.dim() == 0 and int(zero) == 0 and zero.dtype is torch.int8 for scale, zero in pairs)
    quantized = [node.operands[0].producer for node in made.graph if node.name == "graphopt.quantize"]  # type: ignore[union-attr]
    kinds = [None if node is None else node.op.base for node in quantized]
    assert kinds == [None, "aten.relu", "aten.conv2d", "aten.add", "aten.flatten"]  # the sum: for the layer behind it
    weights = {
        node.operands[0].name: node.operands[1].constant.tensor.dim()  # type: ignore[union-attr]
        for node in made.graph
        if node.name == "graphopt.dequantize" and node.operands[0].constant is not None  # type: ignore[union-attr]
    }
    assert len(weights) == 3 and "int32" not in str(made.graph)
    assert [dims for name, dims in weights.items() if "head" not in name] == [0, 0]
    assert [dims for name, dims in weights.items() if "head" in name] == [1]
    model, x = model_and_data()
    with torch.no_grad():
        assert float((made(x) - model(x)).abs().max()) < 0.1 * float(model(x).abs().max())


def test_the_same_rows_by_the_name_of_the_file(file: str) -> None:
    """`profile=` takes a file, too, whatever is compiled for."""
    given = compiled("onnxruntime", f'default,quantize{{profile="{file}"}},fold-constants,dead-code')
    named, direct = (parameters(made.graph, "graphopt.quantize") for made in (given, compiled(file)))
    assert len(named) == len(direct)
    counts = given.report.quantization.counts
    assert counts["layers"] == 3 and counts["other operators"] == 1


def test_a_target_without_such_rows_is_quantized_as_for_its_engine() -> None:
    made = compiled(Target("mine", engines=("onnxruntime",)))
    names = [node.op.base for node in made.graph]
    assert names == [node.op.base for node in compiled("onnxruntime").graph]
    with pytest.raises(GraphOptError, match="profile"):
        compiled(Target("nothing", engines=()))


@pytest.mark.parametrize("name", sorted(QUANTIZED))
def test_built_in_rows_are_what_profiles_are_made_of(name: str) -> None:
    profile = get_profile(name)
    assert profile is PROFILES[name]
    rows = {row.operator: row for row in QUANTIZED[name]}
    assert set(profile.fusions) == set(rows) - {PAIR}
    assert all(profile.fusions[operator].result == rows[operator].scales for operator in profile.fusions)
    assert profile.symmetric is rows[PAIR].symmetric and profile.tails == frozenset(rows[PAIR].fusion)


def test_operands_are_those_of_the_schemas() -> None:
    """Each name that the table gives is a parameter of the operator."""
    for name, fusion in OPERANDS.items():
        names = {p.name for p in get_op(name).params}
        assert {*fusion.inputs, *filter(None, (fusion.weight, fusion.bias))} <= names, name


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((Capability("aten.gelu", scales="any"),), "quantization knows no such operator"),
        ((Capability(PAIR, dtypes=("f32",)), Capability("aten.linear", scales="any")), "names no integers"),
    ],
)
def test_rows_that_no_quantization_fits_are_named(rows: tuple[Capability, ...], message: str) -> None:
    with pytest.raises(TargetError, match=message):
        compiled(Target("odd", engines=("eager",), capabilities=rows))


def test_a_row_without_integers_leaves_an_operator_in_floating_point() -> None:
    rows = (
        Capability("aten.linear", scales="any"),
        Capability("aten.conv2d", dtypes=("f32",), scales="integer"),
    )
    graph = Quantize()(
        graphopt.trace(*_traced()), PassContext(target="mine", capabilities=rows, calibration=[model_and_data()[1]])
    )
    assert [node.name for node in graph if node.name == "graphopt.quantize"] == ["graphopt.quantize"]


def test_what_a_row_fuses_stays_with_its_operator() -> None:
    """The ReLU goes into the convolution, so that the pair stands behind it; without that, in front."""
    model, x = model_and_data()
    found = []
    for fusion in ((), ("aten.relu",)):
        rows = (Capability("aten.conv2d", scales="integer", fusion=fusion),)
        context = PassContext(target="mine", capabilities=rows, calibration=[x])
        graph = Quantize()(graphopt.trace(model, (x,)), context)
        relu = next(node for node in graph if node.name == "aten.relu")
        found.append(relu.operands[0].producer.name)  # type: ignore[union-attr]
    assert found == ["graphopt.dequantize", "aten.conv2d"]


def _traced() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    model, x = model_and_data()
    return model, (x,)
