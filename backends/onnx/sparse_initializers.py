"""Weights with many zeros as sparse initializers: a file as large as what is not zero.

An entry takes 12 bytes, its place in 8 of them, and a number of the dense form 4: so below a third of the weights it
pays. Runtimes lay them out densely when they load the file; none computes by them.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper


def with_sparse_initializers(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model whose initializers are sparse where that is smaller.

    Those in files of their own stay, and those that are inputs or outputs, too.

    >>> from onnx import TensorProto, helper
    >>> zeros = numpy_helper.from_array(np.zeros((64, 64), np.float32), "w")
    >>> x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64]) for name in "xy")
    >>> graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [zeros])
    >>> with_sparse_initializers(helper.make_model(graph)).ByteSize() < 200
    True
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    fixed = {value.name for value in (*graph.input, *graph.output)}
    kept = []
    for tensor in graph.initializer:
        sparse = None if tensor.name in fixed else _sparse(tensor)
        if sparse is None:
            kept.append(tensor)
        else:
            graph.sparse_initializer.append(sparse)
    stored = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
    del graph.initializer[:]
    graph.initializer.extend(stored)
    return copy


def _sparse(tensor: onnx.TensorProto) -> onnx.SparseTensorProto | None:
    external = tensor.data_location == onnx.TensorProto.EXTERNAL
    if external or tensor.data_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE) or not tensor.dims:
        return None
    numbers = numpy_helper.to_array(tensor)
    flat = numbers.reshape(-1)
    places = np.flatnonzero(flat).astype(np.int64)
    if places.size * (flat.itemsize + places.itemsize) >= flat.nbytes:
        return None
    found = onnx.SparseTensorProto(dims=numbers.shape)
    found.values.CopyFrom(numpy_helper.from_array(flat[places], tensor.name))
    found.indices.CopyFrom(numpy_helper.from_array(places, f"{tensor.name}_places"))
    return found
