"""Damage to ONNX files, for tests that a reader answers each with a result or with one clear error.

Some mutations cut or flip bytes, as a broken download does; most change the model as a mistaken or hostile writer
would: an undefined name, a cycle, a tensor that lies about its size, a constant that asks for 10^12 elements.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

ODD_INTEGERS = (0, 1, -1, 2, 7, 255, -(2**31), 2**31, 2**40, 10**12, 2**62, -(2**63), 2**63 - 1)
ODD_FLOATS = (0.0, -0.0, 1e-40, 1e38, float("inf"), float("-inf"), float("nan"))
ODD_OPERATORS = ("Range", "Expand", "ConstantOfShape", "Tile", "Reshape", "Concat", "Conv", "LSTM", "If", "Nothing")
ODD_PATHS = ("../../secret", "/etc/passwd", "missing.bin", "", ".", "a\0b")


def mutate(model: onnx.ModelProto, generator: random.Random) -> tuple[list[str], bytes]:
    """Return the names of one to three mutations of a model, and the bytes of a file that suffered them.

    The model is left as it was. The same generator state gives the same file.

    >>> import random
    >>> from onnx import TensorProto, helper
    >>> x, y = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    >>> model = helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y]))
    >>> mutate(model, random.Random(1)) == mutate(model, random.Random(1))
    True
    """
    copy = type(model)()
    copy.CopyFrom(model)
    names = []
    for _ in range(generator.choice((1, 1, 1, 2, 3))):
        mutation = generator.choice(OF_MODELS)
        mutation(copy, generator)
        names.append(mutation.__name__)
    data = copy.SerializeToString()
    if generator.random() < 0.15:
        damage = generator.choice(OF_BYTES)
        data = damage(data, generator)
        names.append(damage.__name__)
    return names, data


# Of the graph's structure


def rename_input(model: onnx.ModelProto, generator: random.Random) -> None:
    """A node reads another name: that of any value, or of none."""
    node = _some_node(model, generator, lambda n: len(n.input))
    if node is not None:
        node.input[generator.randrange(len(node.input))] = generator.choice([*_names(model), "undefined", ""])


def rename_output(model: onnx.ModelProto, generator: random.Random) -> None:
    """A node defines another name, which may be taken."""
    node = _some_node(model, generator, lambda n: len(n.output))
    if node is not None:
        node.output[generator.randrange(len(node.output))] = generator.choice([*_names(model), "fresh", ""])


def remove_node(model: onnx.ModelProto, generator: random.Random) -> None:
    """A node is missing."""
    nodes = _some_graph(model, generator).node
    if nodes:
        del nodes[generator.randrange(len(nodes))]


def repeat_node(model: onnx.ModelProto, generator: random.Random) -> None:
    """A node is there twice, with the same outputs."""
    nodes = _some_graph(model, generator).node
    if nodes:
        nodes.add().CopyFrom(generator.choice(nodes))


def swap_nodes(model: onnx.ModelProto, generator: random.Random) -> None:
    """Two nodes change places, so that one may read what comes later."""
    nodes = _some_graph(model, generator).node
    if len(nodes) > 1:
        i, j = generator.sample(range(len(nodes)), 2)
        first, second = type(nodes[i])(), type(nodes[i])()
        first.CopyFrom(nodes[i])
        second.CopyFrom(nodes[j])
        nodes[i].CopyFrom(second)
        nodes[j].CopyFrom(first)


def change_operator(model: onnx.ModelProto, generator: random.Random) -> None:
    """A node applies another operator, of the file or not."""
    node = _some_node(model, generator, lambda _: True)
    if node is not None:
        node.op_type = generator.choice([*ODD_OPERATORS, *[n.op_type for n in model.graph.node]])


def change_domain(model: onnx.ModelProto, generator: random.Random) -> None:
    """A node belongs to another domain."""
    node = _some_node(model, generator, lambda _: True)
    if node is not None:
        node.domain = generator.choice(("com.microsoft", "ai.onnx.ml", "no.such.domain"))


def drop_or_add_operand(model: onnx.ModelProto, generator: random.Random) -> None:
    """A node has an operand too few or too many."""
    node = _some_node(model, generator, lambda n: len(n.input))
    if node is not None:
        if generator.random() < 0.5:
            del node.input[-1]
        else:
            node.input.append(generator.choice(_names(model)))


# Of attributes, types and versions


def change_attribute(model: onnx.ModelProto, generator: random.Random) -> None:
    """An attribute has another number, length or kind."""
    node = _some_node(model, generator, lambda n: len(n.attribute))
    if node is None:
        return
    attribute = generator.choice(node.attribute)
    if attribute.ints and generator.random() < 0.8:
        attribute.ints[generator.randrange(len(attribute.ints))] = generator.choice(ODD_INTEGERS)
    elif generator.random() < 0.3:
        attribute.ints.append(generator.choice(ODD_INTEGERS))
    elif generator.random() < 0.3:
        attribute.type = generator.randrange(15)
    else:
        attribute.i = generator.choice(ODD_INTEGERS)
        attribute.f = generator.choice(ODD_FLOATS)
        attribute.s = generator.choice((b"", b"nonsense", b"\xff\xfe"))


def remove_attribute(model: onnx.ModelProto, generator: random.Random) -> None:
    """An attribute is missing."""
    node = _some_node(model, generator, lambda n: len(n.attribute))
    if node is not None:
        del node.attribute[generator.randrange(len(node.attribute))]


def change_input_type(model: onnx.ModelProto, generator: random.Random) -> None:
    """An input or output has another element type, size, rank or kind."""
    infos = [*model.graph.input, *model.graph.output]
    if not infos:
        return
    tensor = generator.choice(infos).type.tensor_type
    choice = generator.randrange(4)
    if choice == 0:
        tensor.elem_type = generator.randrange(30)
    elif choice == 1 and tensor.shape.dim:
        generator.choice(tensor.shape.dim).dim_value = generator.choice(ODD_INTEGERS)
    elif choice == 2 and tensor.shape.dim:
        generator.choice(tensor.shape.dim).dim_param = generator.choice(("N", "", "a b", "1", "None"))
    else:
        tensor.shape.dim.add().dim_value = generator.choice(ODD_INTEGERS)


def change_version(model: onnx.ModelProto, generator: random.Random) -> None:
    """The file claims another opset or IR version, or none."""
    if model.opset_import and generator.random() < 0.7:
        generator.choice(model.opset_import).version = generator.choice((*range(-1, 30), *ODD_INTEGERS))
    elif generator.random() < 0.5:
        model.ir_version = generator.choice((*range(-1, 16), *ODD_INTEGERS))
    else:
        del model.opset_import[:]


# Of stored tensors


def change_tensor_dims(model: onnx.ModelProto, generator: random.Random) -> None:
    """A stored tensor lies about its size."""
    tensor = _some_tensor(model, generator)
    if tensor is not None and tensor.dims and generator.random() < 0.8:
        tensor.dims[generator.randrange(len(tensor.dims))] = generator.choice(ODD_INTEGERS)
    elif tensor is not None:
        tensor.dims.append(generator.choice(ODD_INTEGERS))


def change_tensor_type(model: onnx.ModelProto, generator: random.Random) -> None:
    """A stored tensor has another element type than its bytes."""
    tensor = _some_tensor(model, generator)
    if tensor is not None:
        tensor.data_type = generator.randrange(30)


def cut_tensor_data(model: onnx.ModelProto, generator: random.Random) -> None:
    """The bytes of a stored tensor end too soon."""
    tensor = _some_tensor(model, generator)
    if tensor is not None:
        tensor.raw_data = tensor.raw_data[: generator.randrange(len(tensor.raw_data) + 1)]


def change_tensor_values(model: onnx.ModelProto, generator: random.Random) -> None:
    """A small stored tensor, a shape perhaps, has other numbers."""
    import numpy as np
    from onnx import numpy_helper

    tensor = _some_tensor(model, generator, _is_short)
    if tensor is not None:
        array = numpy_helper.to_array(tensor).copy()
        limits = np.iinfo(array.dtype)
        array.reshape(-1)[generator.randrange(array.size)] = max(limits.min, min(limits.max, _odd(generator)))
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _is_short(tensor: onnx.TensorProto) -> bool:
    """Up to 64 bytes of 32-bit or 64-bit integers, which no other mutation has damaged."""
    size = {6: 4, 7: 8}.get(tensor.data_type)
    return size is not None and 0 < size * math.prod(tensor.dims) == len(tensor.raw_data) <= 64


def point_elsewhere(model: onnx.ModelProto, generator: random.Random) -> None:
    """A stored tensor is said to lie in another file."""
    tensor = _some_tensor(model, generator)
    if tensor is not None:
        tensor.data_location = type(tensor).EXTERNAL
        for key, value in (("location", generator.choice(ODD_PATHS)), ("offset", str(_odd(generator)))):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value


# Of bytes


def truncate(data: bytes, generator: random.Random) -> bytes:
    """The file ends too soon."""
    return data[: generator.randrange(len(data) + 1)]


def flip_bytes(data: bytes, generator: random.Random) -> bytes:
    """Some bytes are others; half of the time near the end of the file, where the graph's text tends to lie."""
    changed = bytearray(data)
    low = generator.choice((0, max(0, len(changed) - 4096)))
    for _ in range(generator.choice((1, 4, 64))):
        if changed:
            changed[generator.randrange(low, len(changed))] = generator.randrange(256)
    return bytes(changed)


def splice(data: bytes, generator: random.Random) -> bytes:
    """A piece of the file is there twice."""
    start = generator.randrange(len(data) + 1)
    end = min(len(data), start + generator.choice((1, 16, 1024)))
    at = generator.randrange(len(data) + 1)
    return data[:at] + data[start:end] + data[at:]


OF_MODELS = (
    rename_input,
    rename_output,
    remove_node,
    repeat_node,
    swap_nodes,
    change_operator,
    change_domain,
    drop_or_add_operand,
    change_attribute,
    remove_attribute,
    change_input_type,
    change_version,
    change_tensor_dims,
    change_tensor_type,
    cut_tensor_data,
    change_tensor_values,
    point_elsewhere,
)
OF_BYTES = (truncate, flip_bytes, splice)


def _graphs(model: onnx.ModelProto) -> list[onnx.GraphProto]:
    """The model's graph and those nested in it."""
    found = [model.graph]
    for graph in found:  # grows as it is walked
        found.extend([a.g for node in graph.node for a in node.attribute if a.HasField("g")])
    return found


def _some_graph(model: onnx.ModelProto, generator: random.Random) -> onnx.GraphProto:
    return generator.choice(_graphs(model))


def _some_node(
    model: onnx.ModelProto, generator: random.Random, fits: Callable[[onnx.NodeProto], Any]
) -> onnx.NodeProto | None:
    nodes = [node for node in _some_graph(model, generator).node if fits(node)]
    return generator.choice(nodes) if nodes else None


def _some_tensor(
    model: onnx.ModelProto, generator: random.Random, fits: Callable[[onnx.TensorProto], Any] = bool
) -> onnx.TensorProto | None:
    """An initializer or a tensor among the attributes."""
    graph = _some_graph(model, generator)
    attributes = [a.t for node in graph.node for a in node.attribute if a.HasField("t")]
    tensors = [tensor for tensor in [*graph.initializer, *attributes] if fits(tensor)]
    return generator.choice(tensors) if tensors else None


def _names(model: onnx.ModelProto) -> list[str]:
    """The names of the main graph's values, at most some hundreds."""
    graph = model.graph
    return [*[i.name for i in graph.input], *[o for node in graph.node[:500] for o in node.output]] or [""]


def _odd(generator: random.Random) -> int:
    return generator.choice(ODD_INTEGERS)
