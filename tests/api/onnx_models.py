"""Small ONNX models, written in ONNX's own text form."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import torch

MLP = """
<ir_version: 8, opset_import: ["" : 17], producer_name: "maker", producer_version: "2.1", model_version: 7,
 domain: "org.example", doc_string: "a small net", metadata_props: ["author": "A. Name", "task": "testing"]>
net (float["batch size",4] x) => (float["batch size",3] "the scores") {
  [first] h = MatMul (x, "fc1/kernel")
  [bias] b = Add (h, "fc1/bias")
  [act] a = Relu (b)
  [second] y = Gemm <transB = 1> (a, "fc2.weight", "fc2.bias")
  [out] "the scores" = Identity (y)
}
"""
MLP_SHAPES = {"fc1/kernel": (4, 8), "fc1/bias": (8,), "fc2.weight": (3, 8), "fc2.bias": (3,)}

RESHAPE = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[batch,4] x, int64[2] shape) => (float[rows,columns] z) {
  y = MatMul (x, w)
  r = Reshape (y, shape)
  z = Relu (r)
}
"""

EMBEDDING = """
<ir_version: 8, opset_import: ["" : 17]>
net (int64[batch,length] ids, int64[batch,length] mask) => (float[batch,length,8] y) {
  e = Gather (table, ids)
  m = Cast <to = 1> (mask)
  one = Constant <value_ints = [-1]> ()
  u = Unsqueeze (m, one)
  y = Mul (e, u)
}
"""


def model(text: str, **shapes: tuple[int, ...]) -> onnx.ModelProto:
    """Parse a model, with random initializers of the given shapes."""
    generator = np.random.default_rng(0)
    parsed = onnx.parser.parse_model(text)
    for name, shape in shapes.items():
        data = generator.normal(size=shape).astype(np.float32)
        parsed.graph.initializer.append(onnx.numpy_helper.from_array(data, name))
    return parsed


def mlp() -> onnx.ModelProto:
    made = model(MLP, **MLP_SHAPES)
    made.graph.doc_string = "the graph"
    made.graph.input[0].doc_string = "pixels"
    made.graph.output[0].doc_string = "logits"
    for node in made.graph.node:
        node.doc_string = f"about {node.name}"
    made.graph.initializer[0].doc_string = "a kernel"
    return made


def reshape() -> onnx.ModelProto:
    return model(RESHAPE, w=(4, 8))


def embedding() -> onnx.ModelProto:
    return model(EMBEDDING, table=(11, 8))


def in_onnxruntime(made: onnx.ModelProto | str, **inputs: torch.Tensor) -> list[torch.Tensor]:
    """Run a model, or a file, without ONNX Runtime's own optimizations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = made if isinstance(made, str) else made.SerializeToString()
    session = onnxruntime.InferenceSession(source, options)
    return [torch.from_numpy(y) for y in session.run(None, {name: x.numpy() for name, x in inputs.items()})]
