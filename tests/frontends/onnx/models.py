"""Small ONNX models by hand, and ONNX Runtime (its graph optimizations off) as the judge of what is read from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from graphopt.analysis import Interpreter
from graphopt.backends.fx import emit_fx
from graphopt.backends.onnx import emit_onnx
from graphopt.frontends.onnx import read_onnx
from graphopt.ir import Graph, verify
from graphopt.ops import parse
from graphopt.ops.onnx_runtime import load_session
from graphopt.ops.onnx_values import from_numpy, to_numpy

FLOAT, INT, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def info(name: str, shape: Any = None, dtype: int = FLOAT) -> onnx.ValueInfoProto:
    """An input or output; without a shape, of no rank."""
    return helper.make_tensor_value_info(name, dtype, shape)


def sequence_info(name: str, shape: Any = None, dtype: int = FLOAT) -> onnx.ValueInfoProto:
    """A sequence of tensors."""
    return helper.make_tensor_sequence_value_info(name, dtype, shape)


def node(op_type: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node, its operands and results in words; `_` is an absent one."""
    names = [["" if word == "_" else word for word in text.split()] for text in (inputs, outputs)]
    return helper.make_node(op_type, *names, **attributes)


def body(nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], *stored: Any) -> onnx.GraphProto:
    """A graph."""
    return helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(stored))


def stored(name: str, values: Any, dtype: Any = np.float32) -> onnx.TensorProto:
    """An initializer."""
    return onnx.numpy_helper.from_array(np.asarray(values, dtype), name)


def model(graph: onnx.GraphProto, opset: int = 18, **domains: int) -> onnx.ModelProto:
    """A model."""
    imports = [
        helper.make_opsetid("", opset),
        *(helper.make_opsetid(d.replace("_", "."), v) for d, v in domains.items()),
    ]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def ops(graph: Graph) -> list[str]:
    """The operators of a graph, in order."""
    return [n.op.name for n in graph]


def agree(source: onnx.ModelProto, *inputs: Any, values: dict[str, Any] | None = None) -> Graph:
    """Read a model, and hold interpreter, FX module and the model that is written to ONNX Runtime on the source."""
    graph = read_onnx(source, values)
    verify(graph)
    assert str(parse(str(graph), {n: v.constant.tensor for n, v in graph.constants.items()})) == str(graph)  # type: ignore[union-attr]
    session = load_session(source.SerializeToString())
    wanted = session.run(None, dict(zip([i.name for i in session.get_inputs()], map(to_numpy, inputs))))
    written = emit_onnx(graph)
    onnx.checker.check_model(written)
    again = load_session(written.SerializeToString())
    feeds = {i.name: to_numpy(x, v.type) for i, v, x in zip(again.get_inputs(), graph.inputs, inputs)}
    results = {
        "interpreter": Interpreter(graph).run(*inputs),
        "fx": emit_fx(graph, flat=True)(*inputs),
        "onnx": [from_numpy(value) for value in again.run(None, feeds)],
    }
    for name, found in results.items():
        assert len(found) == len(wanted), name
        for a, b in zip(found, wanted):
            same(a, from_numpy(b))
    return graph


def same(found: Any, wanted: Any) -> None:
    """Tensors, sequences of them, strings and absent optionals are equal."""
    if isinstance(wanted, list):
        assert len(found) == len(wanted)
        for a, b in zip(found, wanted):
            same(a, b)
    elif isinstance(wanted, torch.Tensor):
        torch.testing.assert_close(torch.as_tensor(found), wanted, rtol=1e-4, atol=1e-5)
    else:
        assert np.array_equal(found, wanted)
