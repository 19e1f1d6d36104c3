"""The ONNX backend: graphs of the IR as ONNX models, and ONNX Runtime as an engine.

The names that need the `onnx` package are loaded when they are first used, so that the engine can say what is missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graphopt.backends.onnx.engine import OnnxRuntimeEngine
from graphopt.backends.onnx.registry import Call, Declined, lowered_ops, lowers

if TYPE_CHECKING:
    from graphopt.backends.onnx.emit import emit_onnx
    from graphopt.backends.onnx.save import save_onnx

__all__ = ["Call", "Declined", "OnnxRuntimeEngine", "emit_onnx", "lowered_ops", "lowers", "save_onnx"]


def __getattr__(name: str) -> Any:
    if name == "emit_onnx":
        from graphopt.backends.onnx.emit import emit_onnx

        return emit_onnx
    if name == "save_onnx":
        from graphopt.backends.onnx.save import save_onnx

        return save_onnx
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
