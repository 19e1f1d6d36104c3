"""The ONNX front end: files of the ONNX format into IR graphs."""

from graphopt.frontends.onnx.load import MissingValue, OnnxFile, open_onnx, read_given, read_onnx, stored_tensors

__all__ = ["MissingValue", "OnnxFile", "open_onnx", "read_given", "read_onnx", "stored_tensors"]
