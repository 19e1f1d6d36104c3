"""OpenVINO as an engine, by way of the ONNX backend."""

from graphopt.backends.openvino.engine import OpenVinoEngine

__all__ = ["OpenVinoEngine"]
