"""What the tools for ONNX files say: of branches, of attributes, of operators that there are none of, by exit codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

import graphopt
from graphopt.cli import app
from graphopt.debugging import diff
from graphopt.errors import CaptureError, GraphOptError


def save(
    path: Path, nodes: list[onnx.NodeProto], opset: int, *, inputs: Any = (("x", TensorProto.FLOAT, [2, 4]),)
) -> Path:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(*one) for one in inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def branches(path: Path, factor: float = 2.0, flag: str = "flag") -> Path:
    def branch(op: str, other: float) -> onnx.GraphProto:
        constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.float32(other)))
        result = helper.make_tensor_value_info("r", TensorProto.FLOAT, None)
        return helper.make_graph([constant, helper.make_node(op, ["x", "c"], ["r"])], op, [], [result])

    choice = helper.make_node("If", [flag], ["y"], then_branch=branch("Mul", factor), else_branch=branch("Add", 1.0))
    before = []
    if flag != "flag":
        before = [
            helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
            helper.make_node("Greater", ["sum", "zero"], [flag]),
        ]
        before.insert(0, helper.make_node("Constant", [], ["zero"], value=numpy_helper.from_array(np.float32(0))))
    inputs = [("x", TensorProto.FLOAT, [2, 4])]
    return save(path, [*before, choice], 17, inputs=[*inputs, *([] if before else [("flag", TensorProto.BOOL, [])])])


def run(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == code, done.output
    return " ".join(done.output.split())


def test_a_proof_runs_both_branches(tmp_path: Path) -> None:
    path = branches(tmp_path / "a.onnx")
    found = run("compile", str(path), "-o", str(tmp_path / "out.onnx"))
    assert "flag=true: max error" in found and "flag=false: max error" in found


def test_a_proof_says_which_branches_it_leaves_open(tmp_path: Path) -> None:
    path = branches(tmp_path / "a.onnx", flag="computed")
    found = run("compile", str(path), "-o", str(tmp_path / "out.onnx"))
    assert "branches that no run took are not proven" in found
    assert "max error" in found


def test_diff_says_that_one_branch_is_compared_and_exits_with_1_beyond_the_tolerance(tmp_path: Path) -> None:
    a = save(tmp_path / "a.onnx", [helper.make_node("Relu", ["x"], ["y"])], 17)
    b = save(tmp_path / "b.onnx", [helper.make_node("Abs", ["x"], ["y"])], 17)
    run("diff", str(a), str(b), code=1)
    run("diff", str(a), str(a))
    run("diff", str(a), str(b), "--tolerance", "100")
    assert "only the branch" in " ".join(diff(branches(tmp_path / "c.onnx"), branches(tmp_path / "d.onnx", 3.0)).notes)


def test_a_changed_attribute_is_one_change(tmp_path: Path) -> None:
    a, b = (
        save(tmp_path / f"{axis}.onnx", [helper.make_node("Softmax", ["x"], ["y"], axis=axis)], 17) for axis in (0, 1)
    )
    (node,) = diff(a, b).nodes
    assert (node.kind, node.what) == ("changed", "axis: 0 → 1")


def test_an_operator_that_there_is_none_of(tmp_path: Path) -> None:
    path = save(tmp_path / "a.onnx", [helper.make_node("Foo", ["x"], ["y"])], 17)
    with pytest.raises(GraphOptError, match=r"ONNX has no operator Foo in opset 17 .* needs a domain of its own"):
        graphopt.compile(path)


@pytest.mark.parametrize("model", [bytearray(b"onnx"), None])
def test_what_is_no_model_is_told_of_onnx(model: Any) -> None:
    with pytest.raises(CaptureError, match=r"\.onnx file, or an ONNX model"):
        graphopt.compile(model, (torch.ones(2),))


def test_strings_are_why_there_is_no_proof(tmp_path: Path) -> None:
    nodes = [helper.make_node("StringNormalizer", ["words"], ["w"]), helper.make_node("Identity", ["x"], ["y"])]
    inputs = [("x", TensorProto.FLOAT, [2]), ("words", TensorProto.STRING, [2])]
    path = save(tmp_path / "a.onnx", nodes, 17, inputs=inputs)
    found = run("compile", str(path), "-o", str(tmp_path / "out.onnx"))
    assert "no tensors of numbers (words)" in found


def statistics(*names: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array([1.0, 2.0, 3.0], np.float32)))
        for name in names
    ]


@pytest.mark.parametrize(
    ("nodes", "opset", "shape"),
    [
        ([helper.make_node("Softmax", ["x"], ["y"], axis=1)], 11, [2, 4]),
        ([helper.make_node("LogSoftmax", ["x"], ["y"], axis=2)], 12, [2, 3, 4]),
        (
            [*statistics("s", "b", "m", "v"), helper.make_node("BatchNormalization", [*"xsbmv"], ["y"])],
            11,
            [2, 3, 4, 4],
        ),
        (
            [helper.make_node("Split", ["x"], ["a", "b"], axis=1), helper.make_node("Add", ["a", "b"], ["y"])],
            15,
            [2, 4],
        ),
    ],
)
def test_opsets_are_not_raised_for_what_did_not_change(
    tmp_path: Path, nodes: list[onnx.NodeProto], opset: int, shape: list[int]
) -> None:
    path = save(tmp_path / "a.onnx", nodes, opset, inputs=[("x", TensorProto.FLOAT, shape)])
    found = run("compile", str(path), "-o", str(tmp_path / "out.onnx"))
    made = onnx.load(tmp_path / "out.onnx")
    onnx.checker.check_model(made, full_check=True)
    assert made.opset_import[0].version == opset and "max error" in found


def test_the_opset_is_raised_for_a_softmax_over_another_dim(tmp_path: Path) -> None:
    nodes = [helper.make_node("Softmax", ["x"], ["y"], axis=1)]
    path = save(tmp_path / "a.onnx", nodes, 13, inputs=[("x", TensorProto.FLOAT, [2, 3, 4])])
    with pytest.raises(GraphOptError, match=r"cannot be written in opset 11: .* needs opset 13"):
        graphopt.compile(path, target="onnx", opset=11).to_onnx(tmp_path / "out.onnx")
