"""LSTM, GRU and RNN: whole PyTorch layers where these compute the same, else step by step over a known length.

ONNX and PyTorch differ in the order of the gates, in where the directions stand, and in what may be asked for: PyTorch
knows no peepholes, no clipping, no coupled gates, no other activations, and for the GRU the reset after the product
with the state alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.frontends.onnx.application import Application, tensor_type, translates
from graphopt.frontends.onnx.entries import Entry
from graphopt.frontends.onnx.operators.recurrent_steps import Activation, activations, run_steps
from graphopt.frontends.onnx.operators.recurrent_weights import weights
from graphopt.ir import DType, Trait, Value
from graphopt.ir.dims import Dim, equal

STATES = {"LSTM": 2, "GRU": 1, "RNN": 1}
PLAIN = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"], "RNN": ["tanh"]}
"""The default activations: of the gates, of the candidate, of the output."""

LAYERS = {
    "LSTM": "aten.lstm.input",
    "GRU": "aten.gru.input",
    "tanh": "aten.rnn_tanh.input",
    "relu": "aten.rnn_relu.input",
}


MOST = 64
"""How many values a weight may be computed from and count as stored."""


@dataclass(frozen=True)
class Layer:
    """What a node asks for.

    x: the input, time first unless `batch_first`. lengths: of the sequences, if some may end early.
    functions: the activations of each direction. states: for each of hidden and cell state, `[directions, batch,
    hidden]`.
    """

    x: Value
    hidden: Dim
    directions: tuple[str, ...]
    functions: tuple[list[Activation], ...]
    states: tuple[Value, ...]
    lengths: Value | None
    batch_first: bool

    @property
    def time(self) -> Dim:
        """The number of steps."""
        return tensor_type(self.x).shape[1 if self.batch_first else 0]

    @property
    def batch(self) -> Dim:
        """The number of sequences."""
        return tensor_type(self.x).shape[0 if self.batch_first else 1]


@translates("LSTM", "GRU", "RNN")
def recurrent(a: Application) -> Sequence[Entry]:
    """One layer over a sequence, in one direction or both."""
    if not (_is_stored(a[1]) and _is_stored(a[2])) and not a.attr("layout", 0):
        a.compose()
    layer = _layer(a)
    whole = _whole_reason(a, layer)
    if whole is None and layer.lengths is None and layer.directions != ("reverse",):
        y, finals = _run_whole(a, layer, layer.x, range(len(layer.directions)), layer.batch_first)
        return _results(a, layer, y, finals)
    if not layer.batch_first:  # which ONNX Runtime lacks
        a.compose()
    x = a.emit("aten.permute", layer.x, [1, 0, 2]) if layer.batch_first else layer.x
    order = _Order(a, x, layer.lengths)
    outputs: list[Value] = []
    finals_of: list[list[Value]] = []
    for index, direction in enumerate(layer.directions):
        turned = order.reversed(x) if direction == "reverse" else x
        if whole is None:
            y, finals = _run_whole(a, layer, turned, [index], False)
            finals = [order.last(y), *finals[1:]] if layer.lengths is not None else finals
            y = order.masked(y)
        else:
            y, finals = run_steps(a, turned, index, layer, whole)
        finals = [order.of_nothing_zero(final) for final in finals]
        outputs.append(order.reversed(y) if direction == "reverse" else y)
        finals_of.append(finals)
    y = outputs[0] if len(outputs) == 1 else a.emit("aten.cat", outputs, -1)
    joined = [v[0] if len(v) == 1 else a.emit("aten.cat", list(v), 0) for v in zip(*finals_of)]
    return _results(a, layer, a.emit("aten.permute", y, [1, 0, 2]) if layer.batch_first else y, joined)


def _is_stored(value: Value) -> bool:
    """True if a value is computed from stored tensors alone, by few operators, so that folding leaves a stored one."""
    waiting, seen = [value], {value}
    while waiting:
        found = waiting.pop()
        if found.constant is not None:
            continue
        if found.producer is None or not found.producer.op.has(Trait.PURE) or len(seen) > MOST:
            return False
        new = [v for v in found.producer.operands if v is not None and v not in seen]
        seen.update(new)
        waiting.extend(new)
    return True


def _layer(a: Application) -> Layer:
    x, batch_first = a[0], bool(a.attr("layout", 0))
    batch, hidden = tensor_type(x).shape[0 if batch_first else 1], a.type(2).shape[2]
    time = tensor_type(x).shape[1 if batch_first else 0]
    mode = a.attr("direction", "forward")
    directions = ("forward", "reverse") if mode == "bidirectional" else (mode,)
    names = [n.lower() for n in a.attr("activations") or PLAIN[a.name] * len(directions)]
    states: list[Value] = []
    for index in range(STATES[a.name]):
        if a.has(5 + index):
            given = a.emit("aten.permute", a[5 + index], [1, 0, 2]) if batch_first else a[5 + index]
            # Another number of sequences than in x must fail: PyTorch's kernels don't check it.
            states.append(a.reshape(given, (len(directions), batch, hidden)))
        else:
            states.append(a.emit("aten.full", (len(directions), batch, hidden), 0.0, dtype=tensor_type(x).dtype))
    functions = activations(a, names, len(directions))
    lengths = None if _all_full(a, time) else a.cast(a[4], DType.I64)
    return Layer(x, hidden, directions, functions, tuple(states), lengths, batch_first)


def _all_full(a: Application, time: Dim) -> bool:
    """True if every sequence is known to be as long as there are steps."""
    if not a.has(4):
        return True
    found = a.contents(4)
    return found is not None and all(equal(length, time) is True for length in found.flat)


def _whole_reason(a: Application, layer: Layer) -> str | None:
    """Why PyTorch's layer is another function than what is asked for; None if it is the same."""
    kinds = [[f.name for f in functions] for functions in layer.functions]
    if a.name == "RNN":
        if kinds[0] not in (["tanh"], ["relu"]) or kinds[-1] != kinds[0]:
            return f"activations {kinds}"
    elif any(kind != PLAIN[a.name] for kind in kinds):
        return f"activations {kinds}"
    if a.attr("clip") is not None:
        return "clipping"
    if a.name == "GRU" and not a.attr("linear_before_reset", 0):
        return "linear_before_reset=0"
    if a.name == "LSTM":
        if a.attr("input_forget", 0):
            return "coupled input and forget gates"
        if a.has(7):
            return "peepholes"
        if layer.lengths is not None and a.uses(2):
            return "the cell states of sequences that end early"
    return None


def _run_whole(
    a: Application, layer: Layer, x: Value, chosen: Sequence[int], batch_first: bool
) -> tuple[Value, list[Value]]:
    """PyTorch's layer for some of the directions: the output `[…, directions·hidden]`, and the last states."""
    params = [p for index in chosen for p in weights(a, index)]
    states = list(layer.states)
    if len(chosen) < len(layer.directions):
        states = [a.emit("aten.slice.Tensor", s, 0, chosen[0], chosen[0] + 1) for s in states]
    op = LAYERS[layer.functions[0][0].name if a.name == "RNN" else a.name]
    given = states if a.name == "LSTM" else states[0]
    y, *finals = a.emit_all(op, x, given, params, a.has(3), 1, 0.0, False, len(chosen) > 1, batch_first)
    return y, finals


def _results(a: Application, layer: Layer, y: Value, finals: Sequence[Value]) -> list[Entry]:
    """Y with a dim of the directions, and the last states; None for what nothing uses."""
    count = len(layer.directions)
    results: list[Entry] = [None] * (1 + len(finals))
    if a.uses(0):
        first, second = tensor_type(y).shape[:2]
        apart = a.reshape(y, (first, second, count, layer.hidden))
        results[0] = apart if layer.batch_first else a.emit("aten.permute", apart, [0, 2, 1, 3])
    for index, final in enumerate(finals, start=1):
        if a.uses(index):
            results[index] = a.emit("aten.permute", final, [1, 0, 2]) if layer.batch_first else final
    return results[: a.num_outputs]


class _Order:
    """Time first: reverses sequences and masks what lies behind their ends. lengths: None if none ends early."""

    def __init__(self, a: Application, x: Value, lengths: Value | None) -> None:
        self._a = a
        self._lengths = lengths
        self._inside: Value | None = None
        if lengths is None:
            return
        self._time, self._batch = tensor_type(x).shape[:2]
        self._steps = a.emit("aten.unsqueeze", a.emit("aten.arange", self._time, dtype=DType.I64), 1)
        self._inside = a.emit("aten.lt.Tensor", self._steps, lengths)

    def reversed(self, x: Value) -> Value:
        """Each sequence from its end; what lies behind the end stays."""
        a = self._a
        if self._lengths is None:
            return a.emit("aten.flip", x, [0])
        mirrored = a.emit("aten.sub.Tensor", a.emit("aten.sub.Scalar", self._lengths, 1), self._steps)
        return self._gathered(x, a.emit("aten.where.self", self._inside, mirrored, self._steps), self._time)

    def masked(self, y: Value) -> Value:
        """Zero behind the end."""
        if self._inside is None:
            return y
        inside = self._a.emit("aten.unsqueeze", self._inside, -1)
        return self._a.emit("aten.where.self", inside, y, self._a.scalar(0, y))

    def last(self, y: Value) -> Value:
        """The output at the end of each sequence, `[1, batch, hidden]`."""
        position = self._a.emit("aten.clamp", self._a.emit("aten.sub.Scalar", self._lengths, 1), 0)
        return self._gathered(y, self._a.reshape(position, (1, self._batch)), 1)

    def of_nothing_zero(self, state: Value) -> Value:
        """A last state `[1, batch, hidden]`, zero for a sequence of no steps, as ONNX Runtime has it."""
        if self._lengths is None or (
            self._lengths.constant is not None and bool((self._lengths.constant.tensor > 0).all())
        ):
            return state
        some = self._a.emit("aten.gt.Scalar", self._a.reshape(self._lengths, (self._batch, 1)), 0)
        return self._a.emit("aten.where.self", some, state, self._a.scalar(0, state))

    def _gathered(self, x: Value, index: Value, time: Dim) -> Value:
        width = tensor_type(x).shape[2]
        wide = self._a.emit("aten.expand", self._a.emit("aten.unsqueeze", index, -1), (time, self._batch, width))
        return self._a.emit("aten.gather", x, 0, wide)
