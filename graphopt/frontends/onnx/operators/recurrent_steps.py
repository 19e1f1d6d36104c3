"""Recurrent layers step by step, for what PyTorch's layers cannot do. The number of steps must be known.

LSTM  i = f(Wᵢx + Rᵢh + Pᵢ∘c + bᵢ)   o = f(Wₒx + Rₒh + Pₒ∘c′ + bₒ)   g = g(W_c x + R_c h + b_c)
      c′ = forget∘c + i∘g            h′ = o∘h(c′)
GRU   z, r = f(Wx + Rh + b)          ĥ = g(Wx + R(r∘h) + b)          h′ = (1 − z)∘ĥ + z∘h
RNN   h′ = f(Wx + Rh + b)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphopt.frontends.onnx.application import Application, Declined
from graphopt.ir import Value

if TYPE_CHECKING:
    from graphopt.frontends.onnx.operators.recurrent import Layer

MOST_STEPS = 64
"""Longer sequences are not written out."""

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@dataclass(frozen=True)
class Activation:
    """An activation by its name in lower case, with its parameters."""

    name: str
    alpha: float | None = None
    beta: float | None = None

    def __call__(self, a: Application, x: Value) -> Value:
        """Apply it."""
        alpha, beta = self.alpha or 0.0, self.beta or 0.0
        if self.name == "affine":
            return a.emit("aten.add.Scalar", a.emit("aten.mul.Scalar", x, alpha), beta)
        if self.name == "scaledtanh":
            return a.emit("aten.mul.Scalar", a.emit("aten.tanh", a.emit("aten.mul.Scalar", x, beta)), alpha)
        if self.name == "hardsigmoid":
            line = a.emit("aten.add.Scalar", a.emit("aten.mul.Scalar", x, alpha), beta)
            return a.emit("aten.clamp", line, 0.0, 1.0)
        if self.name == "thresholdedrelu":
            return a.emit("aten.threshold", x, alpha, 0.0)
        if self.name == "softsign":
            return a.emit("aten.div.Tensor", x, a.emit("aten.add.Scalar", a.emit("aten.abs", x), 1))
        name, takes_alpha = PYTORCH[self.name]
        return a.emit(name, x, alpha) if takes_alpha else a.emit(name, x)


PYTORCH = {
    "sigmoid": ("aten.sigmoid", False),
    "tanh": ("aten.tanh", False),
    "relu": ("aten.relu", False),
    "softplus": ("aten.softplus", False),
    "leakyrelu": ("aten.leaky_relu", True),
    "elu": ("aten.elu", True),
}
ALPHA = {"leakyrelu": 0.01, "thresholdedrelu": 1.0, "elu": 1.0, "hardsigmoid": 0.2, "affine": None, "scaledtanh": None}
BETA = {"hardsigmoid": 0.5, "affine": None, "scaledtanh": None}
"""What takes parameters, and their defaults, where ONNX has some."""


def activations(a: Application, names: list[str], directions: int) -> tuple[list[Activation], ...]:
    """Return the activations of each direction; the parameters are handed to those that take some, in order."""
    alphas, betas = list(a.attr("activation_alpha") or []), list(a.attr("activation_beta") or [])
    found: list[Activation] = []
    for name in names:
        if name not in PYTORCH and name not in ALPHA and name != "softsign":
            raise Declined(f"activation {name}")
        parameters: list[float | None] = []
        for defaults, given in ((ALPHA, alphas), (BETA, betas)):
            parameters.append(given.pop(0) if given and name in defaults else defaults.get(name))
            if name in defaults and parameters[-1] is None:
                raise Declined(f"activation {name} without its parameters")
        found.append(Activation(name, *parameters))
    each = len(found) // directions
    return tuple([found[i * each : (i + 1) * each] for i in range(directions)])


def run_steps(a: Application, x: Value, direction: int, layer: Layer, reason: str) -> tuple[Value, list[Value]]:
    """Run one direction over its input, time first: the output `[time, batch, hidden]`, and the last states.

    reason: why PyTorch's layer does not do.
    """
    if not isinstance(layer.time, int) or layer.time > MOST_STEPS:
        raise Declined(f"{reason}: PyTorch's layer lacks it, and {layer.time} steps are not written out")
    cell = _Cell(a, direction, layer)
    states = [a.emit("aten.select.int", state, 0, direction) for state in layer.states]
    projected = cell.projected(x)
    outputs = []
    for time in range(layer.time):
        new = cell.step(a.emit("aten.select.int", projected, 0, time), states)
        output = new[0]
        if layer.lengths is not None:
            ahead = a.emit("aten.unsqueeze", a.emit("aten.gt.Scalar", layer.lengths, time), 1)
            new = [a.emit("aten.where.self", ahead, n, old) for n, old in zip(new, states)]
            output = a.emit("aten.where.self", ahead, output, a.scalar(0, output))
        states = new
        outputs.append(output)
    return a.emit("aten.stack", outputs), [a.emit("aten.unsqueeze", state, 0) for state in states]


class _Cell:
    """One step of a direction."""

    def __init__(self, a: Application, direction: int, layer: Layer) -> None:
        self._a = a
        self._hidden = layer.hidden
        self._functions = layer.functions[direction]
        self._of_input, self._of_state = (a.emit("aten.select.int", a[i], 0, direction) for i in (1, 2))
        self._bias = a.emit("aten.select.int", a[3], 0, direction) if a.has(3) else None
        self._peepholes = a.emit("aten.select.int", a[7], 0, direction) if a.name == "LSTM" and a.has(7) else None
        steps: dict[str, Callable[[Value, list[Value]], list[Value]]]
        steps = {"LSTM": self._lstm, "GRU": self._gru, "RNN": self._rnn}
        self.step = steps[a.name]

    def projected(self, x: Value) -> Value:
        """The products with the input, for all steps at once, biases of the input added."""
        return self._a.emit("aten.linear", x, self._of_input, self._half(0))

    def _half(self, which: int) -> Value | None:
        """The biases of the input, or of the state."""
        count = GATES[self._a.name]
        return None if self._bias is None else self._part(self._bias, which * count, count, dim=0)

    def _part(self, x: Value, first: int, count: int = 1, dim: int = -1) -> Value:
        """Some gates' part of a tensor."""
        return self._a.emit("aten.slice.Tensor", x, dim, first * self._hidden, (first + count) * self._hidden)

    def _from_state(self, state: Value, first: int, count: int) -> Value:
        """R·h + b for some gates."""
        weight, bias = self._part(self._of_state, first, count, dim=0), self._half(1)
        return self._a.emit(
            "aten.linear", state, weight, None if bias is None else self._part(bias, first, count, dim=0)
        )

    def _act(self, index: int, x: Value, *, clipped: bool = True) -> Value:
        """An activation; what goes into it is clipped, if asked."""
        clip = self._a.attr("clip")
        if clip is not None and clipped:
            x = self._a.emit("aten.clamp", x, -clip, clip)
        return self._functions[index](self._a, x)

    def _add(self, x: Value, y: Value) -> Value:
        return self._a.emit("aten.add.Tensor", x, y)

    def _mul(self, x: Value, y: Value) -> Value:
        return self._a.emit("aten.mul.Tensor", x, y)

    def _rnn(self, x: Value, states: list[Value]) -> list[Value]:
        return [self._act(0, self._add(x, self._from_state(states[0], 0, 1)))]

    def _gru(self, x: Value, states: list[Value]) -> list[Value]:
        (h,) = states
        both = self._act(0, self._add(self._part(x, 0, 2), self._from_state(h, 0, 2)))
        z, r = self._part(both, 0), self._part(both, 1)
        if self._a.attr("linear_before_reset", 0):
            inner = self._mul(r, self._from_state(h, 2, 1))
        else:
            inner = self._from_state(self._mul(r, h), 2, 1)
        candidate = self._act(1, self._add(self._part(x, 2, 1), inner))
        kept = self._a.emit("aten.rsub.Scalar", z, 1)
        return [self._add(self._mul(kept, candidate), self._mul(z, h))]

    def _lstm(self, x: Value, states: list[Value]) -> list[Value]:
        h, c = states
        gates = self._add(x, self._from_state(h, 0, 4))
        i, o, f, g = (self._part(gates, index) for index in range(4))
        i = self._act(0, self._seen(i, c, 0))
        forget = self._a.emit("aten.rsub.Scalar", i, 1)
        if not self._a.attr("input_forget", 0):
            forget = self._act(0, self._seen(f, c, 2))
        cell = self._add(self._mul(forget, c), self._mul(i, self._act(1, g)))
        o = self._act(0, self._seen(o, cell, 1))
        return [self._mul(o, self._act(2, cell, clipped=False)), cell]

    def _seen(self, gate: Value, cell: Value, index: int) -> Value:
        """A gate that sees the cell through a peephole, if there is one."""
        if self._peepholes is None:
            return gate
        return self._add(gate, self._mul(cell, self._part(self._peepholes, index, dim=0)))
