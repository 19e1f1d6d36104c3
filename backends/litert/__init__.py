"""LiteRT (TensorFlow Lite): `.tflite` files, and an engine that runs them."""

from graphopt.backends.litert.engine import LiteRtEngine, save_litert

__all__ = ["LiteRtEngine", "save_litert"]
