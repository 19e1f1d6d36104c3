"""Reading ONNX models: shapes that vanish, parameters, and files that are refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from graphopt.analysis import Interpreter
from graphopt.errors import CaptureError
from graphopt.frontends.onnx import read_onnx
from graphopt.ir import ConstantKind


def model(nodes: list[Any], shape: list[Any], initializers: list[Any] | None = None) -> onnx.ModelProto:
    x, y = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape), helper.make_empty_tensor_value_info("y")
    graph = helper.make_graph(nodes, "g", [x], [y], initializers or [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def ints(name: str, values: list[int]) -> TensorProto:
    return numpy_helper.from_array(np.array(values, dtype=np.int64), name)


def test_chains_of_shapes_become_dims() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["batch"]),
        helper.make_node("Unsqueeze", ["batch", "axes"], ["b"]),
        helper.make_node("Concat", ["b", "minus"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    zero = numpy_helper.from_array(np.array(0, dtype=np.int64), "zero")
    graph = read_onnx(model(nodes, ["batch", 3, 4], [zero, ints("axes", [0]), ints("minus", [-1])]))
    assert [node.op.name for node in graph] == ["aten.reshape"]
    assert str(graph.outputs[0].type) == "f32[batch, 12]"


def test_an_exported_network_gives_the_answer_of_onnxruntime() -> None:
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(4 * 7 * 7, 10),
        torch.nn.Softmax(-1),
    ).eval()
    file = io.BytesIO()
    names = {"input_names": ["x"], "dynamic_axes": {"x": {0: "batch"}}}
    torch.onnx.export(net, (torch.randn(1, 1, 14, 14),), file, dynamo=False, **names)
    graph = read_onnx(file.getvalue())
    assert [value.name for value in graph.inputs] == ["x"]
    kinds = {v.constant.kind for v in graph.constants.values() if v.constant is not None and v.type.rank > 1}
    assert kinds == {ConstantKind.PARAMETER}
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        x = torch.randn(batch, 1, 14, 14)
        (expected,) = session.run(None, {"x": x.numpy()})
        torch.testing.assert_close(Interpreter(graph).run(x)[0], torch.from_numpy(expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([helper.make_node("Relu", ["nothing"], ["y"], name="act")], "act.*uses 'nothing'"),
        ([helper.make_node("Relu", ["x"], ["x"], name="act")], "act.*'x' is defined twice"),
        ([helper.make_node("Whirl", ["x"], ["y"], name="act")], "act.*Whirl is not supported"),
        ([helper.make_node("MatMul", ["x", "x"], ["y"], name="mm")], r"cannot read node mm \(MatMul\)"),
    ],
)
def test_a_node_that_cannot_be_read_is_named(nodes: list[Any], message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        read_onnx(model(nodes, [2, 3]))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    data = model([helper.make_node("Relu", ["x"], ["y"])], [2]).SerializeToString()
    with pytest.raises(CaptureError):
        read_onnx(data[: len(data) // 2])
    with pytest.raises(CaptureError, match="cannot read"):
        read_onnx(tmp_path / "missing.onnx")


def test_sizes_that_lie_are_refused() -> None:
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[10**12], raw_data=b"\0" * 8)
    with pytest.raises(CaptureError, match=r"'w'.*but holds 8"):
        read_onnx(model([helper.make_node("Add", ["x", "w"], ["y"])], [2], [weight]))


def external(location: str) -> onnx.ModelProto:
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=location)
    return model([helper.make_node("Add", ["x", "w"], ["y"])], [2], [weight])


def test_external_data_is_mapped_from_the_folder_alone(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w.bin").write_bytes(np.array([1, 2], dtype=np.float32).tobytes())
    (tmp_path / "secret.bin").write_bytes(b"\0" * 8)
    path = folder / "m.onnx"
    path.write_bytes(external("w.bin").SerializeToString())
    assert Interpreter(read_onnx(path)).run(torch.zeros(2))[0].tolist() == [1, 2]
    for location in ("../secret.bin", str(tmp_path / "secret.bin")):
        path.write_bytes(external(location).SerializeToString())
        with pytest.raises(CaptureError, match="outside the model's folder"):
            read_onnx(path)
    path.write_bytes(external("gone.bin").SerializeToString())
    with pytest.raises(CaptureError, match=r"gone\.bin.*missing"):
        read_onnx(path)
