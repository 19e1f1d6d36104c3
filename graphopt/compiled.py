"""`CompiledModel`: an `nn.Module` that drops in for the original."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from graphopt.errors import GraphOptError
from graphopt.ir import ConstantKind, Graph
from graphopt.options import CompileOptions
from graphopt.program import Program, program_facts
from graphopt.report import CompileReport
from graphopt.serialization import save_graph

if TYPE_CHECKING:
    import onnx

Captures = Callable[[tuple[Any, ...], dict[str, Any], bool], Program]


class CompiledModel(nn.Module):
    """A compiled model. Call it as you called the original: same arguments, same results.

    graph: the optimized graph. module: the FX module of that graph. report: what the compiler did and measured.

    On `target="fx"` the parameters are this module's own, under their original names: it trains. On an engine
    target the weights live in the engine, so `train()`, `half()` and `load_state_dict` raise and name the remedy.
    """

    def __init__(self, options: CompileOptions, program: Program | None, captures: Captures | None = None) -> None:
        super().__init__()
        self.training = False
        self._options = options
        self._captures = captures
        self._program: Program | None = None
        if program is not None:
            self._adopt(program)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model.

        Raises:
            InputError: arguments that don't fit what was captured.
        """
        if torch.compiler.is_compiling():
            return self.module(*args, **kwargs)
        program = self._program_for(args, kwargs)
        flat = program.convention.flatten(args, kwargs)
        if program.module is not None:
            return program.module(*args, **kwargs)
        assert program.executable is not None
        return program.convention.unflatten(program.executable.run(flat))

    # What was compiled

    @property
    def graph(self) -> Graph:
        """The optimized graph (of the latest capture)."""
        return self._require("graph").graph

    @property
    def module(self) -> torch.fx.GraphModule:
        """The FX module of the optimized graph. On an engine target it is emitted at the first use."""
        return self._require("module").fx_module()

    @property
    def report(self) -> CompileReport:
        """What each pass and each engine did, with numbers."""
        return self._require("report").report

    @property
    def engine(self) -> str:
        """The name of the engine that runs the model (`"fx"` for an FX module)."""
        return self._require("engine").engine_name

    # Files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the saved form (see `graphopt.load`). The file is replaced only once all is written.

        Raises:
            SerializationError: the file cannot be written.
        """
        self._save(path)

    def to_onnx(
        self, path: str | os.PathLike[str] | None = None, *, opset: int | None = None, external_data: bool | None = None
    ) -> onnx.ModelProto:
        """Emit the optimized graph as an ONNX model, and write it to `path` if one is given.

        external_data: weights in a file beside the model; by default where they exceed what one file can hold.

        Raises:
            EmissionError: an operator that ONNX cannot express.
            SerializationError: the file cannot be written.
        """
        from graphopt.backends.onnx import emit_onnx, save_onnx

        chosen = opset or self._options.opset
        model = emit_onnx(self._current_graph(), **({} if chosen is None else {"opset": chosen}))
        if path is not None:
            save_onnx(model, path, external_data=external_data)
        return model

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledModel:
        return _rebuild(*self.__reduce__()[1])

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        buffer = io.BytesIO()
        self._save(buffer)
        return _rebuild, (buffer.getvalue(),)

    def _save(self, target: Any) -> None:
        program = self._require("save()")
        save_graph(
            self._current_graph(),
            target,
            target=self._options.target.name,
            trainable=self._options.trainable,
            **program_facts(program),
        )

    # As a module

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The module's tensors under their original names."""
        if self._trains:
            return super().state_dict(*args, **kwargs)
        found = {}
        for value in self._require("state_dict()").graph.constants.values():
            constant = value.constant
            if constant is not None and constant.kind is not ConstantKind.CONSTANT and constant.persistent:
                found.update(dict.fromkeys(constant.names, constant.tensor.detach()))
        return found

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load weights; only an FX module can.

        Raises:
            GraphOptError: on an engine target.
        """
        self._refuse_on_engine("load_state_dict()")
        return super().load_state_dict(state_dict, *args, **kwargs)

    def train(self, mode: bool = True) -> CompiledModel:
        """Set training mode; only an FX module trains.

        Raises:
            GraphOptError: on an engine target.
        """
        if mode:
            self._refuse_on_engine("train()")
        super().train(mode)
        if self._program is not None and self._program.module is not None:
            self._program.module.training = mode
        return self

    def to(self, *args: Any, **kwargs: Any) -> CompiledModel:
        """Move or convert; on an engine target only a move to where the model is does nothing, all else raises."""
        device, dtype, _, _ = torch._C._nn._parse_to(*args, **kwargs)
        if not self._trains and dtype is None and device is not None and device.type == "cpu":
            return self
        super().to(*args, **kwargs)
        return self

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> CompiledModel:
        self._refuse_on_engine("moving or converting the model")
        super()._apply(fn, recurse)
        return self

    @property
    def _trains(self) -> bool:
        return not self._options.target.engines

    def _refuse_on_engine(self, what: str) -> None:
        if not self._trains:
            raise GraphOptError(
                f"{what} is not possible on target {self._options.target.name!r}, whose engine holds the weights; "
                "compile with target='fx', change that, and compile the result for the engine"
            )

    # Programs

    def _program_for(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Program:
        if self._captures is None:
            return self._require("a call")
        program = self._captures(args, kwargs, self.training)
        if program is not self._program:
            self._adopt(program)
        return program

    def _adopt(self, program: Program) -> None:
        """Take over the FX module's tensors, so that this module's parameters are that module's own."""
        self._program = program
        if program.module is not None:
            for table in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
                self.__dict__[table] = program.module.__dict__[table]
            self.training = program.module.training

    def _require(self, what: str) -> Program:
        if self._program is None:
            raise GraphOptError(f"{what} needs a captured model: call it once, or give args to graphopt.compile")
        return self._program

    def _current_graph(self) -> Graph:
        """The graph with the tensors as they are now: an FX module may have been trained."""
        return self._require("a graph").current_graph()


def _rebuild(data: bytes) -> CompiledModel:
    from graphopt.api import load

    return load(io.BytesIO(data))
