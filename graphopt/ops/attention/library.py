"""Attention as operators that PyTorch can run, export and differentiate.

The derivative is that of the kernel, run once more: nothing is kept from the forward run but its operands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

LIBRARY = torch.library.Library("graphopt", "FRAGMENT")
_OPERANDS = "Tensor query, Tensor key, Tensor value"


def register_attention(name: str, rest: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Define `name(query, key, value, rest…)` and its derivative by the first three.

    rest: the other arguments, as a schema has them. fake: the result without its elements.
    """
    derivative = f"{name}_backward"
    LIBRARY.define(f"{name}({_OPERANDS}, {rest}) -> Tensor")
    LIBRARY.define(f"{derivative}(Tensor gradient, {_OPERANDS}, {rest}) -> (Tensor, Tensor, Tensor)")

    def differentiate(gradient: torch.Tensor, *arguments: Any) -> tuple[torch.Tensor, ...]:
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_() for x in arguments[:3]]
            found = torch.autograd.grad(kernel(*leaves, *arguments[3:]), leaves, gradient)
        return tuple(found)

    def fake_derivative(gradient: torch.Tensor, *arguments: Any) -> tuple[torch.Tensor, ...]:
        return tuple(torch.empty_like(x) for x in arguments[:3])

    def remember(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        tensors = [x for x in inputs if isinstance(x, torch.Tensor)]
        ctx.save_for_backward(*tensors)
        ctx.others = [None if isinstance(x, torch.Tensor) else (x,) for x in inputs]

    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        tensors = iter(ctx.saved_tensors)
        arguments = [next(tensors) if other is None else other[0] for other in ctx.others]
        found = getattr(torch.ops.graphopt, derivative)(gradient, *arguments)
        return (*found, *[None] * (len(arguments) - 3))

    for each, run, empty in ((name, kernel, fake), (derivative, differentiate, fake_derivative)):
        LIBRARY.impl(each, run, "CompositeExplicitAutograd")
        torch.library.register_fake(f"graphopt::{each}", empty, lib=LIBRARY)
    torch.library.register_autograd(f"graphopt::{name}", backward, setup_context=remember, lib=LIBRARY)
