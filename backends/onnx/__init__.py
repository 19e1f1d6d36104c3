"""The ONNX backend: graphs of the IR as ONNX models, and ONNX Runtime as an engine."""

from graphopt.backends.onnx.emit import emit_onnx

__all__ = ["emit_onnx"]
