"""`graphopt compile`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphopt.api import compile
from graphopt.commands.files import write_graph
from graphopt.compiled import CompiledModel
from graphopt.errors import GraphOptError
from graphopt.ir.files import replaceable
from graphopt.model_source import ModelSource, resolve_model
from graphopt.options import make_options
from graphopt.passmanager import Provenance

SUFFIXES = (".gopt", ".onnx", ".txt")


def compile_to_file(text: str, output: Path, *, measured: bool = False, **options: Any) -> CompiledModel:
    """Compile the model that `text` names and write it to `output`; the suffix says in what form.

    measured: put latencies, and the time and error of each node, into the report.

    Raises:
        GraphOptError: an unknown suffix, or whatever compiling or writing raises.
    """
    if output.suffix not in SUFFIXES:
        raise GraphOptError(f"cannot write {output.name!r}: the suffix must be one of {', '.join(SUFFIXES)}")
    folder = replaceable(output).parent
    if not folder.is_dir():
        raise GraphOptError(f"cannot write {output}: there is no folder {output.parent}")
    # Building the model may take long; what the options say is checked before.
    make_options(options.get("target", "cpu"), passes=options.get("passes", "default"))
    source = resolve_model(text)
    if source.is_saved:
        raise GraphOptError(f"{text} is compiled already; load it with graphopt.load")
    compiled = _measured(source, options) if measured else compile(source.model, source.args, source.kwargs, **options)
    if output.suffix == ".gopt":
        compiled.save(output)
    elif output.suffix == ".onnx":
        compiled.to_onnx(output)
    else:
        write_graph(output, compiled.graph)
    return compiled


def _measured(source: ModelSource, options: dict[str, Any]) -> CompiledModel:
    """Compile with the history that attributing errors needs, and measure."""
    from graphopt.html_report.measured import measure

    source = source.opened(options.get("trust", False))
    assert not isinstance(source.model, Path)
    instruments = [*options.pop("instruments", ()), Provenance()]
    compiled = compile(source.model, source.args, source.kwargs, instruments=instruments, **options)
    measure(compiled, source.model, source.args, source.kwargs)
    return compiled
