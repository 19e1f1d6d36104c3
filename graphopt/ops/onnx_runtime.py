"""Running ONNX models: by ONNX Runtime, its graph optimizations off, or else by the reference evaluator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from graphopt.errors import GraphOptError
from graphopt.ir import Type
from graphopt.ops.onnx_dialect import CAPTURED, KINDS, OPSET, OUTPUTS, imports_of, node_proto
from graphopt.ops.onnx_nested import captured_names
from graphopt.ops.onnx_values import element_code, from_numpy, kind_from_text, to_numpy, type_of_array, type_to_proto

if TYPE_CHECKING:
    import onnx

Run = Callable[[list[Any]], list[Any]]
"""Takes and gives NumPy arrays, lists of them, and None."""

_LOOPING = 30.0
"""Seconds that one node with nested graphs may run, where a run is for numbers and not for the caller."""
_IR_VERSION = 10
"""With which models are made for one run: every runtime of interest reads it."""
_STANDARD_VERSION = 20
"""Of the standard domain, in a model that uses other domains alone."""


class OnnxProgram:
    """A model that can be run, from its bytes; loaded at the first run. Copies and pickles are of the bytes.

    kinds: types of inputs that their values don't tell, "" for the others; see `onnx_values.kind_text`. limit: seconds
    after which a run is an error, if any.

    >>> from onnx.helper import make_graph, make_model, make_node, make_tensor_value_info
    >>> info = [make_tensor_value_info(name, 1, [2]) for name in "xy"]
    >>> model = make_model(make_graph([make_node("Abs", ["x"], ["y"])], "g", info[:1], info[1:]), ir_version=10)
    >>> OnnxProgram(model.SerializeToString()).run([torch.tensor([-1.0, 2.0])])
    [tensor([1., 2.])]
    """

    def __init__(self, model: bytes, kinds: Sequence[str] = (), limit: float | None = None) -> None:
        self.model = model
        self.kinds = tuple(kinds)
        self.limit = limit
        self._run: Run | None = None

    def __reduce__(self) -> Any:
        return OnnxProgram, (self.model, self.kinds, self.limit)

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """Run on values of the graph's inputs, in order.

        Raises:
            GraphOptError: neither library can; the message says why.
        """
        kinds = [kind_from_text(text) if text else None for text in self.kinds] or [None] * len(inputs)
        return self.run_arrays([to_numpy(value, kind) for value, kind in zip(inputs, kinds)])

    def run_arrays(self, arrays: list[Any]) -> list[Any]:
        """Run on NumPy arrays."""
        return [from_numpy(value) for value in self._run_arrays(arrays)]

    def _run_arrays(self, arrays: list[Any]) -> list[Any]:
        if self._run is not None:
            try:
                return self._run(arrays)
            except _Endless:
                raise
            except Exception:  # another library may take these inputs
                self._run = None
        reasons = []
        for library, load in _LIBRARIES:
            try:
                run = load(self.model, self.limit)
                results = run(arrays)
            except _Endless:
                raise
            except _OneNode:
                pass
            except Exception as error:  # the libraries' exceptions share no base
                reasons.append(f"{library}: {_first_line(error)}")
            else:
                self._run = run
                return results
        raise GraphOptError("; ".join(reasons))


def run_node(name: str, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> list[Any]:
    """Run one node of the `onnx` dialect.

    inputs: the operands, None for an absent one; a list for a sequence. Where no library has it for f64, it is run in
        f32: validation runs graphs of f32 in f64.

    Raises:
        GraphOptError: no library can.
    """
    kinds = [kind_from_text(text) if text else None for text in attributes[KINDS]] or [None] * len(inputs)
    arrays = [to_numpy(value, kind) for value, kind in zip(inputs, kinds)]
    try:
        return _run_arrays(name, arrays, kinds, attributes)
    except GraphOptError as error:
        narrowed = [a.astype(np.float32) if _is_f64(a) else a for a in arrays]
        if not any(map(_is_f64, arrays)):
            raise GraphOptError(_refusal(name, attributes, error)) from error
        try:
            results = _run_arrays(name, narrowed, kinds, attributes)
        except GraphOptError:
            raise GraphOptError(_refusal(name, attributes, error)) from error
        return [r.double() if isinstance(r, torch.Tensor) and r.dtype is torch.float32 else r for r in results]


def _is_f64(array: Any) -> bool:
    return isinstance(array, np.ndarray) and array.dtype == np.float64


def _refusal(name: str, attributes: Mapping[str, Any], error: GraphOptError) -> str:
    """Why an operator cannot be run."""
    from onnx import defs

    domain, _, operator = name.rpartition(".")
    if domain == "onnx" and not defs.has(operator, ""):
        return (
            f"ONNX has no operator {operator} in opset {attributes[OPSET]} (the installed onnx knows opsets up to "
            f"{defs.onnx_opset_version()}); a custom operator needs a domain of its own"
        )
    return f"{name} cannot be run: {error}"


def _run_arrays(name: str, arrays: list[Any], kinds: Sequence[Type | None], attributes: Mapping[str, Any]) -> list[Any]:
    captured = list(attributes[CAPTURED])
    names = [f"i{n}" for n in range(len(arrays) - len(captured))]
    is_given = [kind is not None or array is not None for array, kind in zip(arrays, kinds)]
    given = [n if there else "" for n, there in zip(names, is_given)]
    positions = attributes[OUTPUTS]
    node = node_proto(name, given, [f"o{position}" for position in positions], dict(attributes), positions)
    if "seed" not in attributes and _takes_seed(node, attributes[OPSET]):
        node.attribute.add(name="seed", type=1, f=float(torch.randint(2**20, ())))  # so torch.manual_seed decides
    infos = [
        _info(n, array, kind) for n, array, kind, there in zip([*names, *captured], arrays, kinds, is_given) if there
    ]
    nests = any(attribute.HasField("g") for attribute in node.attribute)
    program = _program(_model(node, infos, imports_of(name, attributes)), _LOOPING if nests else None)
    return program.run_arrays([array for array, there in zip(arrays, is_given) if there])


def make_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    imports: Mapping[str, int],
) -> onnx.ModelProto:
    """Return a model of some nodes."""
    from onnx import ModelProto

    model = ModelProto()
    model.ir_version = _IR_VERSION
    for domain, version in {**imports, "": imports.get("", _STANDARD_VERSION)}.items():
        entry = model.opset_import.add()
        entry.domain, entry.version = domain, version
    model.graph.name = "opaque"
    model.graph.node.extend(nodes)
    model.graph.input.extend(inputs)
    model.graph.output.extend(outputs)
    return model


def _info(name: str, array: Any, kind: Type | None) -> onnx.ValueInfoProto:
    from onnx import ValueInfoProto

    info = ValueInfoProto(name=name)
    info.type.CopyFrom(type_of_array(array) if kind is None else type_to_proto(kind))
    return info


def _model(node: onnx.NodeProto, infos: Sequence[onnx.ValueInfoProto], imports: Mapping[str, int]) -> bytes:
    from onnx import ValueInfoProto

    outputs = [ValueInfoProto(name=name) for name in node.output if name]
    data: bytes = make_model([node], infos, outputs, imports).SerializeToString(deterministic=True)
    return data


@lru_cache(maxsize=256)
def _program(model: bytes, limit: float | None) -> OnnxProgram:
    """Loading costs milliseconds, and validation runs each node many times."""
    return OnnxProgram(model, limit=limit)


def _takes_seed(node: onnx.NodeProto, opset: int) -> bool:
    from onnx import defs

    if not defs.has(node.op_type, node.domain):
        return False
    try:
        return "seed" in defs.get_schema(node.op_type, opset, node.domain).attributes
    except defs.SchemaError:
        return False


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def load_session(model: bytes) -> Any:
    """An ONNX Runtime session on the CPU, its graph optimizations off.

    Raises:
        GraphOptError: it is not installed. Whatever it raises where it refuses the model.
    """
    if find_spec("onnxruntime") is None:
        raise GraphOptError("not installed; run `pip install graphopt[onnx]`")
    import onnxruntime

    return onnxruntime.InferenceSession(model, session_options(), providers=["CPUExecutionProvider"])


def session_options(level: str = "ORT_DISABLE_ALL", threads: int | None = None) -> Any:
    """Options of an ONNX Runtime session that prints nothing, since what goes wrong is raised.

    level: a name of `onnxruntime.GraphOptimizationLevel`. threads: of one operator; None: as many as PyTorch uses.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 4
    return options


class _Endless(GraphOptError):
    """A run was stopped; another library would take no less time."""


def _by_session(model: bytes, limit: float | None) -> Run:
    return session_run(load_session(model), limit)


def session_run(session: Any, limit: float | None = None) -> Run:
    """Return what runs a session on values of `to_numpy`. Types that NumPy lacks go by `OrtValue`.

    limit: seconds after which a run is stopped, with a GraphOptError.
    """
    names = [value.name for value in session.get_inputs()]
    by_value = any(_is_odd(value.type) for value in (*session.get_inputs(), *session.get_outputs()))

    def run(arrays: list[Any], options: Any = None) -> list[Any]:
        feeds = dict(zip(names, arrays))
        if not by_value:
            return list(session.run(None, feeds, options))
        values = {name: _ort_value(array) for name, array in feeds.items()}
        return [_from_ort_value(value) for value in session.run_with_ort_values(None, values, options)]

    return run if limit is None else _stopped_after(limit, run)


def _stopped_after(limit: float, run: Callable[[list[Any], Any], list[Any]]) -> Run:
    """ONNX Runtime looks between nodes whether a run is to end."""
    from threading import Timer

    import onnxruntime

    def stopped(arrays: list[Any]) -> list[Any]:
        options = onnxruntime.RunOptions()
        timer = Timer(limit, setattr, (options, "terminate", True))
        timer.daemon = True
        timer.start()
        try:
            return run(arrays, options)
        except Exception as error:
            if not options.terminate:
                raise
            raise _Endless(f"no result after {limit:g} seconds") from error
        finally:
            timer.cancel()

    return stopped


class _OneNode(Exception):
    """There are no parts."""


def _by_parts(model: bytes, limit: float | None) -> Run:
    """One node after another, each by the library that can."""
    import onnx

    proto = onnx.load_model_from_string(model)
    graph, imports = proto.graph, {o.domain: o.version for o in proto.opset_import}
    if len(graph.node) < 2:
        raise _OneNode
    infos = {info.name: info for info in (*graph.input, *graph.value_info, *graph.output)}
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    steps = []
    for node in graph.node:
        taken = list(dict.fromkeys([name for name in (*node.input, *captured_names(node)) if name]))
        given = [name for name in node.output if name]
        inputs = [infos[name] if name in infos else _info(name, stored[name], None) for name in taken]
        part = make_model([node], inputs, [infos.get(name, onnx.ValueInfoProto(name=name)) for name in given], imports)
        steps.append((OnnxProgram(part.SerializeToString(deterministic=True), limit=limit), taken, given))
    names, results = [value.name for value in graph.input], [value.name for value in graph.output]

    def run(arrays: list[Any]) -> list[Any]:
        values = {**stored, **dict(zip(names, arrays))}
        for program, taken, given in steps:
            values.update(zip(given, program._run_arrays([values[name] for name in taken])))
        return [values[name] for name in results]

    return run


_ODD = ("bfloat16", "float8", "int4", "int2", "float4")


def _is_odd(type_: str) -> bool:
    return any(name in type_ for name in _ODD)


def _ort_value(array: Any) -> Any:
    from onnxruntime import OrtValue

    if isinstance(array, list):
        raise GraphOptError("sequences of elements that NumPy lacks are not passed to ONNX Runtime")
    if not _is_odd(array.dtype.name):
        return OrtValue.ortvalue_from_numpy(array)
    code = element_code(array)
    if array.dtype.itemsize == 1 and "float8" not in array.dtype.name:
        raise GraphOptError(f"{array.dtype.name} is packed, and not passed to ONNX Runtime")
    return OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint8 if array.itemsize == 1 else np.uint16), code)


def _from_ort_value(value: Any) -> Any:
    if not value.is_tensor() or not _is_odd(value.data_type()):
        return value.numpy()
    return to_numpy(torch.from_dlpack(value))


def _by_evaluator(model: bytes, _: float | None) -> Run:
    """The reference evaluator, which knows the standard's domains alone."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    proto = onnx.load_model_from_string(model)
    for node in proto.graph.node:
        _refuse_ignored(node)
    evaluator = ReferenceEvaluator(proto)
    names = [value.name for value in proto.graph.input]

    def run(arrays: list[Any]) -> list[Any]:
        with np.errstate(all="ignore"):
            return list(evaluator.run(None, dict(zip(names, arrays))))

    return run


_IGNORED = {"LSTM": ("activations", "clip", "input_forget"), "GRU": ("activations", "clip"), "RNN": ("clip",)}


def _refuse_ignored(node: onnx.NodeProto) -> None:
    """Raise where the evaluator reads over what a recurrent layer is asked for: it would give other numbers."""
    if node.domain or node.op_type not in _IGNORED:
        return
    ignored = [attribute.name for attribute in node.attribute if attribute.name in _IGNORED[node.op_type]]
    if len(node.input) > 4 and node.input[4]:
        ignored.append("sequence_lens")
    if ignored:
        raise GraphOptError(f"it ignores {ignored[0]} of {node.op_type}")


_LIBRARIES: tuple[tuple[str, Callable[[bytes, float | None], Run]], ...] = (
    ("ONNX Runtime", _by_session),
    ("the reference evaluator", _by_evaluator),
    ("node by node", _by_parts),
)
