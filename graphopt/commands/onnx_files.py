"""ONNX files made from others on the command line: each takes its place once it is proved to compute the same."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.compiled import CompiledModel
from graphopt.errors import GraphOptError, SerializationError, ValidationError
from graphopt.ir import Graph
from graphopt.onnx_models import trace_onnx
from graphopt.ops.onnx_nested import graphs_of, short_domain
from graphopt.rewrite import Contract

if TYPE_CHECKING:
    import onnx

    from graphopt.onnx_proof import Proof

SHOWN = 12
"""How many operators are listed whose number changed most."""


def write_proved(
    source: Path, output: Path, compiled: CompiledModel, *, external_data: bool | None, proof: bool = True
) -> str:
    """Write a model that was compiled from an ONNX file, and say what changed.

    proof: run both files in ONNX Runtime first. Lossless passes whose result differs leave no file.

    Raises:
        ValidationError: the files compute different things.
        SerializationError: the file cannot be written.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent)
    except OSError as error:
        raise SerializationError(f"cannot write {output}: {error.strerror}; choose another folder") from error
    with folder as name:
        made = Path(name) / output.name
        model = compiled.to_onnx(made, external_data=external_data)
        found = _prove(source, made, compiled) if proof else None
        if found is not None and found.problem and not _lossy(compiled):
            raise ValidationError(
                f"{output} was not written: it computes something else than {source}: {found.problem}; "
                f"`graphopt bisect {source}` finds the pass"
            )
        for path in sorted(Path(name).iterdir(), reverse=True):  # the data first, then the file that names it
            os.replace(path, output.with_name(path.name))
    return _summary(source, output, model, compiled, found)


def _prove(source: Path, made: Path, compiled: CompiledModel) -> Proof:
    from graphopt.onnx_proof import prove

    program = compiled._require("a proof")
    before = compiled.report.before
    assert before is not None
    program.release()
    return prove(source, made, before, program.samples, _referee(source, before))


def _referee(source: Path, graph: Graph) -> Callable[[Sequence[Any]], list[Any] | None]:
    from graphopt.passmanager.runner import Runner

    def outputs(inputs: Sequence[Any]) -> list[Any] | None:
        whole = trace_onnx(source, inputs, {}, None)
        try:
            return Runner(whole).wide(whole, inputs)
        except GraphOptError:  # an operator without a kernel for float64
            return None

    return outputs


def _lossy(compiled: CompiledModel) -> bool:
    return any(record.promise == Contract.LOSSY.label for record in compiled.report.passes.kept)


def _summary(source: Path, output: Path, model: onnx.ModelProto, compiled: CompiledModel, proof: Proof | None) -> str:
    import onnx

    old = onnx.load(source, load_external_data=False)
    before, after = operators(old), operators(model)
    changes = sorted({*before, *after}, key=lambda op: (-abs(before[op] - after[op]), op))
    changed = [f"{op} {before[op]} → {after[op]}" for op in changes if before[op] != after[op]]
    opset = next((entry.version for entry in model.opset_import if not entry.domain), 0)
    was = next((entry.version for entry in old.opset_import if not short_domain(entry.domain)), 0)
    rows = [
        ("nodes", f"{sum(before.values())} → {sum(after.values())}"),
        ("changed", ", ".join(changed[:SHOWN]) + (f" and {len(changed) - SHOWN} more" if changed[SHOWN:] else "")),
        ("size", f"{_megabytes(source, old)} → {_megabytes(output, model)}"),
        ("opset", f"{was} → {opset}" if was != opset else str(opset)),
        *[("", note) for note in compiled.report.passes.notes if note.startswith("opset")],
        *[("proof", line) for line in ("not asked for" if proof is None else str(proof)).splitlines()],
    ]
    titles = [title if index == 0 or rows[index - 1][0] != title else "" for index, (title, _) in enumerate(rows)]
    lines = [f"{title:<9}{text}" for title, (_, text) in zip(titles, rows) if text]
    return "\n".join([f"{source} → {output}", *[f"  {line}" for line in lines]])


def operators(model: onnx.ModelProto) -> Counter[str]:
    """How often a model has each operator, in nested graphs, too. Constants are no operations."""
    found: Counter[str] = Counter()
    graphs: list[Any] = [model.graph, *model.functions]
    while graphs:
        for node in graphs.pop().node:
            found[node.op_type] += node.op_type != "Constant"
            graphs += graphs_of(node)
    return +found


def _megabytes(path: Path, model: onnx.ModelProto) -> str:
    data = {e.value for t in model.graph.initializer for e in t.external_data if e.key == "location"}
    files = [path, *(path.with_name(name) for name in data)]
    return f"{sum(file.stat().st_size for file in files if file.exists()) / 1e6:.2f} MB"
