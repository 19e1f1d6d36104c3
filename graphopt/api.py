"""The public functions: `compile`, `trace`, `load`."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any

import torch
from torch import nn

from graphopt.ambient import autocast_inside
from graphopt.compiled import CompiledModel
from graphopt.engine_choice import require_available
from graphopt.errors import CaptureError, GraphOptError, SerializationError, unknown_name
from graphopt.hub import is_hub, load_hub
from graphopt.ir import Graph
from graphopt.lazy import CaptureCache
from graphopt.onnx_models import SUFFIX, compile_onnx, is_onnx, trace_onnx
from graphopt.options import CompileOptions, OnError, OnFailure, Validate, check_arguments, check_dynamic, make_options
from graphopt.passmanager import Budget, Pass, Progress
from graphopt.passmanager.progress import stage
from graphopt.program import Program, build_program, load_program, saved_options
from graphopt.rewrite import Contract
from graphopt.serialization import load_graph
from graphopt.state import State, adopt_state, share_state
from graphopt.state_map import KeptByName, set_kept
from graphopt.targets import Target, require_devices

# torch.export keeps its tracing modes in globals of the process: two threads that trace at once break both.
_TRACING = threading.RLock()

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from graphopt.onnx_models import OnnxSource

    Model = nn.Module | Callable[..., Any] | ExportedProgram | OnnxSource


def trace(
    model: Model,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    trust: bool = False,
) -> Graph:
    """Trace a model into an IR graph. The model is left as it was; the graph shares its tensors.

    model: an `nn.Module`, an `fx.GraphModule`, a `torch.export.ExportedProgram`, a path to a `.pt2` file; or an ONNX
        model: a path to an `.onnx` file, its bytes, or an `onnx.ModelProto`.
    args, kwargs: example inputs, as `torch.export.export` takes them. An ONNX model needs only those whose contents
        decide shapes.
    dynamic_shapes: what torch.export takes, or one word: `"batch"` (the first dim of every input is one dynamic
        dim) or `"auto"` (every dim is dynamic unless the model fixes it).
    trust: read a `.pt2` file even where PyTorch's loader would unpickle.

    Raises:
        CaptureError: what cannot be captured, with the source line and the remedy.

    >>> import torch
    >>> print(trace(torch.nn.ReLU(), (torch.ones(2, 3),), dynamic_shapes="batch").outputs[0].type)
    f32[batch, 3]
    """
    from graphopt.frontends import capture

    check_arguments(args, kwargs)
    check_dynamic(dynamic_shapes)
    if is_onnx(model):
        return trace_onnx(model, args, kwargs or {}, dynamic_shapes)
    kept: KeptByName = {}
    if isinstance(model, CompiledModel):
        kept = model.kept_slices()
        model = model.module
    if isinstance(model, type):
        raise CaptureError(f"{model.__name__} is a class; make a model of it first: {model.__name__}(...)")
    with _TRACING, autocast_inside(model) as traced:
        graph = capture(traced, tuple(args), dict(kwargs or {}), dynamic_shapes=dynamic_shapes, trust=trust)
    set_kept(graph, kept)
    return graph


def compile(
    model: Model,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    target: str | Target = "cpu",
    passes: str | Sequence[Pass] = "default",
    dynamic_shapes: Any = None,
    engines: Sequence[str] | None = None,
    trainable: bool | None = None,
    validate: Validate = "each",
    on_failure: OnFailure = "rollback",
    on_error: OnError = None,
    budget: float | Budget | None = None,
    calibration: Iterable[Any] | None = None,
    opset: int | None = None,
    share_weights: bool = False,
    instruments: Iterable[Any] = (),
    progress: bool = False,
    reproducers: str | os.PathLike[str] | None = None,
    trust: bool = False,
    simulate: bool = False,
    **unknown: Any,
) -> CompiledModel:
    """Compile a model: trace it, run passes over the graph with every rewrite checked, and emit it for a target.

    model: an `nn.Module`, an `fx.GraphModule`, a `torch.export.ExportedProgram`, a path to a `.pt2` file; or an ONNX
        model: a path to an `.onnx` file, its bytes, or an `onnx.ModelProto`. It is not changed.
    args, kwargs: example inputs, as `torch.export.export` takes them. Without them a module is captured at its
        first call, and again for each new kind of arguments. An ONNX model takes tensors in the file's order or by
        their names there, and needs no examples: they are made up. Where the contents of an input decide shapes,
        it is captured for those in the examples, else at the first call, and again for other contents.
    target: `"cpu"` measures the engines at hand and takes the fastest; `"fx"` gives a trainable FX module; `"onnx"`
        and `"onnxruntime"` an ONNX graph; `"cuda"`, `"cuda:1"` or `"cpu+cuda"` name devices, `"auto"` takes a GPU
        where there is one; a path of a `.toml` file is a target, too; `graphopt passes --targets` lists all.
    passes: `"default"` (lossless), the name of another pipeline, pipeline text, or a list of passes.
    dynamic_shapes: see `trace`.
    engines: the candidates for `target="cpu"`, in place of all that are installed.
    trainable: whether the result is to be trained (default: what the target says).
    validate: `"each"` checks the numbers after each pass, `"end"` once, `False` never.
    on_failure: `"rollback"` undoes a pass that raises or breaks its promise, warns, and goes on; `"raise"` raises.
    on_error: `"bisect"` explains a failing pass in full: the rule application, the node, the model's source line, and
        a reproducer shrunk to a few nodes, which `graphopt opt FILE` runs again. `"locate"` (the default, unless
        `GRAPHOPT_ON_ERROR` says otherwise) does so without the reproducer, `"no"` not at all.
    budget: the largest relative error that lossy passes may add up to; naming lossy passes without one is consent.
    calibration: an iterable of inputs for passes that need data.
    opset: the ONNX opset to emit: by default that of the ONNX model (or the one that it needs), else 20.
    share_weights: let the FX module or engine use the model's own tensors in place of copying them once; they must
        not change then.
    instruments: `graphopt.passmanager` instruments, such as timing or printing.
    progress: show progress bars for capture, passes, validation, calibration and engines on standard error.
    reproducers: a folder for a file for each pass that fails; `graphopt opt FILE` runs it again. By default none is
        written, but for `on_error="bisect"`, which writes to `graphopt-reproducers`.
    trust: read a `.pt2` file even where PyTorch's loader would unpickle.
    simulate: let the CPU stand for devices of the target that this machine lacks; without it they are an error.

    Returns:
        A `CompiledModel`: an `nn.Module` with the original's calling convention.

    Raises:
        UnknownNameError: an unknown target, pass, engine or option; the message suggests near names.
        CaptureError, ParseError, PassError, ValidationError, EmissionError, TargetError: see each.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU())
    >>> x = torch.randn(2, 4)
    >>> fast = compile(model, (x,), target="fx")
    >>> torch.allclose(fast(x), model(x))
    True
    """
    if unknown:
        known = [name for name in inspect.signature(compile).parameters if name != "unknown"]
        raise unknown_name("option", next(iter(unknown)), known, "It was given to graphopt.compile.")
    options = make_options(
        target,
        trainable,
        engines,
        passes=passes,
        dynamic_shapes=dynamic_shapes,
        validate=validate,
        on_failure=on_failure,
        on_error=on_error,
        budget=budget,
        calibration=calibration,
        opset=opset,
        share_weights=share_weights,
        instruments=(*instruments, Progress()) if progress else instruments,
        reproducers=reproducers,
        trust=trust,
        simulate=simulate,
    )
    if not options.simulate:
        require_devices(options.target)
    require_available(options.target.name, options.engines)
    check_arguments(args, kwargs)
    if is_onnx(model):
        return compile_onnx(model, args, kwargs, options)
    if args is None and kwargs is None and isinstance(model, nn.Module):
        return _compile_lazily(model, options)
    return CompiledModel(options, _build(model, tuple(args or ()), dict(kwargs or {}), options, dynamic_shapes))


def load(
    source: str | os.PathLike[str] | IO[bytes], *, target: str | Target | None = None, trust: bool = False
) -> CompiledModel:
    """Load a saved model. Nothing is unpickled, and no engine is measured again.

    source: its file; or `hub:PATH:entry`, a model of a PyTorch Hub repository that is local or cached. That is compiled
        at once if its entry brings example inputs, else at its first call.
    target: load it for another target than the one it was saved for.
    trust: run the code of a hub repository.

    Raises:
        SerializationError: not a saved model, damaged, or of an incompatible version.
        GraphOptError: a hub repository that is not trusted, or has no such entry.
        TargetError: no engine of the target runs on this machine.
    """
    if isinstance(source, str) and is_hub(source):
        found = load_hub(source, trust=trust)
        arguments = found if isinstance(found, tuple) else (found,)
        return compile(*arguments, target=target or "cpu")
    if isinstance(source, str | os.PathLike) and os.fspath(source).endswith(SUFFIX):
        raise SerializationError(f"{os.fspath(source)} is an ONNX file; give it to graphopt.compile")
    graph, manifest = load_graph(source)
    options = saved_options(manifest) if target is None else make_options(target, opset=manifest.get("opset"))
    require_available(options.target.name, options.engines)
    return CompiledModel(options, load_program(graph, options, manifest.get("engine"), manifest))


def _build(
    model: Model,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: CompileOptions,
    dynamic_shapes: Any,
    state: State | None = None,
) -> Program:
    """state: of a model that is captured more than once, the tensors that all its programs share."""
    if isinstance(model, str | os.PathLike):
        from graphopt.frontends import load_archive

        model = load_archive(model, trust=options.trust)
    if not (args or kwargs):
        args, kwargs = _example_inputs(model)
    # An engine carries no gradients, so the model is captured as it runs without them.
    with torch.no_grad() if options.engines else nullcontext(), stage(options.instruments, "capture"):
        graph = trace(model, args, kwargs, dynamic_shapes=dynamic_shapes, trust=options.trust)
    given = (args, kwargs) if args or kwargs or not graph.inputs else None
    if state is None:
        program = build_program(graph, options, given)
    else:
        adopt_state(graph, state.tensors())
        program = build_program(graph, replace(options, share_weights=True), given)
        assert program.module is not None
        share_state(program.module, state)
    program.report.model = getattr(model, "__name__", type(model).__name__)
    return program


def _example_inputs(model: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The example inputs that an exported program brings along, if it does."""
    found = None if isinstance(model, nn.Module) else getattr(model, "example_inputs", None)
    return found or ((), {})


def _compile_lazily(model: nn.Module, options: CompileOptions) -> CompiledModel:
    trains = not options.engines
    lossy = [p.name for p in options.passes.leaves() if p.contract is Contract.LOSSY]
    if trains and lossy:
        raise GraphOptError(
            f"{lossy[0]} changes weights, which all captures of a model that trains share; give args to compile"
        )
    state = State(model, share=options.share_weights) if trains else None

    def build(args: tuple[Any, ...], kwargs: dict[str, Any], dynamic_shapes: Any) -> Program:
        return _build(model, args, kwargs, options, dynamic_shapes, state)

    return CompiledModel(options, None, CaptureCache(build, trains, options.dynamic_shapes), state)
