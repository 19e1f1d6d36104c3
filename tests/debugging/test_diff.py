"""Two models side by side: structure, stored tensors, and where numbers first diverge."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

import graphopt
from graphopt.debugging.aligning import align
from graphopt.errors import GraphOptError
from graphopt.ops import parse
from graphopt.passmanager import Provenance
from tests.debugging.lossy import leaky_relu
from tests.zoo import MODELS

pytestmark = pytest.mark.unchecked_passes

NET = """input %x: f32[4]
%a = aten.neg(%x) @ "net.py":1 "one"
%b = aten.{op}(%a) @ "net.py":2 "two"
{extra}%c = aten.softmax.int(%b) {{dim={dim}}} @ "net.py":3 "three"
return %c"""


def net(op: str = "relu", dim: int = 0, extra: str = "") -> graphopt.Graph:
    return parse(NET.format(op=op, dim=dim, extra=extra))


def test_equal_graphs() -> None:
    found = graphopt.diff(net(), net())
    assert found.is_same_structure and found.same == 3 and not found.ops
    assert found.agrees and found.first is None
    assert all(value.deviation.is_exact for value in found.values)
    assert "the same 3 nodes" in str(found)


def test_changed_added_and_removed_nodes() -> None:
    found = graphopt.diff(net(), net(op="abs", dim=-1, extra='%e = aten.exp(%b) @ "net.py":9 "new"\n'))
    assert [(n.kind, n.what, n.scope) for n in found.nodes] == [
        ("changed", "aten.relu → aten.abs", "two"),
        ("added", "", "new"),
        ("changed", "dim: 0 → -1", "three"),
    ]
    assert found.ops == {"aten.abs": (0, 1), "aten.exp": (0, 1), "aten.relu": (1, 0)}
    back = graphopt.diff(net(op="abs", extra='%e = aten.exp(%b) @ "net.py":9 "new"\n'), net(op="abs"))
    assert [n.kind for n in back.nodes] == ["removed"]


def test_numbers_first_diverge_at_the_changed_node() -> None:
    found = graphopt.diff(net(), net(op="abs"), [torch.tensor([1.0, -2.0, 3.0, -4.0])])
    assert found.first is not None and found.first.b == "%b = aten.abs(%a)"
    assert found.first.deviation.max_abs == 3.0
    assert not found.agrees
    assert json.loads(found.to_json())["first"] == 1


def test_alignment_does_not_depend_on_names() -> None:
    other = parse(NET.format(op="relu", dim=0, extra="").replace("%a", "%p").replace("%b", "%q"))
    found = align(net(), other)
    assert len(found.nodes) == 3 and not found.added and not found.removed


def test_checkpoints_diverge_at_the_layer_that_differs() -> None:
    model = MODELS["resnet8"].build()
    (image,), _ = MODELS["resnet8"].inputs(2)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.blocks[1].conv1.weight.mul_(1.01)
    found = graphopt.diff(model, other, (image,))
    assert found.is_same_structure
    assert [t.b for t in found.tensors] == ["blocks.1.conv1.weight"]
    assert found.first is not None and found.first.scope == "blocks.1.conv1"
    with torch.no_grad():
        expected = (other(image).double() - model(image)).abs().max().item()
    assert found.outputs[0].deviation.max_abs == pytest.approx(expected, rel=1e-3)


def test_original_against_compiled_by_provenance() -> None:
    model = MODELS["resnet8"].build()
    args, _ = MODELS["resnet8"].inputs(2)
    found = graphopt.diff(model, None, args, targets=(None, "onnxruntime"))
    assert found.a == "ResNet8 (interpreter)" and found.b == "ResNet8 for onnxruntime (onnxruntime)"
    assert found.ops == {"aten.batch_norm": (9, 0)}
    assert found.first is None and found.agrees
    changed = [n for n in found.nodes if n.kind == "changed"]
    assert len(changed) == 9 and all(n.what == "aten.batch_norm → aten.conv2d" for n in changed)


def test_a_wrong_rule_is_where_the_models_diverge() -> None:
    model = MODELS["resnet8"].build()
    args, _ = MODELS["resnet8"].inputs(2)
    wrong = graphopt.compile(model, args, target="fx", passes=[leaky_relu], instruments=[Provenance()])
    for found in (graphopt.diff(model, wrong, args), graphopt.diff(wrong, model, args)):
        assert found.first is not None and "relu" in found.first.b
        assert not found.agrees
    # Without a history, nodes are aligned by their places.
    plain = graphopt.compile(model, args, target="fx", passes=[leaky_relu])
    assert graphopt.diff(model, plain, args).first is not None


@pytest.mark.parametrize("name", ["minilm", "lstm"])
def test_engines_agree_on_real_models(name: str) -> None:
    args, kwargs = MODELS[name].inputs(2)
    found = graphopt.diff(MODELS[name].build(), None, args, kwargs, engines=("eager", "onnxruntime{optimization=off}"))
    assert found.is_same_structure and found.agrees and found.first is None, str(found)


def test_targets_of_one_model() -> None:
    args, _ = MODELS["lenet"].inputs(2)
    found = graphopt.diff(MODELS["lenet"].build(), None, args, targets=("fx", "onnxruntime"))
    assert found.agrees and found.first is None
    assert found.ops == {"aten.batch_norm": (2, 0)} or found.is_same_structure


class Half(nn.Module):
    def __init__(self, inner: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner, self.dtype = inner.to(dtype), dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x.to(self.dtype)).float()


def test_half_precision_is_aligned_with_single() -> None:
    model, args = MODELS["resnet8"].build(), MODELS["resnet8"].inputs(2)[0]
    single, half = Half(copy.deepcopy(model), torch.float32), Half(copy.deepcopy(model), torch.float16)
    found = graphopt.diff(single, half, args)
    assert len(found.values) > 20
    assert 1e-4 < found.outputs[0].deviation.rms < 1e-2
    assert found.first is None, str(found)
    assert any("f32" in n.what and "f16" in n.what for n in found.nodes)


def test_saved_forms_and_files(tmp_path: Path) -> None:
    args, _ = MODELS["lenet"].inputs(2)
    compiled = graphopt.compile(MODELS["lenet"].build(), args, target="onnxruntime")
    path = tmp_path / "lenet.gopt"
    compiled.save(path)
    found = graphopt.diff(compiled, path, args)
    assert found.is_same_structure and found.agrees


def test_onnx_files(tmp_path: Path) -> None:
    model, args = MODELS["resnet8"].build(), MODELS["resnet8"].inputs(2)[0]
    first, second, third = (tmp_path / f"{i}.onnx" for i in range(3))
    graphopt.compile(model, args, target="onnx").to_onnx(first)
    graphopt.compile(model, args, target="onnx", passes="none").to_onnx(second)
    with torch.no_grad():
        model.blocks[1].conv1.weight.mul_(1.01)
    graphopt.compile(model, args, target="onnx").to_onnx(third)
    same = graphopt.diff(first, second, args)
    assert same.agrees and "BatchNormalization" in same.ops
    assert graphopt.diff(first, first).agrees
    found = graphopt.diff(first, third, args)
    assert found.is_same_structure and not found.agrees
    assert found.first is not None and "Conv" in found.first.b


def test_an_onnx_file_and_the_model_it_was_made_from(tmp_path: Path) -> None:
    model, args = MODELS["resnet8"].build(), MODELS["resnet8"].inputs(2)[0]
    path = tmp_path / "net.onnx"
    graphopt.compile(model, args, target="onnx").to_onnx(path)
    for found in (graphopt.diff(path, model, args), graphopt.diff(model, path, args)):
        assert found.agrees and "aten.batch_norm" in found.ops


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(GraphOptError, match="only an original model is compiled for a target"):
        graphopt.diff(net(), net(), targets=("fx", None))
    with pytest.raises(GraphOptError, match="one engine"):
        graphopt.diff(net(), net(), engines=("eager,onnxruntime", None))
    broken = tmp_path / "broken.onnx"
    broken.write_text("no model")
    with pytest.raises(GraphOptError, match="cannot be read as an ONNX model"):
        graphopt.diff(broken, broken)


def test_without_inputs_only_structure_is_compared() -> None:
    graph = parse("input %i: i64[3]\n%y = aten.neg(%i)\nreturn %y")
    found = graphopt.diff(graph, graph)
    assert found.is_same_structure and not found.outputs
    assert found.notes == ["numbers are not compared: there are no inputs; give args"]
