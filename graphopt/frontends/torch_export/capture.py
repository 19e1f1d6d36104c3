"""The entry point of the PyTorch front end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.export import ExportedProgram

from graphopt.errors import CaptureError, GraphOptError
from graphopt.frontends.torch_export.archive import load_archive
from graphopt.frontends.torch_export.calls import named_arguments, with_parameters
from graphopt.frontends.torch_export.dynamic import Shapes, resolve
from graphopt.frontends.torch_export.failures import explain
from graphopt.frontends.torch_export.preserve import preserved, silent
from graphopt.frontends.torch_export.program import import_program
from graphopt.frontends.torch_export.training import modes_of, traced_in_eval
from graphopt.ir import Graph

_NEEDS_NO_GRAD = (
    "is a view and is being modified inplace",
    "a leaf Variable that requires grad",
    "Inference tensors cannot be saved for backward",
)

Model = torch.nn.Module | ExportedProgram | Callable[..., Any] | str | os.PathLike[str]


def capture(
    model: Model,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    trust: bool = False,
) -> Graph:
    """Trace a PyTorch model into a graph.

    The graph is functional: in-place operators and views are resolved into values, and what the model does to its
    buffers or inputs is in `graph.updates`. The model is left as it was, and the graph shares its tensors.

    Args:
        model: a module (or `fx.GraphModule`), a function of tensors, an `ExportedProgram`, or a `.pt2` file's path.
        args, kwargs: example inputs, as the model is called. Not used for exported programs and files.
        dynamic_shapes: what `torch.export.export` takes, or `"batch"` (the first dim of the inputs varies), or
            `"auto"` (any dim that can vary does). None: all sizes are fixed.
        trust: load a `.pt2` file even if that can run code that it brings along.

    Raises:
        CaptureError: the model cannot be traced; says where, why, and what to do.

    >>> graph = capture(torch.nn.Linear(4, 2).eval(), (torch.ones(3, 4),), dynamic_shapes="batch")
    >>> graph.inputs[0].type
    f32[batch, 4]
    """
    if isinstance(model, str | os.PathLike):
        model = load_archive(model, trust=trust)
    if isinstance(model, ExportedProgram):
        return _imported(model, "the exported program")
    module = _as_module(model)
    name = type(module).__name__
    kwargs = dict(kwargs or {})
    if not isinstance(args, tuple):
        raise CaptureError(
            f"args has type {type(args).__name__}; pass the example inputs as a tuple, for example args=(x,)"
        )
    named_arguments(module, args, kwargs)
    shapes = _explained(lambda: resolve(module, args, kwargs, dynamic_shapes), name)
    modes = modes_of(module)
    with traced_in_eval(module):
        program = _explained(lambda: _exported(module, shapes), name)
    tensors = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    symbol_names, exact = shapes.names(program)
    graph = _imported(
        program,
        name,
        modes=modes,
        symbol_names=symbol_names,
        exact=exact,
        tensors=tensors,
        aliases=_all_names(tensors),
    )
    graph.signature = with_parameters(graph.signature, module)
    return graph


def _as_module(model: Any) -> torch.nn.Module:
    if isinstance(model, torch.jit.ScriptModule | torch.jit.ScriptFunction):
        raise CaptureError(
            "a TorchScript model cannot be captured; pass the nn.Module that it was made from, or export it to ONNX"
        )
    original = getattr(model, "_orig_mod", None)
    if isinstance(original, torch.nn.Module):
        return original
    if isinstance(model, torch.nn.Module):
        return model
    if callable(model):
        return _Function(model)
    raise CaptureError(
        f"cannot capture an object of type {type(model).__name__}; pass an nn.Module, a function, an ExportedProgram, "
        "the path of a .pt2 or .onnx file, or an ONNX model (a ModelProto, or its bytes)"
    )


class _Function(torch.nn.Module):
    """A function of tensors as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.forward = function
        self.eval()


def _exported(module: torch.nn.Module, shapes: Shapes) -> ExportedProgram:
    gradients = torch.is_grad_enabled()
    try:
        return _export(module, shapes, gradients)
    except RuntimeError as error:
        if not (gradients and any(text in str(error) for text in _NEEDS_NO_GRAD)):
            raise
    return _export(module, shapes, False)


def _export(module: torch.nn.Module, shapes: Shapes, gradients: bool) -> ExportedProgram:
    with (
        torch.inference_mode(False),
        torch.set_grad_enabled(gradients),
        preserved(module),
        silent(),
        _traced_lines(module),
    ):
        return torch.export.export(module, shapes.args, shapes.kwargs, dynamic_shapes=shapes.spec, strict=False)


@contextmanager
def _traced_lines(module: torch.nn.Module) -> Iterator[None]:
    """Let a plain function's own lines appear in the trace: PyTorch records those of functions called `forward`."""
    anchors = getattr(torch.fx.proxy, "_STACK_TRACE_ANCHORS", None)
    code = getattr(module.forward, "__code__", None)
    if not isinstance(module, _Function) or code is None or anchors is None:
        yield
        return
    anchor = (code.co_filename, code.co_name)
    anchors.add(anchor)
    try:
        yield
    finally:
        anchors.discard(anchor)


def _explained(action: Callable[[], Any], name: str) -> Any:
    try:
        return action()
    except GraphOptError:
        raise
    except Exception as error:
        raise explain(error, name) from error


def _imported(program: ExportedProgram, name: str, **options: Any) -> Graph:
    try:
        return import_program(program, **options)
    except GraphOptError:
        raise
    except Exception as error:
        raise CaptureError(
            f"cannot import {name}: {type(error).__name__}: {error}; this is a gap of the front end, please report it"
        ) from error


def _all_names(tensors: Mapping[str, torch.Tensor]) -> dict[int, tuple[str, ...]]:
    names: dict[int, tuple[str, ...]] = {}
    for name, tensor in tensors.items():
        names[id(tensor)] = (*names.get(id(tensor), ()), name)
    return names
