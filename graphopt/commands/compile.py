"""`graphopt compile`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graphopt.api import compile
from graphopt.commands.files import write_graph
from graphopt.commands.onnx_files import write_proved
from graphopt.compiled import CompiledModel
from graphopt.errors import GraphOptError
from graphopt.ir.files import replaceable
from graphopt.model_source import ModelSource, resolve_model
from graphopt.onnx_models import SUFFIX, compile_onnx
from graphopt.options import make_options
from graphopt.passmanager import Provenance

SUFFIXES = (".gopt", SUFFIX, ".txt", ".tflite", ".mlpackage")


def compile_to_file(
    text: str,
    output: Path,
    *,
    measured: bool = False,
    values: Sequence[str] = (),
    external_data: bool | None = None,
    rules: str = "",
    **options: Any,
) -> tuple[CompiledModel, str]:
    """Compile the model that `text` names and write it to `output`; the suffix says in what form.

    measured: put latencies, and the time and error of each node, into the report. values: inputs of an ONNX file.
    external_data: of an ONNX file that is written. rules: that its quantization is held to (see `to_onnx`).

    Returns:
        The model; and for an ONNX file made from another what changed, with the proof that they compute the same.

    Raises:
        GraphOptError: an unknown suffix, or whatever compiling or writing raises.
        ValidationError: an ONNX file that computes something else than the one it was made from.
    """
    if output.suffix not in SUFFIXES:
        raise GraphOptError(f"cannot write {output.name!r}: the suffix must be one of {', '.join(SUFFIXES)}")
    folder = replaceable(output).parent
    if not folder.is_dir():
        raise GraphOptError(f"cannot write {output}: there is no folder {output.parent}")
    # Building the model may take long; what the options say is checked before.
    make_options(options.get("target", "cpu"), passes=options.get("passes", "default"))
    source = resolve_model(text, values, trust=options.get("trust", False))
    if source.is_saved:
        raise GraphOptError(f"{text} is compiled already; load it with graphopt.load")
    compiled = _measured(source, options) if measured else _compiled(source, options)
    if rules:
        compiled.to_onnx(rules=rules)
    if output.suffix == ".gopt":
        compiled.save(output)
    elif output.suffix == SUFFIX and source.is_onnx:
        proof = options.get("validate") is not False
        return compiled, write_proved(source.path, output, compiled, external_data=external_data, proof=proof)
    elif output.suffix == SUFFIX:
        compiled.to_onnx(output, external_data=external_data)
    elif output.suffix == ".tflite":
        from graphopt.backends.litert import save_litert

        save_litert(compiled.graph, output)
    elif output.suffix == ".mlpackage":
        from graphopt.backends.coreml import save_coreml

        save_coreml(compiled.graph, output)
    else:
        write_graph(output, compiled.graph)
    return compiled, ""


def _compiled(source: ModelSource, options: dict[str, Any]) -> CompiledModel:
    if not source.is_onnx:
        return compile(source.model, source.args, source.kwargs, **options)
    return compile_onnx(source.path, None, source.kwargs, make_options(**options), load=False)


def _measured(source: ModelSource, options: dict[str, Any]) -> CompiledModel:
    """Compile with the history that attributing errors needs, and measure."""
    from graphopt.html_report.measured import measure

    source = source.opened(options.get("trust", False))
    instruments = [*options.pop("instruments", ()), Provenance()]
    compiled = compile(source.model, source.args, source.kwargs, instruments=instruments, **options)
    measure(compiled, source.original(), source.args, source.kwargs)
    return compiled
