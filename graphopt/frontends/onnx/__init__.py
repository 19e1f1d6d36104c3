"""The ONNX front end: files of the ONNX format into IR graphs."""

from graphopt.frontends.onnx.load import read_onnx

__all__ = ["read_onnx"]
