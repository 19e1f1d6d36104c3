"""Products with sparse weights as operators that PyTorch can run, export and differentiate.

The derivative is that of the same product with the weight laid out densely.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

LIBRARY = torch.library.Library("graphopt", "FRAGMENT")
OPERANDS = "Tensor input, Tensor crow_indices, Tensor col_indices, Tensor values, Tensor? bias"

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": lambda x: x,
    "relu": F.relu,
    "silu": F.silu,
    "gelu": F.gelu,
}


def activated(x: torch.Tensor, activation: str) -> torch.Tensor:
    """The activation of a name.

    Raises:
        ValueError: there is none.
    """
    check_activation(activation)
    return ACTIVATIONS[activation](x)


def check_activation(activation: str) -> None:
    """Raise ValueError if there is no activation of a name."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"{activation!r} is no activation that is fused; there are {', '.join(ACTIVATIONS)}")


def register_sparse(
    name: str, rest: str, kernel: Callable[..., Any], fake: Callable[..., Any], reference: Callable[..., Any]
) -> None:
    """Define `name(input, crow_indices, col_indices, values, bias, rest…)`, and what differentiates it.

    reference: the same product by PyTorch's own operators, which differentiates.
    """
    derivative = f"{name}_backward"
    LIBRARY.define(f"{name}({OPERANDS}, {rest}) -> Tensor")
    LIBRARY.define(f"{derivative}(Tensor gradient, {OPERANDS}, {rest}) -> (Tensor, Tensor, Tensor)")

    def differentiate(gradient: torch.Tensor, *arguments: Any) -> tuple[torch.Tensor, ...]:
        x, crow, columns, values, bias, *others = arguments
        with torch.enable_grad():
            leaves = [t.detach().requires_grad_() for t in (x, values, bias) if t is not None]
            result = reference(leaves[0], crow, columns, leaves[1], leaves[2] if bias is not None else None, *others)
            found = torch.autograd.grad(result, leaves, gradient)
        return (*found, *[gradient.new_empty(0)] * (3 - len(found)))

    def fake_derivative(gradient: torch.Tensor, *arguments: Any) -> tuple[torch.Tensor, ...]:
        x, _, _, values, bias, *_ = arguments
        return tuple(gradient.new_empty(0) if t is None else torch.empty_like(t) for t in (x, values, bias))

    def remember(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs[:5])
        ctx.others = inputs[5:]

    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        operands = ctx.saved_tensors
        by_input, by_values, by_bias = getattr(torch.ops.graphopt, derivative)(gradient, *operands, *ctx.others)
        return (by_input, None, None, by_values, None if operands[4] is None else by_bias, *[None] * len(ctx.others))

    for each, run, empty in ((name, kernel, fake), (derivative, differentiate, fake_derivative)):
        LIBRARY.impl(each, run, "CompositeExplicitAutograd")
        torch.library.register_fake(f"graphopt::{each}", empty, lib=LIBRARY)
    torch.library.register_autograd(f"graphopt::{name}", backward, setup_context=remember, lib=LIBRARY)
