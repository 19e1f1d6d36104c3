"""A program: one captured graph, optimized, checked, emitted and loaded."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from graphopt.calling import CallingConvention
from graphopt.engine_choice import EngineTrial, choose_engine
from graphopt.errors import InputError
from graphopt.ir import ConstantKind, Graph, TensorType, Value
from graphopt.options import CompileOptions
from graphopt.passmanager import PassContext, PassManager, Report
from graphopt.pipelines import resolve_passes
from graphopt.report import CompileReport
from graphopt.targets import Executable
from graphopt.targets.registry import get_engine
from graphopt.validation import output_check

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
FX = "fx"


@dataclass
class Program:
    """What a `CompiledModel` runs: a loaded executable, or (without engines) an FX module that the caller owns."""

    graph: Graph
    report: CompileReport
    engine_name: str = FX
    executable: Executable | None = None
    module: torch.fx.GraphModule | None = None
    convention: CallingConvention = field(init=False)
    _emitted: torch.fx.GraphModule | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.convention = CallingConvention(self.graph)

    def fx_module(self) -> torch.fx.GraphModule:
        """The FX module of the graph, emitted at the first use on an engine target."""
        if self.module is not None:
            return self.module
        if self._emitted is None:
            from graphopt.backends.fx import emit_fx

            self._emitted = emit_fx(self.graph)
        return self._emitted

    def current_graph(self) -> Graph:
        """The graph with the FX module's tensors as they are now, for a module that may have been trained."""
        if self.module is None:
            return self.graph
        graph = self.graph.clone()
        tensors: dict[str, torch.Tensor] = dict(self.module.named_parameters(remove_duplicate=False))
        tensors.update(self.module.named_buffers(remove_duplicate=False))
        for value in graph.constants.values():
            _refresh(value, tensors)
        return graph


def build_program(graph: Graph, options: CompileOptions, arguments: Arguments | None) -> Program:
    """Run the passes over `graph`, and emit and load it for the target."""
    seconds: dict[str, float] = {}
    samples = _samples(graph, arguments)
    if options.validate is not False:
        _refuse_nan(graph)
    manager = PassManager(
        resolve_passes(options.passes, options.target.name, options.trainable),
        validate=options.validate,
        on_failure=options.on_failure,
        budget=options.budget,
        instruments=options.instruments,
    )
    context = PassContext(
        target=options.target.name,
        trainable=options.trainable,
        samples=samples,
        calibration=options.calibration,
    )
    with _stage(seconds, "passes"):
        optimized, passes = manager.run(graph, context)
    report = CompileReport(options.target.name, passes, seconds=seconds)
    if not options.engines:
        with _stage(seconds, "emission"):
            return _fx_program(optimized, options, report)
    check = output_check(graph, samples[0]) if samples and options.validate is not False else None
    with _stage(seconds, "engines"):
        engines = [get_engine(name) for name in options.engines]
        choice = choose_engine(optimized, engines, samples[0] if samples else None, check)
    report.engines = choice.trials
    return Program(optimized, report, choice.engine.name, choice.executable)


def load_program(graph: Graph, options: CompileOptions, engine: str | None, facts: Mapping[str, Any]) -> Program:
    """Load an optimized graph without running passes; `engine` is the one that was chosen when it was saved."""
    report = CompileReport(options.target.name, Report(target=options.target.name))
    report.passes.notes.append(f"loaded; compiled by graphopt {facts['graphopt']} with torch {facts['torch']}")
    if not options.engines:
        return _fx_program(graph, options, report)
    names = [engine] if engine in options.engines else options.engines
    choice = choose_engine(graph, [get_engine(name) for name in names if name is not None], None, None)
    report.engines = choice.trials
    return Program(graph, report, choice.engine.name, choice.executable)


def _fx_program(graph: Graph, options: CompileOptions, report: CompileReport) -> Program:
    from graphopt.backends.fx import emit_fx

    module = emit_fx(graph, share_weights=options.share_weights)
    report.engines = [EngineTrial(FX, chosen=True)]
    return Program(graph, report, FX, module=module)


def _samples(graph: Graph, arguments: Arguments | None) -> list[list[Any]]:
    if arguments is None:
        return []
    # Copied, since a model may write to its inputs.
    flat = CallingConvention(graph).flatten(*arguments)
    return [[v.detach().clone() if isinstance(v, torch.Tensor) else v for v in flat]]


def _refuse_nan(graph: Graph) -> None:
    """A NaN weight makes every comparison of numbers meaningless."""
    for value in graph.constants.values():
        constant = value.constant
        if constant is None or constant.kind is ConstantKind.CONSTANT or not constant.tensor.is_floating_point():
            continue
        # The sum is NaN if an element is; it costs one pass and no temporary of the weight's size.
        if bool(constant.tensor.detach().sum().isnan()) and bool(constant.tensor.detach().isnan().any()):
            raise InputError(
                f"{constant.kind.value} {value.name!r} holds NaN, so no result can be checked; mend the weights, or "
                "pass validate=False to compile without checks"
            )


def _refresh(value: Value, tensors: Mapping[str, torch.Tensor]) -> None:
    constant = value.constant
    assert constant is not None and isinstance(value.type, TensorType)
    for name in constant.names or (value.name,):
        tensor = tensors.get(name)
        if tensor is not None and tuple(tensor.shape) == value.type.shape:
            detached = tensor.detach()
            value.constant = replace(constant, tensor=detached, version=detached._version)
            return


@contextmanager
def _stage(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


def program_facts(program: Program) -> dict[str, Any]:
    """Return what the saved form says of a program besides its graph."""
    return {"engine": program.engine_name, "report": program.report.to_dict()}
