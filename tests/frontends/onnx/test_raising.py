"""Exports in which functions are written out come back as whole operators, and keep their numbers.

PyTorch's TorchScript-based exporter writes layer norms out up to opset 16, GELU up to 19, and attention always.
"""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch.utils import _pytree as pytree

from graphopt.backends.onnx import emit_onnx
from graphopt.frontends.onnx import read_onnx
from graphopt.ir import Graph
from graphopt.passmanager import PassContext, PassManager
from graphopt.pipelines import default_pipeline
from tests.zoo import MODELS


def exported(model: torch.nn.Module, args: Any, kwargs: Any, opset: int) -> bytes:
    file = io.BytesIO()
    with contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(model, args, file, kwargs=kwargs or None, dynamo=False, opset_version=opset, verbose=False)
    return file.getvalue()


def session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def optimized(graph: Graph, target: str) -> Graph:
    manager = PassManager(default_pipeline(target), on_failure="raise", verify="full")
    return manager.run(graph, PassContext(target=target))[0]


# The operators of each model afterwards, by name.
WHOLE = {
    "hf-bert": {"layer_norm": 5, "gelu": 2, "attention": 2, "linear": 10},
    "hf-vit": {"layer_norm": 5, "gelu": 2, "attention": 2},
    "hf-t5": {"rms_norm": 12, "attention": 6},
    "hf-bart": {"layer_norm": 12, "gelu": 4, "attention": 6},
    "hf-modernbert": {"layer_norm": 5, "gelu": 2, "attention": 2},
    "hf-convnext": {"layer_norm": 6, "gelu": 3},
}
PARTS = frozenset({"erf", "softmax", "isnan", "sqrt", "rsqrt", "pow", "matmul", "bmm"})


@pytest.mark.parametrize("name", WHOLE)
def test_transformers_that_an_exporter_wrote_out(name: str) -> None:
    entry = MODELS[name]
    args, kwargs = entry.inputs(batch=2)
    if "text" in entry.tags and "input_ids" in kwargs:
        kwargs = {"attention_mask": torch.ones_like(kwargs["input_ids"]), **kwargs}
    source = exported(entry.build(), args, kwargs, 14)
    written = Counter(node.op_type for node in onnx.load_from_string(source).graph.node)
    assert written["ReduceMean"] and (written["Erf"] or written["Softmax"])
    graph = optimized(read_onnx(source), "onnxruntime")
    found = Counter(node.op.base.partition(".")[2] for node in graph)
    assert {key: found[key] for key in WHOLE[name]} == WHOLE[name]
    assert not PARTS & set(found)
    compare(source, emit_onnx(graph).SerializeToString(), (args, kwargs))


def compare(source: bytes, result: bytes, given: Any) -> None:
    leaves = [leaf.numpy() for leaf in pytree.tree_leaves(given) if isinstance(leaf, torch.Tensor)]
    before = session(source)
    feeds = {value.name: leaf for value, leaf in zip(before.get_inputs(), leaves, strict=True)}
    for want, got in zip(before.run(None, feeds), session(result).run(None, feeds), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=3e-5 * np.abs(want).max())


# What the specification itself writes out: the bodies of ONNX's functions

FUNCTIONS: list[tuple[str, dict[str, Any], list[list[int]], str]] = [
    ("Gelu", {}, [[2, 8]], "gelu"),
    ("Gelu", {"approximate": "tanh"}, [[2, 8]], "gelu"),
    ("LayerNormalization", {"axis": -1}, [[2, 3, 8], [8], [8]], "layer_norm"),
    ("RMSNormalization", {"axis": -1}, [[2, 3, 8], [8]], "rms_norm"),
    ("Swish", {"alpha": 1.0}, [[2, 8]], "silu"),
    ("HardSwish", {}, [[2, 8]], "hardswish"),
    ("Softmax", {"axis": -1}, [[2, 8]], "softmax"),
    ("LogSoftmax", {"axis": -1}, [[2, 8]], "log_softmax"),
    ("Softplus", {}, [[2, 8]], "softplus"),
    ("LeakyRelu", {"alpha": 0.125}, [[2, 8]], "leaky_relu"),
]


def as_function(op_type: str, attributes: dict[str, Any], shapes: list[list[int]]) -> onnx.ModelProto:
    """A model that calls a function of its own, whose body is that of the operator's schema."""
    schema = onnx.defs.get_schema(op_type, 24)
    names = [f"x{i}" for i in range(len(shapes))]
    node = helper.make_node(op_type, names, ["y"], **attributes)
    types = [helper.make_tensor_type_proto(TensorProto.FLOAT, shape).SerializeToString() for shape in shapes]
    body = onnx.FunctionProto()
    if schema.has_context_dependent_function:
        versions = schema.context_dependent_function_opset_versions
        text = schema.get_context_dependent_function_with_opset_version(versions[-1], node.SerializeToString(), types)
        body.ParseFromString(text)
    else:
        body.CopyFrom(schema.function_body)
    body.domain, body.name = "written.out", op_type
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip(names, shapes)]
    call = helper.make_node(op_type, names, ["y"], domain="written.out", **attributes)
    graph = helper.make_graph([call], "g", inputs, [helper.make_empty_tensor_value_info("y")])
    opsets = [helper.make_opsetid("", body.opset_import[0].version), helper.make_opsetid("written.out", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=[body], ir_version=10)


def itself(proto: onnx.ModelProto, op_type: str) -> onnx.ModelProto:
    """The same call, of the operator."""
    graph = onnx.GraphProto()
    graph.CopyFrom(proto.graph)
    graph.node[0].domain = ""
    version = onnx.defs.get_schema(op_type, 24).since_version
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", max(version, 18))], ir_version=10)


@pytest.mark.parametrize(("op_type", "attributes", "shapes", "operator"), FUNCTIONS)
def test_bodies_of_onnx_functions(op_type: str, attributes: dict, shapes: list, operator: str) -> None:
    proto = as_function(op_type, attributes, shapes)
    graph = optimized(read_onnx(proto), "fx")
    assert [node.op.base for node in graph] == [f"aten.{operator}"]
    rng = np.random.default_rng(0)
    feeds = {f"x{i}": rng.standard_normal(shape).astype(np.float32) for i, shape in enumerate(shapes)}
    (want,) = session(itself(proto, op_type).SerializeToString()).run(None, feeds)
    (got,) = session(emit_onnx(graph).SerializeToString()).run(None, feeds)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
