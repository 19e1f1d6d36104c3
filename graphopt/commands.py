"""What the command line does, without its argument parsing."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.api import compile, load, trace
from graphopt.compiled import CompiledModel
from graphopt.errors import GraphOptError
from graphopt.ir import Graph
from graphopt.model_source import ModelSource, resolve_model
from graphopt.passmanager import Outcome, PassContext, PassManager, get_pass, pass_names, read_reproducer
from graphopt.pipelines import resolve_passes
from graphopt.serialization import atomic_write
from graphopt.targets import get_target, target_names

if TYPE_CHECKING:
    from rich.table import Table

SUFFIXES = (".gopt", ".onnx", ".txt")


def compile_to_file(text: str, output: Path, **options: Any) -> CompiledModel:
    """Compile the model that `text` names and write it to `output`; the suffix says in what form.

    Raises:
        GraphOptError: an unknown suffix, or whatever compiling or writing raises.
    """
    if output.suffix not in SUFFIXES:
        raise GraphOptError(f"cannot write {output.name!r}: the suffix must be one of {', '.join(SUFFIXES)}")
    source = resolve_model(text)
    if source.is_saved:
        raise GraphOptError(f"{text} is compiled already; load it with graphopt.load")
    compiled = compile(source.model, source.args or None, source.kwargs or None, **options)
    if output.suffix == ".gopt":
        compiled.save(output)
    elif output.suffix == ".onnx":
        compiled.to_onnx(output)
    else:
        write_text(output, f"{compiled.graph}\n")
    return compiled


def traced(text: str, *, passes: str, target: str, dynamic_shapes: Any, trust: bool) -> Graph:
    """Return the graph of the model that `text` names, after `passes`."""
    source = resolve_model(text)
    if source.is_saved:
        graph = load(_path(source)).graph
    else:
        graph = trace(source.model, source.args, source.kwargs, dynamic_shapes=dynamic_shapes, trust=trust)
    chosen = get_target(target)
    manager = PassManager(resolve_passes(passes, chosen.name, chosen.trainable), validate=False)
    return manager.run(graph, PassContext(target=chosen.name, trainable=chosen.trainable)).graph


def run_reproducer(file: Path, passes: str | None, target: str, validate: bool, instruments: Sequence[Any]) -> Outcome:
    """Run the pipeline of a reproducer, or `passes`, over a graph in text form."""
    recorded = read_reproducer(file)
    text = passes or recorded.pipeline
    if not text:
        raise GraphOptError(f"{file} names no pipeline; give one with --passes")
    chosen = get_target(target)
    manager = PassManager(
        resolve_passes(text, chosen.name, chosen.trainable),
        validate="each" if validate else False,
        on_failure="raise",
        instruments=instruments,
    )
    context = PassContext(target=chosen.name, trainable=chosen.trainable, samples=recorded.samples)
    return manager.run(recorded.graph, context)


def pass_table() -> Table:
    """Return the table of all passes: name, contract, what it does."""
    from rich.table import Table

    table = Table("pass", "numbers", "what it does", title="Passes", title_justify="left")
    for name in pass_names():
        made = get_pass(name)
        table.add_row(name, made.contract.label, _summary(made))
    return table


def target_table() -> Table:
    """Return the table of all targets."""
    from rich.table import Table

    table = Table("target", "engines", "what it is", title="Targets", title_justify="left")
    for name in target_names():
        target = get_target(name)
        table.add_row(name, ", ".join(target.engines) or "(an FX module)", target.description)
    return table


def describe_pass(name: str) -> str:
    """Return the method of a pass and its options, with their defaults."""
    made = get_pass(name)
    lines = [f"{name} ({made.contract.label})", "", inspect.getdoc(type(made)) or ""]
    options = [f for f in dataclasses.fields(made) if f.repr]
    if options:
        lines += ["", "options:"]
        lines += [f"  {f.name}: {f.type} = {getattr(made, f.name)!r}" for f in options]
    return "\n".join(lines)


def bench_table(text: str, targets: Sequence[str], passes: str, rounds: int, trust: bool) -> Table:
    """Compile the model for each target and return a table of latency, size and error beside PyTorch eager."""
    from rich.table import Table

    from graphopt.measure import compare_targets

    source = resolve_model(text)
    if isinstance(source.model, Path):
        raise GraphOptError("bench needs the original model; give module:function")
    rows = compare_targets(source.model, source.args, source.kwargs, targets, passes=passes, rounds=rounds)
    table = Table("model", "ms", "speed-up", "nodes", "MB", "max error", title=text, title_justify="left")
    for row in rows:
        error = "" if row.max_error is None else f"{row.max_error:.1e}"
        table.add_row(
            row.name, f"{row.milliseconds:.3f}", f"{row.speed_up:.2f}x", str(row.nodes), f"{row.megabytes:.2f}", error
        )
    return table


def write_text(path: Path, text: str) -> None:
    """Write a text file; it is replaced only once all is written."""
    with atomic_write(path) as file:
        file.write(text.encode())


def _path(source: ModelSource) -> str | os.PathLike[str]:
    assert isinstance(source.model, Path)
    return source.model


def _summary(made: Any) -> str:
    return (inspect.getdoc(type(made)) or "").partition("\n\n")[0].replace("\n", " ")
