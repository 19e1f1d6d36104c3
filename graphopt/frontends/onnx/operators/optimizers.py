"""Steps of optimizers, which models that train themselves hold.

R is the learning rate, T how many steps were done, X the parameters, G their gradients with `norm_coefficient`·X added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from graphopt.frontends.onnx.application import Application, tensor_type, translates
from graphopt.ir import Value

DOMAIN = "ai.onnx.preview.training"

Step = Callable[[Application, Value, Value, Value, list[Value]], Sequence[Value]]


def _add(a: Application, x: Value, y: Value) -> Value:
    return a.emit("aten.add.Tensor", x, y)


def _mul(a: Application, x: Value, y: Value) -> Value:
    return a.emit("aten.mul.Tensor", x, y)


def _scale(a: Application, x: Value, by: float) -> Value:
    return a.emit("aten.mul.Scalar", x, by)


def _each(a: Application, states: int, step: Step) -> list[Value]:
    """Apply a step to each parameter; results are grouped as operands are: parameters first, then their states."""
    count = (len(a.inputs) - 2) // (2 + states)
    columns = [[a[2 + group * count + index] for group in range(2 + states)] for index in range(count)]
    rate = a[0]
    results = []
    for x, g, *state in columns:
        slope = _add(a, _scale(a, x, a.attr("norm_coefficient", 0.0)), g)
        results.append(step(a, a.cast(rate, tensor_type(x).dtype), x, slope, state))
    return [value for group in zip(*results) for value in group]


def _against(a: Application, x: Value, rate: Value, direction: Value) -> Value:
    return a.emit("aten.sub.Tensor", x, _mul(a, rate, direction))


@translates("Adagrad", domain=DOMAIN)
def adagrad(a: Application) -> Sequence[Value]:
    """H′ = H + G², X′ = X − R/(1 + T·decay)·G/(√H′ + ε)."""

    def step(a: Application, rate: Value, x: Value, slope: Value, state: list[Value]) -> list[Value]:
        decay = a.emit("aten.add.Scalar", _scale(a, a.cast(a[1], tensor_type(x).dtype), a.attr("decay_factor", 0.0)), 1)
        squares = _add(a, state[0], _mul(a, slope, slope))
        direction = a.emit("aten.div.Tensor", slope, _root(a, squares))
        return [_against(a, x, a.emit("aten.div.Tensor", rate, decay), direction), squares]

    return _each(a, 1, step)


def _root(a: Application, squares: Value) -> Value:
    return a.emit("aten.add.Scalar", a.emit("aten.sqrt", squares), a.attr("epsilon", 1e-6))


@translates("Momentum", domain=DOMAIN)
def momentum(a: Application) -> Sequence[Value]:
    """V′ = α·V + β·G (G at the first step), X′ = X − R·V′, or Nesterov's X − R·(G + α·V′)."""

    def step(a: Application, rate: Value, x: Value, slope: Value, state: list[Value]) -> list[Value]:
        alpha = a.attr("alpha")
        added = _first(a, slope, _scale(a, slope, a.attr("beta")))
        velocity = _add(a, _scale(a, state[0], alpha), added)
        direction = _add(a, slope, _scale(a, velocity, alpha)) if a.attr("mode") == "nesterov" else velocity
        return [_against(a, x, rate, direction), velocity]

    return _each(a, 1, step)


def _first(a: Application, at_first: Value, later: Value) -> Value:
    """A choice by whether this is the first step."""
    return a.emit("aten.where.self", a.emit("aten.gt.Scalar", a[1], 0), later, at_first)


@translates("Adam", domain=DOMAIN)
def adam(a: Application) -> Sequence[Value]:
    """V′ = α·V + (1 − α)·G, H′ = β·H + (1 − β)·G², X′ = X − R·√(1 − βᵀ)/(1 − αᵀ)·V′/(√H′ + ε) (R at the first step),
    shrunk by `norm_coefficient_post`."""
    alpha, beta = a.attr("alpha", 0.9), a.attr("beta", 0.999)

    def step(a: Application, rate: Value, x: Value, slope: Value, state: list[Value]) -> list[Value]:
        mean = _add(a, _scale(a, state[0], alpha), _scale(a, slope, 1 - alpha))
        squares = _add(a, _scale(a, state[1], beta), _scale(a, _mul(a, slope, slope), 1 - beta))
        corrected = a.emit("aten.div.Tensor", a.emit("aten.sqrt", _left(a, beta, x)), _left(a, alpha, x))
        rate = _first(a, rate, _mul(a, rate, corrected))
        new = _against(a, x, rate, a.emit("aten.div.Tensor", mean, _root(a, squares)))
        return [_scale(a, new, 1 - a.attr("norm_coefficient_post", 0.0)), mean, squares]

    return _each(a, 2, step)


def _left(a: Application, decay: float, like: Value) -> Value:
    """1 − decayᵀ."""
    base = a.constant(torch.tensor(decay, dtype=tensor_type(like).dtype.torch))
    power = a.emit("aten.pow.Tensor_Tensor", base, a.cast(a[1], tensor_type(like).dtype))
    return a.emit("aten.rsub.Scalar", power, 1)
