"""ONNX models through the public functions: compiled, traced, trained, saved, and written again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

import graphopt
from graphopt.backends.onnx import save
from graphopt.backends.onnx.engine import OnnxRuntimeEngine
from graphopt.errors import CaptureError, GraphOptError, InputError
from graphopt.frontends.onnx.tensors import Folder
from tests.api.onnx_models import embedding, in_onnxruntime, mlp, model, reshape

ROWS = torch.tensor([2, 16])


def as_path(made: onnx.ModelProto, folder: Path) -> Path:
    onnx.save(made, folder / "net.onnx")
    return folder / "net.onnx"


FORMS: dict[str, Callable[[onnx.ModelProto, Path], Any]] = {
    "path": as_path,
    "text": lambda made, folder: str(as_path(made, folder)),
    "bytes": lambda made, folder: made.SerializeToString(),
    "model": lambda made, folder: made,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("target", ["onnxruntime", "fx"])
def test_every_form_gives_the_answer_of_onnxruntime(tmp_path: Path, form: str, target: str) -> None:
    made = mlp()
    compiled = graphopt.compile(FORMS[form](made, tmp_path), target=target)
    for rows in (1, 2, 7):
        x = torch.randn(rows, 4)
        (want,) = in_onnxruntime(made, x=x)
        torch.testing.assert_close(compiled(x), want)
        torch.testing.assert_close(compiled(x=x), want)


def test_trace_keeps_names_of_inputs_dims_and_weights() -> None:
    graph = graphopt.trace(mlp())
    assert [v.name for v in graph.inputs] == ["x"] and str(graph.inputs[0].type) == "f32[batch_size, 4]"
    assert list(graph.constants) == ["fc1/kernel", "fc1/bias", "fc2.weight", "fc2.bias"]
    assert graph.signature is not None and graph.signature.out_names == ("the scores",)


def test_example_inputs_are_what_is_validated_on() -> None:
    compiled = graphopt.compile(mlp(), (torch.rand(3, 4),), target="onnxruntime")
    assert compiled.report.passes.validate == "each"
    assert not any("made-up" in note for note in compiled.report.passes.notes)


def test_without_inputs_indices_are_made_up_below_the_length_of_the_table() -> None:
    compiled = graphopt.compile(embedding(), target="onnxruntime")
    assert compiled.report.passes.validate == "each"
    assert any("made-up inputs" in note for note in compiled.report.passes.notes)
    inputs = {"ids": torch.tensor([[3, 10, 0]]), "mask": torch.tensor([[1, 1, 0]])}
    torch.testing.assert_close(compiled(**inputs), in_onnxruntime(embedding(), **inputs)[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kwargs": {"y": ROWS}}, "no input 'y'; its inputs are x"),
        ({"args": (ROWS, ROWS)}, "takes 1 inputs"),
        ({"args": (ROWS,), "kwargs": {"x": ROWS}}, "given twice"),
        ({"args": (ROWS,)}, "input 'x' must be torch.float32"),
    ],
)
def test_wrong_inputs_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        graphopt.compile(mlp(), target="fx", **arguments)


def test_wrong_calls_are_refused() -> None:
    compiled = graphopt.compile(mlp(), target="fx")
    for given in ((torch.ones(2, 5),), (torch.ones(4),), (), (torch.ones(2, 4), torch.ones(2, 4))):
        with pytest.raises(InputError):
            compiled(*given)


def test_what_is_no_model_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="no ONNX model"):
        graphopt.compile(b"no model")
    with pytest.raises(CaptureError, match=r"cannot read .*missing.onnx"):
        graphopt.compile(tmp_path / "missing.onnx")
    with pytest.raises(GraphOptError, match=r"is an ONNX file; give it to graphopt.compile"):
        graphopt.load(tmp_path / "missing.onnx")
    with pytest.raises(GraphOptError, match="says itself which dims are dynamic"):
        graphopt.compile(mlp(), dynamic_shapes="batch")


def test_an_initializer_that_is_an_input_is_a_default_that_is_kept() -> None:
    made = mlp()
    made.graph.input.append(onnx.helper.make_tensor_value_info("fc1/bias", onnx.TensorProto.FLOAT, [8]))
    compiled = graphopt.compile(made, target="fx")
    x = torch.randn(2, 4)
    torch.testing.assert_close(compiled(x), in_onnxruntime(made, x=x)[0])
    assert [v.name for v in compiled.graph.inputs] == ["x"] and "fc1/bias" in compiled.state_dict()


# Inputs whose contents decide shapes


def check_reshape(compiled: graphopt.CompiledModel, *shape: int) -> torch.Tensor:
    x, target = torch.randn(4, 4), torch.tensor(shape)
    result = compiled(x, target)
    torch.testing.assert_close(result, in_onnxruntime(reshape(), x=x, shape=target)[0])
    return result


@pytest.mark.parametrize("target", ["onnxruntime", "fx"])
@pytest.mark.parametrize("given", [None, {"shape": ROWS}, {"x": torch.randn(4, 4), "shape": ROWS}])
def test_contents_that_decide_shapes_are_captured_and_guarded(target: str, given: dict[str, Any] | None) -> None:
    compiled = graphopt.compile(reshape(), kwargs=given, target=target)
    assert compiled.is_captured == (given is not None)
    for shape in ((2, 16), (16, 2), (-1, 8), (2, 16)):
        check_reshape(compiled, *shape)
    assert compiled._captures is not None and len(compiled._captures._captures) == 3


def test_too_many_contents_are_refused_with_a_remedy() -> None:
    compiled = graphopt.compile(reshape(), target="fx", passes="none", validate=False)
    sizes = [size for size in range(1, 33) if 32 % size == 0]
    shapes = [(a, 32 // a) for a in sizes] + [(-1, a) for a in sizes]
    for shape in shapes[:9]:
        check_reshape(compiled, *shape)
    with pytest.raises(CaptureError, match="decide shapes to few"):
        check_reshape(compiled, *shapes[9])
    check_reshape(compiled, *shapes[0])


def test_trace_needs_the_contents() -> None:
    with pytest.raises(CaptureError, match=r"'shape' decide shapes.*--value shape=1,3,8"):
        graphopt.trace(reshape())
    with pytest.raises(CaptureError, match="'shape' decide shapes"):
        graphopt.compile(reshape(), (torch.ones(4, 4),))
    graph = graphopt.trace(reshape(), kwargs={"shape": ROWS})
    assert str(graph.outputs[0].type) == "f32[2, 16]"


def test_a_copy_holds_for_the_contents_of_its_capture(tmp_path: Path) -> None:
    compiled = graphopt.compile(reshape(), kwargs={"shape": ROWS}, target="onnxruntime")
    compiled.save(tmp_path / "net.gopt")
    for other in (copy.deepcopy(compiled), graphopt.load(tmp_path / "net.gopt")):
        check_reshape(other, 2, 16)
        with pytest.raises(InputError, match=r"'shape' decides shapes and was \[2, 16\] at capture, got \[16, 2\]"):
            check_reshape(other, 16, 2)


def test_captures_share_their_weights_and_lossy_passes_are_refused() -> None:
    compiled = graphopt.compile(reshape(), target="fx")
    assert list(compiled.state_dict()) == ["w"] and len(list(compiled.parameters())) == 1
    before = check_reshape(compiled, 2, 16)
    x, (weight,) = torch.ones(4, 4), compiled.parameters()
    compiled.train()
    compiled(x, torch.tensor([8, 4])).sum().backward()
    with torch.no_grad():
        weight -= weight.grad
    a, b = compiled(x, torch.tensor([2, 16])), compiled(x, torch.tensor([8, 4]))
    torch.testing.assert_close(a.reshape(-1), b.reshape(-1))
    assert not torch.allclose(a, before)
    with pytest.raises(GraphOptError, match="all captures"):
        graphopt.compile(reshape(), target="fx", passes="prune-weights{sparsity=0.5}")


# Training


def test_an_onnx_model_is_fine_tuned_under_the_names_of_its_initializers() -> None:
    compiled = graphopt.compile(mlp(), target="fx").train()
    assert sorted(compiled.state_dict()) == ["fc1/bias", "fc1/kernel", "fc2.bias", "fc2.weight"]
    x, y = torch.randn(64, 4), torch.randn(64, 3)
    optimizer = torch.optim.Adam(compiled.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(compiled(x), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    written = graphopt.compile(compiled.eval().module, (x,), target="onnx").to_onnx()
    torch.testing.assert_close(in_onnxruntime(written, x=x)[0], compiled(x).detach(), rtol=1e-4, atol=1e-5)
    again = compiled.to_onnx()
    assert [o.name for o in again.graph.output] == ["the scores"]
    torch.testing.assert_close(in_onnxruntime(again, x=x)[0], compiled(x).detach(), rtol=1e-4, atol=1e-5)


def test_weights_in_constant_nodes_are_trained_where_there_are_no_others() -> None:
    made = mlp()
    for tensor in list(made.graph.initializer):
        made.graph.node.insert(0, onnx.helper.make_node("Constant", [], [tensor.name], value=tensor))
    del made.graph.initializer[:]
    compiled = graphopt.compile(made, target="fx").train()
    compiled(torch.randn(2, 4)).sum().backward()
    assert sorted(compiled.state_dict()) == ["fc1/bias", "fc1/kernel", "fc2.bias", "fc2.weight"]
    assert all(parameter.grad is not None for parameter in compiled.parameters())


def test_what_is_computed_from_a_small_parameter_follows_it_in_training() -> None:
    made = model(
        """<ir_version: 8, opset_import: ["" : 17]> net (float[n,3,4,4] x) => (float[n,3,4,4] y) {
        shape = Constant <value_ints = [1, -1, 1, 1]> () b = Reshape (bias, shape) c = Neg (b) y = Add (x, c) }""",
        bias=(3,),
    )
    compiled = graphopt.compile(made, target="fx").train()
    x = torch.zeros(1, 3, 4, 4)
    compiled(x).sum().backward()
    (bias,) = compiled.parameters()
    torch.testing.assert_close(bias.grad, torch.full((3,), -16.0))
    assert [n.op_type for n in graphopt.compile(made, target="onnx").to_onnx().graph.node] in (["Add"], ["Sub"])


def test_a_state_of_the_file_loads_back() -> None:
    compiled = graphopt.compile(mlp(), target="fx")
    stored = {t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy()) for t in mlp().graph.initializer}
    for name, tensor in compiled.state_dict().items():
        torch.testing.assert_close(tensor, stored[name])
    compiled.load_state_dict({name: tensor * 2 for name, tensor in stored.items()})
    torch.testing.assert_close(compiled.state_dict()["fc1/kernel"], stored["fc1/kernel"] * 2)


# Written again


def test_what_a_file_says_of_itself_is_kept() -> None:
    written = graphopt.compile(mlp(), target="onnx", passes="none").to_onnx()
    onnx.checker.check_model(written, full_check=True)
    assert (written.ir_version, written.opset_import[0].version) == (8, 17)
    assert (written.domain, written.model_version, written.doc_string) == ("org.example", 7, "a small net")
    assert {p.key: p.value for p in written.metadata_props} == {
        "author": "A. Name",
        "task": "testing",
        "graphopt.source_producer": "maker 2.1",
    }
    assert written.producer_name == "graphopt"
    graph = written.graph
    assert (graph.name, graph.doc_string) == ("net", "the graph")
    assert [(i.name, i.doc_string, i.type.tensor_type.shape.dim[0].dim_param) for i in graph.input] == [
        ("x", "pixels", "batch size")
    ]
    assert [(o.name, o.doc_string) for o in graph.output] == [("the scores", "logits")]
    assert [t.name for t in graph.initializer] == ["fc1/kernel", "fc1/bias", "fc2.weight", "fc2.bias"]
    assert graph.initializer[0].doc_string == "a kernel"
    assert [(n.op_type, n.name, n.doc_string) for n in graph.node if n.name != "out"] == [
        ("MatMul", "first", "about first"),
        ("Add", "bias", "about bias"),
        ("Relu", "act", "about act"),
        ("Gemm", "second", "about second"),
    ]


def test_a_rewritten_node_says_by_what_and_is_named_after_the_one_it_replaces() -> None:
    written = graphopt.compile(mlp(), target="onnx").to_onnx()
    first = written.graph.node[0]
    assert (first.op_type, first.output[0]) == ("Gemm", "b") and "<-" in first.doc_string
    assert written.graph.node[-1].output[0] == "the scores"


def test_the_source_is_named_once_however_often_a_file_is_compiled() -> None:
    once = graphopt.compile(mlp(), target="onnx").to_onnx()
    twice = graphopt.compile(once, target="onnx").to_onnx()
    assert twice.SerializeToString() == once.SerializeToString()


def test_two_compilations_write_the_same_bytes() -> None:
    first, second = (graphopt.compile(embedding(), target="onnx").to_onnx().SerializeToString() for _ in range(2))
    assert first == second


def test_the_saved_form_keeps_what_the_file_says(tmp_path: Path) -> None:
    compiled = graphopt.compile(mlp(), target="onnx")
    compiled.save(tmp_path / "net.gopt")
    written, again = compiled.to_onnx(), graphopt.load(tmp_path / "net.gopt").to_onnx()
    for message in (written, again):  # a transposed weight is stored as it is used
        del message.graph.node[:], message.graph.initializer[:], message.graph.value_info[:]
    assert written == again and again.doc_string == "a small net"


REDUCTION = """
<ir_version: 7, opset_import: ["" : {opset}]>
net (float[n,3,6,6] x) => (float[n,3,1,1] y) {{
  y = ReduceMax <axes = [2, 3]> (x)
}}
"""


@pytest.mark.parametrize("opset", [11, 13, 17])
def test_a_low_opset_is_kept_where_it_can_say_what_is_meant(opset: int) -> None:
    made = model(REDUCTION.format(opset=opset))
    written = graphopt.compile(made, target="onnx").to_onnx()
    onnx.checker.check_model(written, full_check=True)
    assert written.opset_import[0].version == opset
    assert written.ir_version == onnx.helper.find_min_ir_version_for(written.opset_import)
    x = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(in_onnxruntime(written, x=x)[0], in_onnxruntime(made, x=x)[0])


@pytest.mark.parametrize(
    "node",
    [
        'p = Constant <value_ints = [0, 0, 1, 1, 0, 0, 1, 1]> () y = Pad <mode = "reflect"> (x, p)',
        's = Constant <value_floats = [1.0, 1.0, 2.0, 2.0]> () y = Resize <mode = "linear"> (x, , s)',
        's = Constant <value_floats = [1.0, 1.0, 1.5, 2.0]> () y = Resize <mode = "nearest"> (x, , s)',
        "y = GlobalAveragePool (x)",
        "y = LpNormalization <axis = 1> (x)",
    ],
)
def test_opset_13_can_say_what_many_nodes_mean(node: str) -> None:
    made = model(f'<ir_version: 7, opset_import: ["" : 13]> net (float[n,3,6,6] x) => (float[a,b,c,d] y) {{ {node} }}')
    written = graphopt.compile(made, target="onnx").to_onnx()
    onnx.checker.check_model(written, full_check=True)
    assert written.opset_import[0].version == 13
    x = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(in_onnxruntime(written, x=x)[0], in_onnxruntime(made, x=x)[0])


def test_an_opset_is_raised_where_it_must_be_and_the_report_says_so() -> None:
    text = REDUCTION.format(opset=11).replace("y = ReduceMax <axes = [2, 3]> (x)", "h = HardSigmoid (x) y = Mul (x, h)")
    text = text.replace("float[n,3,1,1] y", "float[n,3,6,6] y").replace("HardSigmoid", "HardSigmoid<alpha = 0.1666667>")
    compiled = graphopt.compile(model(text), target="onnx")
    written = compiled.to_onnx()
    assert written.opset_import[0].version == 14
    assert "opset 14: the file has 11, but HardSwish as it is used here needs 14" in str(compiled.report)
    with pytest.raises(GraphOptError, match="HardSwish as it is used here needs opset 14"):
        compiled.to_onnx(opset=12)
    assert compiled.to_onnx(opset=21).opset_import[0].version == 21


def test_tensors_of_one_place_in_a_file_stay_one(tmp_path: Path) -> None:
    """As exporters write tied weights."""
    made = model(
        """<ir_version: 8, opset_import: ["" : 17]> net (float[n,64] x) => (float[n,64] y) {
        a = MatMul (x, first) b = Sigmoid (a) c = MatMul (b, second) y = Add (c, first_bias) }""",
        first=(64, 64),
        first_bias=(64,),
    )
    source = tmp_path / "in" / "net.onnx"
    source.parent.mkdir()
    onnx.save(made, source, save_as_external_data=True, location="net.data", size_threshold=0)
    tied = onnx.load(source, load_external_data=False)
    tied.graph.initializer.add().CopyFrom(tied.graph.initializer[0])
    tied.graph.initializer[-1].name = "second"
    onnx.save(tied, source)
    compiled = graphopt.compile(source, target="fx", passes="none")
    path = tmp_path / "out" / "net.onnx"
    path.parent.mkdir()
    written = compiled.to_onnx(path, external_data=True)
    assert [t.name for t in written.graph.initializer if t.data_location] == ["first", "second"]
    assert path.with_name("net.onnx.data").stat().st_size == 64 * 64 * 4
    x = torch.randn(2, 64)
    torch.testing.assert_close(in_onnxruntime(str(path), x=x)[0], in_onnxruntime(str(source), x=x)[0])


def test_a_model_that_is_to_be_written_loads_its_engine_at_the_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    loads, load = [], OnnxRuntimeEngine.load
    monkeypatch.setattr(OnnxRuntimeEngine, "load", lambda *given: loads.append(1) or load(*given))
    compiled = graphopt.compile(mlp(), target="onnx", validate=False)
    compiled.to_onnx()
    assert not loads
    x = torch.randn(2, 4)
    for _ in range(2):
        torch.testing.assert_close(compiled(x), in_onnxruntime(mlp(), x=x)[0])
    assert len(loads) == 1


def test_mapped_pages_are_given_back_while_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, released = mlp(), []
    monkeypatch.setattr(save, "RELEASE_AFTER", 1)
    monkeypatch.setattr(save, "INLINE_BELOW", 0)
    monkeypatch.setattr(Folder, "release", lambda folder: released.append(folder))
    source = tmp_path / "in.onnx"
    onnx.save(made, source, save_as_external_data=True, location="in.data", size_threshold=0)
    graphopt.compile(source, target="onnx", validate=False).to_onnx(tmp_path / "out.onnx", external_data=True)
    assert len(released) == 4 and (tmp_path / "out.onnx.data").exists()
