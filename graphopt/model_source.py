"""Models named on the command line: files, and `package.module:function` for models built by Python code."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from graphopt.errors import GraphOptError, unknown_name
from graphopt.hub import hub_inputs, is_hub, load_hub
from graphopt.onnx_models import SUFFIX, trace_onnx
from graphopt.onnx_values import parse_values
from graphopt.passmanager.made_up import make_inputs

FILES = (".gopt", ".pt2", SUFFIX)


@dataclass
class ModelSource:
    """A model with example inputs. A file is given by its path: a `.gopt` or `.pt2` brings its own, for an `.onnx` they
    are made up, but for those in `kwargs`."""

    model: nn.Module | Path
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The path of a file."""
        assert isinstance(self.model, Path)
        return self.model

    @property
    def is_saved(self) -> bool:
        """True for the saved form (`.gopt`)."""
        return isinstance(self.model, Path) and self.model.suffix == ".gopt"

    @property
    def is_onnx(self) -> bool:
        """True for an ONNX file."""
        return isinstance(self.model, Path) and self.model.suffix == SUFFIX

    def with_inputs(self) -> ModelSource:
        """Return an ONNX file with a value for each input.

        Raises:
            GraphOptError: they cannot be made up.
            CaptureError: the file cannot be read, or an input that decides shapes is not among `kwargs`.
        """
        graph = trace_onnx(self.path, (), self.kwargs, None)
        made = make_inputs(graph, self.kwargs)
        if made is None:
            raise GraphOptError(
                f"no inputs could be made up on which {self.path} runs; give them, as --value NAME=FILE.npy"
            )
        return ModelSource(self.model, tuple(made))

    def original(self) -> nn.Module:
        """What the model is measured against: itself, and for an ONNX file the file in ONNX Runtime."""
        if not isinstance(self.model, Path):
            return self.model
        from graphopt.onnx_sessions import FileSession

        return FileSession(self.model)

    def opened(self, trust: bool) -> ModelSource:
        """Return the model of an exported program in place of its file; an ONNX file stays one, with its inputs.

        Raises:
            GraphOptError: the saved form, which holds no original model; a program without example inputs.
            CaptureError: the archive or file cannot be read.
        """
        if not isinstance(self.model, Path):
            return self
        if self.is_onnx:
            return self.with_inputs()
        if self.is_saved:
            raise GraphOptError(
                f"{self.model} is compiled already; give the original model, as .pt2 or module:function"
            )
        from graphopt.frontends import load_archive

        program = load_archive(self.model, trust=trust)
        if program.example_inputs is None:
            raise GraphOptError(f"{self.model} holds no example inputs; give module:function")
        args, kwargs = program.example_inputs
        return ModelSource(program.module(), args, dict(kwargs))


def resolve_model(text: str, values: Sequence[str] = (), *, trust: bool = False) -> ModelSource:
    """Return the model that `text` names.

    text: the path of a `.gopt`, `.pt2` or `.onnx` file, or `module:function` (also `path/to/file.py:function`), where
        the function takes no arguments and returns `(model, args)` or `(model, args, kwargs)`. The module is run. Or an
        entry of a PyTorch Hub repository, `hub:PATH:entry` (see `graphopt.hub`), which is run if it is trusted.
    values: inputs of an ONNX file, as `NAME=VALUE` (see `graphopt.onnx_values`), or of a hub entry that brings none.

    Raises:
        GraphOptError: no such file or function, the function returns something else, or the module fails.
    """
    if is_hub(text):
        return _of_hub(text, values, trust)
    path = Path(text)
    if values and path.suffix != SUFFIX:
        raise GraphOptError(f"--value gives the inputs of an ONNX file, and {text} is none")
    if path.suffix in FILES:
        if not path.exists():
            raise GraphOptError(f"no such file: {path}")
        return ModelSource(path, kwargs=parse_values(path, values) if path.suffix == SUFFIX else {})
    name, separator, attribute = text.rpartition(":")
    if not separator or not name or not attribute:
        hint = f"; {text}:build would name its function 'build'" if path.suffix == ".py" else ""
        raise GraphOptError(
            f"{text!r} names no model; give a .onnx, .pt2 or .gopt file, or module:function where the function returns "
            f"(model, args){hint}"
        )
    function = _function(load_module(name), attribute, text)
    return _checked(_called(function, text), text)


def _of_hub(text: str, values: Sequence[str], trust: bool) -> ModelSource:
    found = load_hub(text, trust=trust)
    if not isinstance(found, tuple):
        kwargs = hub_inputs(found, values)
        if not kwargs:
            raise GraphOptError(
                f"{text} gives a model without example inputs; give them, as --value x=FILE.npy or "
                "--value x='f32[1, 3, 224, 224]'"
            )
        return ModelSource(found, (), kwargs)
    source = _checked(found, text)
    return ModelSource(source.model, source.args, {**source.kwargs, **hub_inputs(found[0], values)})


def load_module(name: str) -> ModuleType:
    """Import a module by its name, or run a file.

    Raises:
        GraphOptError: there is none, or it fails.
    """
    if name.endswith(".py"):
        return _file_module(Path(name))
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise GraphOptError(f"no module named {error.name!r}; run where it can be imported, or give a file") from error
    except Exception as error:
        raise user_error(f"importing {name}", error) from error


def _file_module(path: Path) -> ModuleType:
    """Run a file as `python path` would: its folder comes first among the places to import from."""
    if not path.is_file():
        raise GraphOptError(f"no such file: {path}")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    name = path.stem if path.stem not in sys.modules else f"graphopt model {path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise user_error(f"running {path}", error) from error
    return module


def load_function(text: str) -> Callable[..., Any]:
    """Return the function that `module:function` or `file.py:function` names.

    Raises:
        GraphOptError: there is none, or its module fails.
    """
    name, separator, attribute = text.rpartition(":")
    if not separator or not name or not attribute:
        raise GraphOptError(f"{text!r} names no function; give module:function or file.py:function")
    return _function(load_module(name), attribute, text)


def _function(module: ModuleType, name: str, text: str) -> Callable[..., Any]:
    function = getattr(module, name, None)
    if function is None:
        functions = [n for n, f in vars(module).items() if not n.startswith("_") and _is_own(f, module)]
        known = f"{Path(module.__file__).name if module.__file__ else module.__name__} has: {', '.join(functions)}."
        raise unknown_name("function", name, functions, known if functions else "The module has no function.")
    if isinstance(function, nn.Module | type) or not callable(function):
        kind = "class" if isinstance(function, type) else type(function).__name__
        raise GraphOptError(f"{text} is a {kind}, not a function; give a function that returns (model, args)")
    return function


def _is_own(candidate: Any, module: ModuleType) -> bool:
    return (
        callable(candidate)
        and not isinstance(candidate, type | nn.Module)
        and getattr(candidate, "__module__", None) == module.__name__
    )


def _called(function: Callable[[], Any], text: str) -> Any:
    try:
        return function()
    except Exception as error:
        raise user_error(f"calling {text}", error) from error


def _checked(result: Any, text: str) -> ModelSource:
    if isinstance(result, tuple) and 2 <= len(result) <= 3 and isinstance(result[0], nn.Module):
        args = result[1] if isinstance(result[1], tuple | list) else (result[1],)
        kwargs: Mapping[str, Any] = result[2] if len(result) == 3 else {}
        if isinstance(kwargs, Mapping):
            return ModelSource(result[0], tuple(args), dict(kwargs))
    shown = type(result).__name__
    if isinstance(result, tuple):
        shown = f"({', '.join(type(item).__name__ for item in result)})"
    raise GraphOptError(f"{text} must return (model, args) or (model, args, kwargs), got {shown}")


def user_error(doing: str, error: Exception) -> GraphOptError:
    """Say what went wrong in the user's own code, and where."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__ and f.filename[0] != "<"]
    where = f" (at {frames[-1].filename}:{frames[-1].lineno}, in {frames[-1].name})" if frames else ""
    return GraphOptError(f"{doing} failed: {type(error).__name__}: {error}{where}")
