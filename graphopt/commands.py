"""What the command line does, without its argument parsing."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.api import compile, trace
from graphopt.compiled import CompiledModel
from graphopt.errors import GraphOptError
from graphopt.ir import Graph
from graphopt.ir.files import replaceable
from graphopt.model_source import resolve_model
from graphopt.options import make_options
from graphopt.passmanager import FunctionPass, Outcome, PassContext, PassManager, pass_names, read_reproducer
from graphopt.passmanager.registry import registry
from graphopt.passmanager.reproducer import Reproducer
from graphopt.pipelines import NAMES, resolve_passes
from graphopt.rewrite import Contract
from graphopt.serialization import atomic_write, load_graph, pack_constants
from graphopt.targets import get_target, target_names

if TYPE_CHECKING:
    from rich.table import Table

    from graphopt.measure import Measurement

SUFFIXES = (".gopt", ".onnx", ".txt")


def compile_to_file(text: str, output: Path, **options: Any) -> CompiledModel:
    """Compile the model that `text` names and write it to `output`; the suffix says in what form.

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
    compiled = compile(source.model, source.args, source.kwargs, **options)
    if output.suffix == ".gopt":
        compiled.save(output)
    elif output.suffix == ".onnx":
        compiled.to_onnx(output)
    else:
        _write_graph(output, compiled.graph)
    return compiled


def traced(text: str, *, passes: str, target: str, dynamic_shapes: Any, trust: bool) -> Graph:
    """Return the graph of the model that `text` names, after `passes`."""
    source = resolve_model(text)
    if source.is_saved:
        graph, _ = load_graph(source.path)
    else:
        graph = trace(source.model, source.args, source.kwargs, dynamic_shapes=dynamic_shapes, trust=trust)
    chosen = get_target(target)
    manager = PassManager(resolve_passes(passes, chosen.name, chosen.trainable), validate=False)
    return manager.run(graph, PassContext(target=chosen.name, trainable=chosen.trainable)).graph


def run_reproducer(file: Path, passes: str | None, target: str, validate: bool, instruments: Sequence[Any]) -> Outcome:
    """Run the pipeline of a reproducer, or `passes`, over a graph in text form or in the saved form.

    Raises:
        GraphOptError: no pipeline is named; whatever reading the file or running a pass raises.
    """
    recorded = Reproducer(load_graph(file)[0], "", []) if file.suffix == ".gopt" else read_reproducer(file)
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

    table = Table("pass", "numbers", "what it does", title="Passes", title_justify="left", caption_justify="left")
    for name in pass_names():
        factory = registry.factory(name)
        table.add_row(name, _contract(factory), _summary(factory))
    table.caption = (
        "Combine them: -p canonicalize,fixpoint(fold-constants,dead-code{constants=false})\n"
        f"Pipelines with a name: {', '.join(NAMES)}. More: graphopt passes NAME"
    )
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
    """Return the method of a pass and its options with their defaults, or the passes of a named pipeline.

    Raises:
        UnknownNameError: no such pass; the message suggests near names.
    """
    if name in NAMES:
        return _describe_pipeline(name)
    factory = registry.factory(name)
    lines = [f"{name} ({_contract(factory)})", "", inspect.getdoc(factory) or "(no description)"]
    options = _options(factory)
    if options:
        lines += ["", "options:", *(f"  {option}" for option in options)]
        first = options[0].partition(":")[0]
        lines += ["", f"in a pipeline: {name}{{{first}=...}}"]
    return "\n".join(lines)


def _describe_pipeline(name: str) -> str:
    inference, training = (resolve_passes(name, target, target == "fx") for target in ("cpu", "fx"))
    lines = [f"{name} (a pipeline)", "", str(inference) or "no passes"]
    if str(training) != str(inference):
        lines += ["", "for a result that is trained, such as target fx:", "", str(training)]
    return "\n".join(lines)


def _contract(factory: Any) -> str:
    contract = getattr(factory, "contract", None)
    return contract.label if isinstance(contract, Contract) else "that of its passes"


def _options(factory: Any) -> list[str]:
    """`name: type = default` of each option; without a default, the option must be given."""
    if isinstance(factory, FunctionPass):
        return [str(parameter) for parameter in factory.option_parameters().values()]
    if not dataclasses.is_dataclass(factory):
        return []
    found = []
    for f in dataclasses.fields(factory):
        default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
        if f.repr:
            found.append(f"{f.name}: {f.type}" + ("" if default is dataclasses.MISSING else f" = {default!r}"))
    return found


def bench_table(text: str, targets: Sequence[str], passes: str, rounds: int, trust: bool) -> Table:
    """Compile the model for each target and return a table of latency, size and error beside PyTorch eager.

    Raises:
        GraphOptError: the saved form, which holds no original; whatever compiling raises.
    """
    from graphopt.measure import compare_targets

    source = resolve_model(text).opened(trust)
    assert not isinstance(source.model, Path)
    rows = compare_targets(source.model, source.args, source.kwargs, targets, passes=passes, rounds=rounds)
    return measurement_table(rows, text)


def measurement_table(rows: Sequence[Measurement], title: str) -> Table:
    """Return measurements as a table."""
    from rich.table import Table

    table = Table("", title=title, title_justify="left")
    for column in ("ms", "speed-up", "nodes", "MB", "max error"):
        table.add_column(column, justify="right")
    for row in rows:
        error = "" if row.max_error is None else f"{row.max_error:.1e}"
        table.add_row(
            row.name, f"{row.milliseconds:.3f}", f"{row.speed_up:.2f}x", str(row.nodes), f"{row.megabytes:.2f}", error
        )
    return table


def _write_graph(path: Path, graph: Graph) -> None:
    """Write the text form, and the weights that are not in the text to a `.safetensors` file beside it."""
    with atomic_write(path.with_suffix(".safetensors")) as file:
        file.write(pack_constants(graph))
    write_text(path, f"{graph}\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file; it is replaced only once all is written."""
    with atomic_write(path) as file:
        file.write(text.encode())


def _summary(factory: Any) -> str:
    return (inspect.getdoc(factory) or "").partition("\n\n")[0].replace("\n", " ")
