"""The built-in targets, as data. `pyproject.toml` enters each as a `graphopt.targets` entry point."""

from __future__ import annotations

from graphopt.targets.target import Target

CPU = Target(
    "cpu", "the fastest engine on this CPU, chosen by measuring", ("onnxruntime", "openvino", "inductor", "eager")
)
FX = Target("fx", "a trainable FX module", (), trainable=True)
EAGER = Target("eager", "an FX module run by PyTorch eager", ("eager",))
INDUCTOR = Target("inductor", "torch.compile with frozen weights", ("inductor",))
ONNX = Target("onnx", "an ONNX graph, run by ONNX Runtime", ("onnxruntime",))
ONNXRUNTIME = Target("onnxruntime", "an ONNX graph in ONNX Runtime", ("onnxruntime",))
OPENVINO = Target("openvino", "an ONNX graph in OpenVINO", ("openvino",))
TENSORRT = Target("tensorrt", "an ONNX graph as TensorRT documents it, run here by PyTorch", ("eager",))
LITERT = Target("litert", "a LiteRT (TensorFlow Lite) model, of fixed sizes", ("litert",))
COREML = Target("coreml", "a Core ML model, of fixed sizes, run on macOS", ("coreml",))
