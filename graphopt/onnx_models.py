"""ONNX files as models: compiled like a module, with the tensors' names in the file as the names of arguments."""

from __future__ import annotations

import os
import sys
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import torch

from graphopt.calling import Arguments
from graphopt.compiled import CompiledModel
from graphopt.errors import GraphOptError, InputError, TargetError
from graphopt.input_checks import make_check
from graphopt.ir import Graph
from graphopt.lazy import CaptureCache
from graphopt.options import CompileOptions
from graphopt.passmanager.made_up import make_inputs
from graphopt.passmanager.progress import stage
from graphopt.program import Program, build_program
from graphopt.rewrite import Contract
from graphopt.state import State, adopt_state, share_state

if TYPE_CHECKING:
    import onnx

    from graphopt.frontends.onnx import OnnxFile

    OnnxSource = str | os.PathLike[str] | bytes | onnx.ModelProto

SUFFIX = ".onnx"
MADE_UP = (
    "numbers were validated on made-up inputs: standard normal numbers, and integers below the length of what they "
    "index, else 0 and 1; give args for real ones"
)


def is_onnx(model: object) -> TypeGuard[OnnxSource]:
    """True for what is read as an ONNX model: a path that ends in `.onnx`, bytes, or a `ModelProto`."""
    if isinstance(model, str | os.PathLike):
        return os.fspath(model).endswith(SUFFIX)
    onnx = sys.modules.get("onnx")
    return isinstance(model, bytes) or (onnx is not None and isinstance(model, onnx.ModelProto))


def trace_onnx(source: OnnxSource, args: Sequence[Any], kwargs: Mapping[str, Any], dynamic_shapes: Any) -> Graph:
    """Return the graph of an ONNX model.

    args, kwargs: inputs in the file's order, or by name. Only those that decide shapes are needed.

    Raises:
        CaptureError: the model cannot be read; an input that decides shapes is missing.
        InputError: there is no such input.
    """
    from graphopt.frontends.onnx import read_given

    _refuse_dynamic(dynamic_shapes)
    file = _opened(source)
    return read_given(file, _by_name(file, args, kwargs))


def compile_onnx(
    source: OnnxSource,
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
    options: CompileOptions,
    *,
    load: bool = True,
) -> CompiledModel:
    """Compile an ONNX model. One with inputs whose contents decide shapes is captured for the contents that they have
    in a call, at the first such call; with example inputs, for theirs at once.

    Engines use the tensors of the file where they are: nothing else knows them.

    load: otherwise the model is to be written, and never run; inputs that decide shapes must be given.

    Raises:
        CaptureError: the model cannot be read.
        InputError: there is no such input.
    """
    from graphopt.frontends.onnx import MissingValue

    _refuse_dynamic(options.dynamic_shapes)
    if options.engines:
        options = replace(options, share_weights=True)
    title = _title(source)
    model = _OnnxModel(_opened(source), title, options)
    given = _by_name(model.file, args or (), kwargs or {})
    try:
        graph = model.read(given)
    except MissingValue:
        if given or not load:
            raise
        captures, state = model.captures()
        return CompiledModel(options, None, captures, state)
    if not model.deciding or not load:
        folder = model.file.folder
        del model  # and the whole file with it
        program = _program(graph, options, given, title, load=load)
        program.folder = folder
        return CompiledModel(options, program)
    captures, state = model.captures()
    program = model.program(graph, given)
    captures.add(program)
    return CompiledModel(options, program, captures, state)


class _OnnxModel:
    """A model that may be captured several times: for each contents of the inputs that decide shapes.

    deciding: those inputs, as far as captures have told. state: the tensors that all captures share, if they train.
    """

    def __init__(self, file: OnnxFile, title: str, options: CompileOptions) -> None:
        self.file = file
        self.title = title
        self.options = options
        self.state: State | None = None
        self.deciding: tuple[str, ...] = ()

    def read(self, given: Mapping[str, Any]) -> Graph:
        """Capture a graph for inputs like those given."""
        from graphopt.frontends.onnx import read_given

        native = "onnxruntime" in self.options.target.engines
        with stage(self.options.instruments, "capture"):
            graph = read_given(self.file, given, native)
        assert graph.signature is not None
        names = [graph.inputs[fixed.index].name for fixed in graph.signature.fixed]
        self.deciding = tuple(dict.fromkeys([*self.deciding, *names]))
        return graph

    def program(self, graph: Graph, given: Mapping[str, Any]) -> Program:
        """Compile a graph."""
        if self.state is None:
            return _program(graph, self.options, given, self.title)
        adopt_state(graph, self.state.tensors())
        program = _program(graph, replace(self.options, share_weights=True), given, self.title)
        assert program.module is not None
        share_state(program.module, self.state)
        return program

    def captures(self) -> tuple[CaptureCache, State | None]:
        """What captures the model at a call.

        Raises:
            GraphOptError: a lossy pass, and captures that would share what it changes.
        """
        trains = not self.options.engines
        lossy = [p.name for p in self.options.passes.leaves() if p.contract is Contract.LOSSY]
        if trains and lossy:
            raise GraphOptError(
                f"{lossy[0]} changes weights, which all captures of a model that trains share, and this one is "
                f"captured for each contents of {', '.join(self.deciding) or 'inputs that decide shapes'}"
            )
        if trains:
            self.state = _stored(self.file, share=self.options.share_weights)
        return CaptureCache(self._build, trains, contents=self._contents), self.state

    def _build(self, args: tuple[Any, ...], kwargs: dict[str, Any], _: Any) -> Program:
        given = _by_name(self.file, args, kwargs)
        return self.program(self.read(given), given)

    def _contents(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable:
        given = _by_name(self.file, args, kwargs)
        values = [given.get(name) for name in self.deciding]
        return tuple([repr(v.tolist()) if isinstance(v, torch.Tensor) else None for v in values])


def _program(
    graph: Graph, options: CompileOptions, given: Mapping[str, Any], title: str, *, load: bool = True
) -> Program:
    """Compile a graph. The inputs given are samples; those that are missing are made up, if any are looked at."""
    for value in graph.inputs:
        if value.name in given:
            make_check(value)(given[value.name])
    missing = [value.name for value in graph.inputs if value.name not in given]
    needed = options.validate is not False or len(options.engines) > 1
    made = make_inputs(graph, given) if missing and needed else None
    samples = made if missing else [given[value.name] for value in graph.inputs]
    arguments: Arguments | None = None if samples is None else (tuple(samples), {})
    program = build_program(graph, options, arguments, load=load)
    program.report.model, program.samples = title, samples
    if made is not None:
        program.report.passes.notes.append(MADE_UP)
    return program


def _stored(file: OnnxFile, *, share: bool) -> State:
    """The initializers of a model as parameters and buffers."""
    from graphopt.backends.fx import emit_fx
    from graphopt.frontends.onnx import stored_tensors

    module = emit_fx(stored_tensors(file), share_weights=share)
    return State(module, share=True, names=module.meta["names"])


def _opened(source: OnnxSource) -> OnnxFile:
    if find_spec("onnx") is None:
        raise TargetError("reading ONNX models needs onnx; run `pip install graphopt[onnx]`")
    from graphopt.frontends.onnx import open_onnx

    return open_onnx(source)


def _title(source: OnnxSource) -> str:
    if isinstance(source, str | os.PathLike):
        return Path(source).name
    return "ONNX model"


def _refuse_dynamic(dynamic_shapes: Any) -> None:
    if dynamic_shapes is not None:
        raise GraphOptError(
            "an ONNX model says itself which dims are dynamic, and keeps their names; leave dynamic_shapes out"
        )


def _by_name(file: OnnxFile, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    names = file.inputs
    if len(args) > len(names):
        raise InputError(f"the model takes {len(names)} inputs ({', '.join(names)}), got {len(args)}")
    given = dict(zip(names, args))
    for name, value in kwargs.items():
        if name not in names:
            raise InputError(f"the model has no input {name!r}; its inputs are {', '.join(names)}")
        if name in given:
            raise InputError(f"input {name!r} is given twice, by position and by name")
        given[name] = value
    return given
