"""Activations that gate another operand."""

from __future__ import annotations

from graphopt.frontends.onnx.application import Application, translates
from graphopt.frontends.onnx.operators.elementwise import swish
from graphopt.ir import Value


@translates("SwiGLU")
def swiglu(a: Application) -> Value:
    """x·sigmoid(α·x)·y."""
    return a.emit("aten.mul.Tensor", swish(a), a[1])
