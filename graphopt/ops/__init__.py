"""Operators: the registry, the dialects, type inference and reference semantics."""

from graphopt.ops import (
    attention,
    boxes,
    control_flow,
    copy,
    functionalized,
    onnx_dialect,
    quantization,
    scalars,
    sparse,
    torch_dialects,
)
from graphopt.ops.registry import OpRegistry, get_op, registry
from graphopt.ops.schema import attribute_from_torch, attribute_to_torch, torch_arguments
from graphopt.ops.text import parse
from graphopt.ops.torch_dialects import find_overload, ir_name

__all__ = [
    "OpRegistry",
    "attention",
    "attribute_from_torch",
    "attribute_to_torch",
    "boxes",
    "control_flow",
    "copy",
    "find_overload",
    "functionalized",
    "get_op",
    "ir_name",
    "onnx_dialect",
    "parse",
    "quantization",
    "registry",
    "scalars",
    "sparse",
    "torch_arguments",
    "torch_dialects",
]
