"""Comparing two ONNX files in ONNX Runtime: nodes by operator and order, values by their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from graphopt.debugging.aligning import edits
from graphopt.debugging.deviation import Deviation, Tolerance, deviation, ulp_of
from graphopt.debugging.difference import Difference, NodeDifference, ValueDifference
from graphopt.errors import GraphOptError, TargetError
from graphopt.passmanager.samples import SEED

if TYPE_CHECKING:
    import onnx

_FLOATS = {"tensor(float)": torch.float32, "tensor(double)": torch.float64, "tensor(float16)": torch.float16}
DYNAMIC_SIZE = 2
"""The size that made-up inputs have along a dim without one."""


def diff_onnx(a: Path, b: Path, args: Sequence[Any] | None = None, *, tolerance: float | None = None) -> Difference:
    """Compare two ONNX files.

    args: inputs in the order of the first file, tensors; without any, floating-point inputs are made up.

    Raises:
        GraphOptError: a file that cannot be read or run; inputs that cannot be made up.
        TargetError: onnx or onnxruntime is not installed.
    """
    models = [_load(path) for path in (a, b)]
    found = Difference(str(a), str(b))
    _add_structure(found, *models)
    sessions = [_session(model, path) for model, path in zip(models, (a, b))]
    feeds = _feeds(sessions[0], args, a)
    results = [_run(session, feeds, path) for session, path in zip(sessions, (a, b))]
    rule = Tolerance(tolerance)
    for node in models[1].graph.node:
        for name in node.output:
            if name in results[0] and name in results[1]:
                found.values.append(_difference(_text(node), results[0][name], results[1][name], rule))
    outputs = [[value.name for value in model.graph.output] for model in models]
    for old, new in zip(*outputs):
        found.outputs.append(_difference(f"%{new}", results[0][old], results[1][new], rule))
    return found


def _load(path: Path) -> onnx.ModelProto:
    try:
        import onnx
    except ImportError as error:
        raise TargetError("ONNX files need onnx and onnxruntime; run `pip install graphopt[onnx]`") from error
    try:
        return onnx.load(path)
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
    try:
        return onnxruntime.InferenceSession(tapped.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exception classes share no base of their own
        raise GraphOptError(f"ONNX Runtime cannot load {path}: {error}") from error


def _feeds(session: Any, args: Sequence[Any] | None, path: Path) -> dict[str, Any]:
    inputs = session.get_inputs()
    if args is None:
        args = [_made_up(value, path) for value in inputs]
    if len(args) != len(inputs):
        raise GraphOptError(f"{path} takes {len(inputs)} inputs, got {len(args)}")
    return {value.name: torch.as_tensor(given).detach().cpu().numpy() for value, given in zip(inputs, args)}


def _made_up(value: Any, path: Path) -> torch.Tensor:
    if value.type not in _FLOATS:
        raise GraphOptError(f"input {value.name!r} of {path} is a {value.type}, for which none is made up; give args")
    shape = [size if isinstance(size, int) else DYNAMIC_SIZE for size in value.shape]
    return torch.randn(shape, generator=torch.Generator().manual_seed(SEED)).to(_FLOATS[value.type])


def _run(session: Any, feeds: dict[str, Any], path: Path) -> dict[str, torch.Tensor]:
    names = [value.name for value in session.get_outputs()]
    wanted = {value.name for value in session.get_inputs()}
    if wanted != set(feeds):
        raise GraphOptError(f"{path} takes inputs {sorted(wanted)}, the other file {sorted(feeds)}")
    try:
        results = session.run(names, feeds)
    except Exception as error:  # its exception classes share no base of their own
        raise GraphOptError(f"ONNX Runtime cannot run {path}: {error}") from error
    return {name: torch.as_tensor(result) for name, result in zip(names, results) if hasattr(result, "dtype")}


def _add_structure(found: Difference, a: onnx.ModelProto, b: onnx.ModelProto) -> None:
    counts = [Counter(node.op_type for node in model.graph.node) for model in (a, b)]
    pairs = {op: (counts[0][op], counts[1][op]) for op in sorted({*counts[0], *counts[1]})}
    found.ops = {op: pair for op, pair in pairs.items() if pair[0] != pair[1]}
    old, new = list(a.graph.node), list(b.graph.node)
    for tag, start, end, other, other_end in edits(list(map(_kind, old)), list(map(_kind, new))):
        if tag == "equal":
            found.same += end - start
            continue
        found.nodes += [NodeDifference("removed", _text(node), "", "", "", node.name) for node in old[start:end]]
        found.nodes += [NodeDifference("added", "", _text(node), "", "", node.name) for node in new[other:other_end]]


def _kind(node: onnx.NodeProto) -> tuple[Any, ...]:
    return node.domain, node.op_type, tuple(sorted(a.SerializeToString(deterministic=True) for a in node.attribute))


def _text(node: onnx.NodeProto) -> str:
    results = ", ".join(f"%{name}" for name in node.output)
    return f"{results} = {node.op_type}({', '.join(f'%{name}' if name else 'none' for name in node.input)})"


def _difference(text: str, old: torch.Tensor, new: torch.Tensor, tolerance: Tolerance) -> ValueDifference:
    far: Deviation = deviation(new, old)
    return ValueDifference(text, text, "", "", far, None, tolerance.holds(far, None, ulp_of(new)))
