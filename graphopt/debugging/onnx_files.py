"""Comparing two ONNX files in ONNX Runtime: nodes by operator and order, values by their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from graphopt.debugging.aligning import edits
from graphopt.debugging.deviation import Deviation, Tolerance, deviation, ulp_of
from graphopt.debugging.difference import Difference, NodeDifference, ValueDifference
from graphopt.errors import GraphOptError, TargetError
from graphopt.onnx_models import trace_onnx
from graphopt.passmanager.made_up import make_inputs

if TYPE_CHECKING:
    import onnx


def diff_onnx(
    a: Path,
    b: Path,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    tolerance: float | None = None,
) -> Difference:
    """Compare two ONNX files.

    args, kwargs: inputs in the order of the first file, or by its names; those that are missing are made up.

    Raises:
        GraphOptError: a file that cannot be read or run; inputs that cannot be made up.
        TargetError: onnx or onnxruntime is not installed.
    """
    models = [_load(path) for path in (a, b)]
    found = Difference(str(a), str(b))
    _add_structure(found, *models)
    sessions = [_session(model, path) for model, path in zip(models, (a, b))]
    feeds = _feeds(a, args or (), kwargs or {})
    results = [_run(session, feeds, path) for session, path in zip(sessions, (a, b))]
    rule = Tolerance(tolerance)
    if any(node.op_type == "If" for model in models for node in model.graph.node):
        found.notes.append("of each If only the branch that these inputs take is compared")
    for node in models[1].graph.node:
        for name in node.output:
            if name in results[0] and name in results[1]:
                found.values.append(_difference(_text(node), results[0][name], results[1][name], rule))
    outputs = [[value.name for value in model.graph.output] for model in models]
    for old, new in zip(*outputs):
        if old not in results[0] or new not in results[1]:
            found.notes.append(f"output {new} is no tensor of numbers, so it is not compared")
            continue
        found.outputs.append(_difference(f"%{new}", results[0][old], results[1][new], rule))
    return found


def _load(path: Path) -> onnx.ModelProto:
    try:
        import onnx
    except ImportError as error:
        raise TargetError("ONNX files need onnx and onnxruntime; run `pip install graphopt[onnx]`") from error
    try:
        return onnx.load(path, load_external_data=False)
    except Exception as error:  # the parser's exceptions share no base
        raise GraphOptError(f"{path} cannot be read as an ONNX model: {error}") from error


def _session(model: onnx.ModelProto, path: Path) -> Any:
    """A session in which every value of the outermost graph is an output, and nothing is optimized away."""
    import onnx
    import onnxruntime

    known = {value.name for value in model.graph.output}
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    tapped.graph.output.extend(
        onnx.ValueInfoProto(name=name)
        for node in model.graph.node
        for name in node.output
        if name and name not in known
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4  # what goes wrong is raised
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    try:
        return onnxruntime.InferenceSession(tapped.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exception classes share no base of their own
        raise GraphOptError(f"ONNX Runtime cannot load {path}: {error}") from error


def _feeds(path: Path, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs by name.

    Raises:
        GraphOptError: some are missing and cannot be made up.
    """
    graph = trace_onnx(path, args, kwargs, None)
    names = [value.name for value in graph.inputs]
    made = make_inputs(graph, {**dict(zip(names, args)), **kwargs})
    if made is None:
        raise GraphOptError(f"no inputs could be made up on which {path} runs; give args")
    return dict(zip(names, map(torch.as_tensor, made)))


def _run(session: Any, feeds: dict[str, Any], path: Path) -> dict[str, torch.Tensor]:
    from graphopt.ops.onnx_values import from_numpy, to_numpy

    names = [value.name for value in session.get_outputs()]
    wanted = [value.name for value in session.get_inputs()]
    if set(wanted) != set(feeds):
        raise GraphOptError(f"{path} takes inputs {sorted(wanted)}, the other file {sorted(feeds)}")
    try:
        results = session.run(names, {name: to_numpy(value) for name, value in feeds.items()})
    except Exception as error:  # its exception classes share no base of their own
        raise GraphOptError(f"ONNX Runtime cannot run {path}: {error}") from error
    values = {name: from_numpy(result) for name, result in zip(names, results)}
    return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}


def _add_structure(found: Difference, a: onnx.ModelProto, b: onnx.ModelProto) -> None:
    counts = [Counter(node.op_type for node in model.graph.node) for model in (a, b)]
    pairs = {op: (counts[0][op], counts[1][op]) for op in sorted({*counts[0], *counts[1]})}
    found.ops = {op: pair for op, pair in pairs.items() if pair[0] != pair[1]}
    old, new = list(a.graph.node), list(b.graph.node)
    for tag, start, end, other, other_end in edits(list(map(_kind, old)), list(map(_kind, new))):
        if tag == "equal":
            found.same += end - start
            continue
        found.nodes += _changes(old[start:end], new[other:other_end])


def _changes(old: Sequence[onnx.NodeProto], new: Sequence[onnx.NodeProto]) -> list[NodeDifference]:
    """What takes the place of some nodes: one of the same operator in the other file is that node with other
    attributes."""
    left = list(new)
    found = []
    for node in old:
        same = next((n for n in left if (n.domain, n.op_type) == (node.domain, node.op_type)), None)
        if same is None:
            found.append(NodeDifference("removed", _text(node), "", "", "", node.name))
        else:
            left.remove(same)
            found.append(NodeDifference("changed", _text(node), _text(same), _what(node, same), "", node.name))
    return found + [NodeDifference("added", "", _text(node), "", "", node.name) for node in left]


def _what(old: onnx.NodeProto, new: onnx.NodeProto) -> str:
    """The attributes that differ, with their values."""
    before, after = _attributes(old), _attributes(new)
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return ", ".join(f"{name}: {before.get(name, 'none')} → {after.get(name, 'none')}" for name in names)


def _attributes(node: onnx.NodeProto) -> dict[str, str]:
    """Attributes as short texts; those that hold tensors and graphs by what they are."""
    from onnx import helper

    found = {}
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
        if hasattr(value, "SerializeToString"):
            text = f"{type(value).__name__} of {value.ByteSize()} bytes"
        found[attribute.name] = text
    return found


def _kind(node: onnx.NodeProto) -> tuple[Any, ...]:
    return node.domain, node.op_type, tuple(sorted(a.SerializeToString(deterministic=True) for a in node.attribute))


def _text(node: onnx.NodeProto) -> str:
    results = ", ".join(f"%{name}" for name in node.output)
    return f"{results} = {node.op_type}({', '.join(f'%{name}' if name else 'none' for name in node.input)})"


def _difference(text: str, old: torch.Tensor, new: torch.Tensor, tolerance: Tolerance) -> ValueDifference:
    far: Deviation = deviation(new, old)
    return ValueDifference(text, text, "", "", far, None, tolerance.holds(far, None, ulp_of(new)))
