"""ONNX files in ONNX Runtime, as they are: what a written file is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from graphopt.errors import GraphOptError, InputError, TargetError


class FileSession(nn.Module):
    """A file in ONNX Runtime: takes tensors in the file's order or by name, and returns its outputs.

    optimization: which of ONNX Runtime's own graph optimizations run: "off", "basic", "extended" or "all".
    """

    def __init__(self, path: Path, *, optimization: str = "all") -> None:
        super().__init__()
        self.path = path
        self.session = _session(path, optimization)
        self.input_names = [value.name for value in self.session.get_inputs()]
        self.output_names = [value.name for value in self.session.get_outputs()]

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        """Run on inputs by name; return the outputs.

        Raises:
            InputError: the file does not take these inputs.
        """
        from graphopt.ops.onnx_values import from_numpy, to_numpy

        arrays = {name: to_numpy(feeds[name]) for name in self.input_names if name in feeds}
        try:
            return [from_numpy(value) for value in self.session.run(self.output_names, arrays)]
        except Exception as error:  # its exception classes share no base of their own
            raise InputError(f"ONNX Runtime cannot run {self.path}: {error}") from error

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run on inputs in the file's order, or by name; one output is returned by itself, several as a tuple."""
        outputs = self.run({**dict(zip(self.input_names, args)), **kwargs})
        return outputs[0] if len(outputs) == 1 else tuple(outputs)


def _session(path: Path, optimization: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise TargetError("running ONNX files needs onnxruntime; run `pip install graphopt[onnx]`") from error
    from graphopt.backends.onnx.engine import LEVELS
    from graphopt.ops.onnx_runtime import session_options

    options = session_options(LEVELS[optimization])
    if optimization == "off":
        options.add_session_config_entry("session.disable_prepacking", "1")  # weights are not copied
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise GraphOptError(f"ONNX Runtime cannot load {path}: {error}") from error
