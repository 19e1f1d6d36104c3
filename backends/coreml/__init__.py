"""Core ML: `.mlpackage` and `.mlmodel` files."""

from graphopt.backends.coreml.engine import CoreMlEngine, save_coreml

__all__ = ["CoreMlEngine", "save_coreml"]
