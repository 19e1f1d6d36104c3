"""graphopt: a model-optimising compiler for PyTorch and ONNX models."""

from __future__ import annotations

__version__ = "0.1.0"
