"""A program: one captured graph, optimized, checked, emitted and loaded."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from graphopt.ambient import without_autocast
from graphopt.analysis import bind_sizes
from graphopt.calling import Arguments, CallingConvention
from graphopt.device_targets import device_engine, uses_devices
from graphopt.engine_choice import (
    AtFirstRun,
    EngineChoice,
    EngineTrial,
    Plan,
    Prepare,
    Sample,
    choose_engine,
    load_plan,
)
from graphopt.errors import GraphOptError, GraphOptWarning, InputError, SerializationError
from graphopt.html_report import skeleton
from graphopt.ir import ConstantKind, Graph, TensorType
from graphopt.next_step import next_step
from graphopt.options import CompileOptions, make_options
from graphopt.passmanager import Outcome, PassContext, PassManager, Report
from graphopt.passmanager.explanation import Finding
from graphopt.passmanager.progress import stage
from graphopt.passmanager.samples import synthesize, variations
from graphopt.report import CompileReport
from graphopt.rewrite import Contract
from graphopt.state import Watch, named_tensors, stale_names, with_tensor
from graphopt.targets import Engine, Executable
from graphopt.targets.registry import get_engine
from graphopt.validation import output_check

if TYPE_CHECKING:
    from graphopt.frontends.onnx.tensors import Folder

FX = "fx"
ONNX = "onnx"
INNER = ("graphopt", "torch", "contextlib")
"""Whose frames a warning is not about."""


@dataclass
class Program:
    """What a `CompiledModel` runs: a loaded executable, or (without engines) an FX module that the caller owns.

    source: notices changes of the model that the engine's weights were taken from. samples: the inputs that it was
    checked on, flat, where these were made up or kept for a later check. folder: of an ONNX file, with the data that
    its tensors are mapped from. plan: which engines run which nodes. simulate: the CPU stands for devices.
    """

    graph: Graph
    report: CompileReport
    engine_name: str = FX
    executable: Executable | None = None
    module: torch.fx.GraphModule | None = None
    source: Watch | None = None
    samples: Sequence[Any] | None = None
    folder: Folder | None = None
    plan: Plan | None = None
    simulate: bool = False
    convention: CallingConvention = field(init=False)
    _emitted: torch.fx.GraphModule | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.convention = CallingConvention(self.graph)

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, check: bool = True) -> Any:
        """Run on the caller's arguments.

        Raises:
            InputError: arguments that don't fit what was captured.
        """
        flat = self.convention.flatten(args, kwargs, check=check)
        if self.executable is not None:
            return self.convention.unflatten(_run(self.executable, flat))
        assert self.module is not None
        args, kwargs = self.convention.arguments(flat)
        return self.module(*args, **kwargs)

    def run(self, flat: list[Any]) -> list[Any]:
        """Run on flat inputs in graph order, without gradients; return the flat outputs."""
        if self.executable is not None:
            return _run(self.executable, flat)
        assert self.module is not None
        args, kwargs = self.convention.arguments(flat)
        with torch.no_grad():
            return self.convention.outputs(self.module(*args, **kwargs))

    def fx_module(self) -> torch.fx.GraphModule:
        """The FX module of the graph, emitted at the first use on an engine target."""
        if self.module is not None:
            return self.module
        if self._emitted is None:
            from graphopt.backends.fx import emit_fx

            self._emitted = emit_fx(self.graph)
        return self._emitted

    def release(self) -> None:
        """Give back the memory of pages that tensors are mapped from; they are read again where they are used."""
        if self.folder is not None:
            self.folder.release()

    def current_graph(self) -> Graph:
        """The graph, with the FX module's tensors as they are now: the module may have been trained.

        Raises:
            GraphOptError: on an engine, if the original's weights were changed in place: they are no longer those
                that the engine holds.
        """
        if self.module is not None:
            _refresh(self.graph, self.module)
            return self.graph
        stale = stale_names(self.graph)
        if stale:
            raise GraphOptError(
                f"{', '.join(stale[:3])}{' and others' if len(stale) > 3 else ''} of the original model changed since "
                "it was compiled, so the graph no longer describes what the engine runs; compile it again"
            )
        return self.graph


def build_program(graph: Graph, options: CompileOptions, arguments: Arguments | None, *, load: bool = True) -> Program:
    """Run the passes over `graph`, and emit and load it for the target. PyTorch's random state is left as it was.

    load: otherwise the program is to be written, and never run.
    """
    with torch.random.fork_rng(devices=_devices(graph)), without_autocast():
        return _build(graph, options, arguments, load)


def _callers_level() -> int:
    """The `stacklevel` of a warning that points at the line that asked to compile, or called a lazy model."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in INNER:
        frame, level = frame.f_back, level + 1
    return level


def _build(graph: Graph, options: CompileOptions, arguments: Arguments | None, load: bool) -> Program:
    seconds: dict[str, float] = {}
    context, source = pass_context(graph, options, arguments), Watch(graph)
    if options.validate is not False:
        _refuse_nan(graph)
    manager = PassManager(
        options.passes,
        validate=options.validate,
        on_failure=options.on_failure,
        on_error=options.on_error,
        budget=options.budget,
        instruments=options.instruments,
        reproducers=options.reproducers,
    )
    with _stage(seconds, "passes"):
        optimized, passes = _optimize(manager, graph, context)
    for record in passes.rolled_back:
        reason = f"{record.reason}{_next_step(record.finding)}"
        warnings.warn(f"pass {record.text!r} was rolled back: {reason}", GraphOptWarning, stacklevel=_callers_level())
    report = CompileReport(options.target.name, passes, seconds=seconds, before=skeleton(graph))
    if not load:
        report.after = optimized
        return Program(optimized, report, source=source)
    if not options.engines:
        with _stage(seconds, "emission"):
            return _fx_program(optimized, options, report)
    if options.target.name == ONNX and options.validate is False and not context.samples:
        return _written_first(optimized, options, report, source)
    with _stage(seconds, "engines"), stage(options.instruments, "engines"):
        engines = _engines(options)
        # What a lossy pass changed on purpose is no fault of an engine.
        asked = optimized if any(r.promise == Contract.LOSSY.label for r in passes.kept) else graph
        choice = _choose(optimized, engines, asked, context.samples, options)
    report.engines, report.after, report.engine = choice.trials, choice.graph, choice.name
    passes.notes += choice.notes
    found = Program(choice.graph, report, choice.name, choice.executable, source=source, plan=choice.plan)
    found.simulate = options.simulate
    return found


def _choose(
    graph: Graph,
    engines: Sequence[Engine],
    asked: Graph,
    samples: Sequence[Sequence[Any]],
    options: CompileOptions,
) -> EngineChoice:
    """asked: the graph that engines are held to. Checks are made only where no choice was kept."""
    made = list(samples[0]) if samples else synthesize(asked)
    if made is None:
        return choose_engine(graph, engines, (), _preparation(options))
    checked = [(made, None)] if options.validate is False else partial(_engine_samples, asked, made)
    return choose_engine(graph, engines, checked, _preparation(options), inputs=made)


def _written_first(graph: Graph, options: CompileOptions, report: CompileReport, source: Watch) -> Program:
    """A program of which a file is wanted rather than a call: its engine, which may hold the weights once more, is
    loaded at the first call."""
    (name,) = options.engines
    report.after, report.engine = graph, name
    engine = _engine(name, options.share_weights)
    return Program(graph, report, name, AtFirstRun(partial(choose_engine, graph, [engine])), source=source)


def _engines(options: CompileOptions) -> list[Engine]:
    """The candidates; devices have an engine of their own."""
    if uses_devices(options.target):
        return [device_engine(options)]
    return [_engine(name, options.share_weights) for name in options.engines]


def _engine(name: str, share_weights: bool) -> Engine:
    engine = get_engine(name)
    return get_engine(name, share_weights=True) if share_weights and hasattr(engine, "share_weights") else engine


def pass_context(graph: Graph, options: CompileOptions, arguments: Arguments | None) -> PassContext:
    """The surroundings of the passes: what they are compiled for, and the caller's inputs as samples."""
    return PassContext(
        target=options.target.name,
        trainable=options.trainable,
        samples=_samples(graph, arguments),
        calibration=options.calibration,
        engine=_judge(options),
        features=options.target.devices[0].features if options.target.devices else (),
        capabilities=options.target.capabilities,
    )


def _optimize(manager: PassManager, graph: Graph, context: PassContext) -> Outcome:
    """Run the passes; the error of one that failed says what to do next."""
    try:
        return manager.run(graph, context)
    except GraphOptError as error:
        if error.finding is None:
            raise
        told = type(error)(f"{error}{_next_step(error.finding)}")
        told.finding = error.finding
        raise told from error.__cause__


def _next_step(finding: Finding | None) -> str:
    """What to run next, unless the message ends with it already."""
    return "" if finding is None or finding.command else f"\n  {next_step()}"


def _preparation(options: CompileOptions) -> Prepare | None:
    """With several candidates, each gets the graph in the form that is fast for it, if the passes legalize at all."""
    from graphopt.passes.legalize import Legalize

    if len(options.engines) < 2 or not any(isinstance(p, Legalize) for p in options.passes.leaves()):
        return None
    return lambda engine, graph: Legalize(target=engine)(graph)


def load_program(graph: Graph, options: CompileOptions, engine: str | None, facts: Mapping[str, Any]) -> Program:
    """Load an optimized graph without running passes; `engine`, the one that was chosen, is tried first."""
    report = CompileReport(options.target.name, Report(target=options.target.name), compiled=facts.get("report"))
    report.passes.notes.append(f"loaded; compiled by graphopt {facts['graphopt']} with torch {facts['torch']}")
    if not options.engines:
        return _fx_program(graph, options, report)
    planned = _planned(graph, options, facts.get("plan"), report)
    if planned is not None:
        return planned
    engines = sorted(_engines(options), key=lambda candidate: candidate.name != engine)
    choice = choose_engine(graph, engines)
    report.engines, report.after, report.engine = choice.trials, graph, choice.name
    return Program(graph, report, choice.name, choice.executable, plan=choice.plan, simulate=options.simulate)


def _planned(graph: Graph, options: CompileOptions, given: Any, report: CompileReport) -> Program | None:
    """Load what the plan that was saved says, unless its engines are not at hand here."""
    if given is None:
        return None
    from graphopt.passes.legalize import Legalize

    plan = Plan.from_json(given)
    if not {share.engine for share in plan.shares} <= set(options.engines):
        return None
    prepare: Prepare | None = None
    if len(plan.shares) > 1:  # the graph is saved as it was before each part got the form that suits its engine
        prepare = lambda engine, part: Legalize(target=engine)(part)  # noqa: E731
    try:
        executable, form = load_plan(plan, graph, prepare=prepare)
    except GraphOptError as error:
        report.passes.notes.append(f"the engines that were chosen do not load here: {error}")
        return None
    report.engines = [EngineTrial(plan.name, settings=plan.settings, chosen=True)]
    report.after, report.engine = form, plan.name
    return Program(form, report, plan.name, executable, plan=plan)


def saved_options(manifest: Mapping[str, Any]) -> CompileOptions:
    """Return the options that a saved model was compiled with, as far as they matter for running it.

    Raises:
        SerializationError: a graph that was saved without a target.
        UnknownNameError: its target is not installed here.
    """
    if "target" not in manifest:
        raise SerializationError("the file holds a graph alone; give graphopt.load a target")
    simulate = manifest.get("simulate", False)
    return make_options(manifest["target"], manifest["trainable"], opset=manifest["opset"], simulate=simulate)


def program_facts(program: Program) -> dict[str, Any]:
    """Return what the saved form says of a program besides its graph."""
    facts: dict[str, Any] = {"engine": program.engine_name, "simulate": program.simulate}
    facts |= {"report": program.report.compiled or program.report.to_dict()}
    return facts if program.plan is None else {**facts, "plan": program.plan.to_json()}


def _fx_program(graph: Graph, options: CompileOptions, report: CompileReport) -> Program:
    from graphopt.backends.fx import emit_fx

    report.after, report.engine = graph, FX
    module = emit_fx(graph, share_weights=options.share_weights, integers=not options.trainable)
    return Program(graph, report, FX, module=module)


def _devices(graph: Graph) -> list[str]:
    types = [value.type for value in (*graph.inputs, *graph.constants.values())]
    return sorted({t.device for t in types if isinstance(t, TensorType) and t.device.startswith("cuda")})


def _judge(options: CompileOptions) -> Engine | None:
    """The engine on which passes measure whether they pay: the first candidate that runs here."""
    return next((e for e in map(get_engine, options.engines) if e.missing() is None), None)


def _samples(graph: Graph, arguments: Arguments | None) -> list[list[Any]]:
    if arguments is None:
        return []
    # Copied, since a model may write to its inputs.
    flat = CallingConvention(graph).flatten(*arguments)
    return [[v.detach().clone() if isinstance(v, torch.Tensor) else v for v in flat]]


def _engine_samples(graph: Graph, inputs: list[Any]) -> list[Sample]:
    """What engines are checked and timed on: the caller's inputs, or made-up ones, and the same at other sizes."""
    return [(inputs, output_check(graph, inputs)), *_at_other_sizes(graph, inputs)]


def _at_other_sizes(graph: Graph, inputs: list[Any]) -> list[Sample]:
    """The first variation of the inputs at other sizes that the original graph runs on, if it has dynamic dims."""
    for varied, sizes in variations(graph, inputs) if graph.symbols() else ():
        if sizes != bind_sizes(graph.inputs, inputs):
            try:
                return [(varied, output_check(graph, varied))]
            except GraphOptError:  # sizes that the model does not take
                continue
    return []


def _refuse_nan(graph: Graph) -> None:
    """A NaN weight makes every comparison of numbers meaningless."""
    for value in graph.constants.values():
        constant = value.constant
        if constant is None or constant.kind is ConstantKind.CONSTANT:
            continue
        if _holds_nan(constant.tensor.detach()):
            raise InputError(
                f"{constant.kind.value} {value.name!r} holds NaN, so no result can be checked; mend the weights, or "
                "give graphopt.compile validate=False to go without checks"
            )


def _holds_nan(tensor: torch.Tensor) -> bool:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return False
    if tensor.element_size() == 1:
        tensor = tensor.float()  # eight-bit floats have no sum
    # The sum is NaN if an element is; it costs one pass and no temporary of the weight's size.
    return bool(tensor.sum().isnan()) and bool(tensor.isnan().any())


def _refresh(graph: Graph, module: torch.fx.GraphModule) -> None:
    tensors, names = named_tensors(module), module.meta["names"]
    for value in graph.constants.values():
        constant = value.constant
        assert constant is not None
        name = constant.names[0] if constant.names else value.name
        if name not in names:  # integer kernels took its place
            continue
        value.constant = with_tensor(value, constant, tensors[names[name]])


@contextmanager
def _stage(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


def _run(executable: Executable, flat: list[Any]) -> list[Any]:
    """Run as the graph says: its casts are explicit, so the caller's autocast has no say."""
    if not torch._C._is_any_autocast_enabled():
        return executable.run(flat)
    with without_autocast():
        return executable.run(flat)
