"""A run of a pipeline that is kept for inspection: the graph after each step, and how their values correspond."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.api import compile
from graphopt.calling import CallingConvention
from graphopt.compiled import CompiledModel
from graphopt.errors import GraphOptError
from graphopt.ir import Graph, Value
from graphopt.passmanager import PassContext, PassManager, Provenance, Report
from graphopt.pipelines import resolve_passes
from graphopt.program import Program
from graphopt.targets import get_target


@dataclass
class Run:
    """What a pipeline made of a graph.

    provenance: the steps that changed it. program: what was loaded for the target; None for a graph alone.
    inputs: flat, in the order of the graph's inputs.
    """

    original: Graph
    final: Graph
    provenance: Provenance
    report: Report
    program: Program | None
    inputs: list[Any]

    @property
    def graphs(self) -> list[Graph]:
        """The original graph, and the graph after each step."""
        return [self.original, *(step.after for step in self.provenance.steps)]

    def pairs(self) -> list[tuple[Value, Value]]:
        """`(value of the original graph, value of the final graph)`, those of regions left out."""
        if not self.provenance.steps:
            return [(v, v) for v in self.original.constants.values()] + [
                (v, v) for node in self.original for v in node.results
            ]
        aligned = self.provenance.align(0, len(self.provenance.steps))
        return [(a, b) for a, b in aligned if _is_outer(a, self.original) and _is_outer(b, self.final)]


def _is_outer(value: Value, graph: Graph) -> bool:
    if value.producer is not None:
        return value.producer.graph is graph
    return value in graph.inputs or graph.constants.get(value.name) is value


def observed_run(model: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None, **options: Any) -> Run:
    """Compile a model, and keep what its pipeline did.

    model: what `graphopt.compile` takes, with `options`; a `Graph`, whose pipeline is run by itself; or a model that
        was compiled with `instruments=[Provenance()]`.

    Raises:
        GraphOptError: a compiled model whose history was not kept; whatever compiling raises.
    """
    arguments = tuple(args), dict(kwargs or {})
    if isinstance(model, CompiledModel):
        if options:
            raise GraphOptError(f"the model is compiled already; {next(iter(options))!r} comes too late")
        return _run_of(model, _kept(model), arguments)
    if isinstance(model, Graph):
        return pipeline_run(model, arguments, **options)
    history = Provenance()
    instruments = [*options.pop("instruments", ()), history]
    return _run_of(compile(model, *arguments, instruments=instruments, **options), history, arguments)


def kept_history(model: CompiledModel) -> Provenance | None:
    """The history of a model that was compiled with `instruments=[Provenance()]`."""
    return next((i for i in model._options.instruments if isinstance(i, Provenance)), None)


def _kept(model: CompiledModel) -> Provenance:
    history = kept_history(model)
    if history is None:
        raise GraphOptError(
            "the model was compiled without its history; give the original model, or compile it with "
            "instruments=[graphopt.passmanager.Provenance()]"
        )
    return history


def _run_of(model: CompiledModel, history: Provenance, arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> Run:
    program = model._require("a look into the run of its passes")
    graphs = history.graphs or [program.graph]
    original, final = graphs[0], graphs[-1]
    if [(v.name, v.type) for v in original.inputs] != [(v.name, v.type) for v in program.graph.inputs]:
        raise GraphOptError("the history that was kept is another model's; give each a Provenance of its own")
    inputs = CallingConvention(original).flatten(*arguments)
    return Run(original, final, history, program.report.passes, program, inputs)


def pipeline_run(
    graph: Graph,
    arguments: tuple[tuple[Any, ...], dict[str, Any]] | None,
    *,
    instruments: Sequence[Any] = (),
    target: str = "cpu",
    passes: Any = "default",
    trainable: bool | None = None,
    **options: Any,
) -> Run:
    """Run a pipeline on a graph, and keep what it did.

    arguments: inputs to validate on; None leaves it to the manager. options: of `PassManager`.

    Raises:
        GraphOptError: whatever the passes raise.
    """
    chosen = get_target(target)
    trains = chosen.trainable if trainable is None else trainable
    inputs = [] if arguments is None else CallingConvention(graph).flatten(*arguments)
    history = Provenance()
    pipeline = resolve_passes(passes, chosen.name, trains)
    manager = PassManager(pipeline, instruments=[*instruments, history], **options)
    samples = [] if arguments is None else [inputs]
    context = PassContext(target=chosen.name, trainable=trains, samples=samples, capabilities=chosen.capabilities)
    report = manager.run(graph, context).report
    return Run(graph, history.steps[-1].after if history.steps else graph, history, report, None, inputs)
