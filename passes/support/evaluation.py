"""Running one operator on stored tensors."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from graphopt.ir import Expr, Node, TensorType, Value
from graphopt.ops import torch_arguments


def stored_tensor(value: Value) -> torch.Tensor:
    """The tensor of a constant, contiguous and without its gradient."""
    assert value.constant is not None
    return value.constant.tensor.detach().contiguous()


def type_bytes(value: Value) -> int | None:
    """The size of a value in bytes; None if its shape is not static."""
    type_ = value.type
    if not isinstance(type_, TensorType) or not all(isinstance(dim, int) for dim in type_.shape):
        return None
    numel: Any = type_.numel
    return int(numel) * max(type_.dtype.bits // 8, 1)


def evaluate(node: Node, operands: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
    """Run the reference semantics of `node` on tensors, as the interpreter would.

    Raises:
        RuntimeError, IndexError, ValueError, NotImplementedError: the operator refuses.
    """
    assert node.op.evaluate is not None
    args, kwargs = torch_arguments(node.op, list(operands), _on_host(node.attributes), _no_symbols)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = node.op.evaluate(*args, **kwargs)
    return tuple(result) if isinstance(result, list | tuple) else (result,)


def _on_host(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors without operands are made on the host; their device is a matter of their type."""
    return {name: ("cpu" if name == "device" and value is not None else value) for name, value in attributes.items()}


def _no_symbols(expression: Expr) -> int:
    raise ValueError(f"{expression} is not a number")
