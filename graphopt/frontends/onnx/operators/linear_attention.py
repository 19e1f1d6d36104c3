"""Linear attention: a state that each key writes to and each query reads, one position after another.

    S_t = e^{g_t}·S_{t−1} + k_t ⊗ u_t        o_t = scale · q_tᵀ S_t
    u_t = v_t,   or by the delta rule   β_t·(v_t − (e^{g_t}·S_{t−1})ᵀ k_t)

Written out, with G_t = g_1 + … + g_t and A(x)_ts = Σ_d x_td k_sd e^{G_td − G_sd}, a whole chunk is a few products:

    (I + β·A(k) below the diagonal)·U = β·(V − (k e^G)·S_0)          U = V without the delta rule
    O = scale·(A(q) up to the diagonal·U + (q e^G)·S_0)              S_T = e^{G_T}·S_0 + (k e^{G_T − G})ᵀ·U

No exponent is positive where the decay g is not, so that nothing overflows. A sequence of known length is cut into
chunks; one of unknown length is a single one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from graphopt.frontends.onnx.application import Application, Declined, tensor_type, translates
from graphopt.ir import DType, Value
from graphopt.ir.dims import Dim, equal, floordiv

CHUNK, CHUNKS = 64, 32
"""Positions in a chunk, and how many chunks there may be before they grow."""


@translates("LinearAttention")
def linear_attention(a: Application) -> Any:
    """The output `[B, T, Hq·V]` and the last state `[B, H, K, V]`, computed in 32 bits."""
    chunk = _operands(a)
    batch, _, length, width = tensor_type(chunk.value).shape
    state_dtype = a.type(3).dtype if a.has(3) else a.type(0).dtype
    if a.has(3):
        state = a.cast(a[3], DType.F32)
    else:
        shape = (batch, a.attr("kv_num_heads"), tensor_type(chunk.key).shape[3], width)
        state = a.emit("aten.full", shape, 0.0, dtype=DType.F32)
    outputs = []
    for part in _chunks(chunk, length):
        output, state = part.step(state)
        outputs.append(output)
    joined = outputs[0] if len(outputs) == 1 else a.emit("aten.cat", outputs, 2)
    heads = a.attr("q_num_heads")
    flat = a.reshape(a.emit("aten.permute", joined, [0, 2, 1, 3]), (batch, length, heads * width))
    return [a.cast(flat, a.type(0).dtype), a.cast(state, state_dtype)]


def _operands(a: Application) -> Chunk:
    rule, heads, shared = a.attr("update_rule", "gated_delta"), a.attr("q_num_heads"), a.attr("kv_num_heads")
    if rule not in ("linear", "gated", "delta", "gated_delta"):
        raise Declined(f"update rule {rule!r}")
    if heads <= 0 or shared <= 0 or heads % shared:
        raise Declined(f"{heads} query heads are no multiple of {shared} key heads")
    if ("gated" in rule) != a.has(4) or ("delta" in rule) != a.has(5):
        raise Declined(f"update rule {rule!r} with other operands than it takes")
    query, key, value = _heads(a, 0, heads), _heads(a, 1, shared), _heads(a, 2, shared)
    decay = _heads(a, 4, shared) if a.has(4) else None
    rate = _heads(a, 5, 1 if equal(a.type(5).shape[2], 1) else shared) if a.has(5) else None
    return Chunk(a, query, key, value, decay, rate, heads // shared, _scale(a, query))


def _heads(a: Application, index: int, heads: int) -> Value:
    """`[B, T, H·D]` as `[B, H, T, D]`, in 32 bits."""
    batch, length, width = a.type(index).shape
    each = floordiv(width, heads)
    split = a.reshape(a.cast(a[index], DType.F32), (batch, length, heads, each))
    return a.emit("aten.permute", split, [0, 2, 1, 3])


def _scale(a: Application, query: Value) -> float:
    scale, size = a.attr("scale", 0.0), tensor_type(query).shape[3]
    if scale:
        return float(scale)
    if not isinstance(size, int):
        raise Declined("linear attention without a scale, over heads of unknown size")
    return float(size**-0.5)


def _chunks(whole: Chunk, length: Dim) -> list[Chunk]:
    if not isinstance(length, int) or length <= CHUNK:
        return [whole]
    size = max(CHUNK, -(-length // CHUNKS))
    return [whole.part(start, min(start + size, length)) for start in range(0, length, size)]


@dataclass(frozen=True)
class Chunk:
    """Consecutive positions: queries `[B, Hq, T, K]`, keys `[B, H, T, K]`, values `[B, H, T, V]`, the logarithm of the
    decay `[B, H, T, 1 or K]`, the rate β `[B, H or 1, T, 1]`."""

    a: Application
    query: Value
    key: Value
    value: Value
    decay: Value | None
    rate: Value | None
    groups: int
    scale: float

    def part(self, start: int, end: int) -> Chunk:
        """The positions from `start` up to `end`."""

        def cut(x: Value | None) -> Value | None:
            return None if x is None else self.a.emit("aten.slice.Tensor", x, 2, start, end)

        fields = ("query", "key", "value", "decay", "rate")
        return replace(self, **{name: cut(getattr(self, name)) for name in fields})  # type: ignore[arg-type]

    @property
    def length(self) -> Dim:
        """How many positions there are."""
        return tensor_type(self.key).shape[2]

    def step(self, state: Value) -> tuple[Value, Value]:
        """The output and the state after the chunk."""
        a = self.a
        total = None if self.decay is None else a.emit("aten.cumsum", self.decay, 2)
        written = self._written(total, state)
        query, key, seen, before, logs = self.query, self.key, written, state, total
        if self.groups > 1:
            key, seen, before = (self._shared(v) for v in (key, seen, before))
            logs = None if total is None else self._shared(total)
        inner = a.emit("aten.matmul", self._products(query, key, logs, 0), seen)
        read = a.emit("aten.add.Tensor", inner, a.emit("aten.matmul", self._decayed(query, logs), before))
        return a.emit("aten.mul.Scalar", read, self.scale), self._after(total, written, state)

    def _written(self, total: Value | None, state: Value) -> Value:
        """U: what each key writes."""
        a = self.a
        if self.rate is None:
            return self.value
        stored = a.emit("aten.matmul", self._decayed(self.key, total), state)
        news = a.emit("aten.mul.Tensor", self.rate, a.emit("aten.sub.Tensor", self.value, stored))
        if self.length == 1:
            return news
        mixed = a.emit("aten.mul.Tensor", self.rate, self._products(self.key, self.key, total, -1))
        return a.emit("aten.linalg_solve_triangular", mixed, news, upper=False, unitriangular=True)

    def _products(self, x: Value, key: Value, total: Value | None, diagonal: int) -> Value:
        """A(x) up to a diagonal, zero beyond it: `[B, H, T, T]`."""
        a = self.a
        if total is None or self.length == 1:
            return a.emit("aten.tril", a.emit("aten.matmul", x, a.emit("aten.transpose.int", key, -1, -2)), diagonal)
        rows, columns = a.emit("aten.unsqueeze", total, 3), a.emit("aten.unsqueeze", total, 2)
        power = a.emit("aten.sub.Tensor", rows, columns)  # [B, H, T, T, 1 or K]
        if tensor_type(total).shape[3] == 1:
            products = a.emit("aten.matmul", x, a.emit("aten.transpose.int", key, -1, -2))
            factors = a.emit("aten.exp", self._hidden(a.emit("aten.squeeze.dim", power, 4), diagonal))
            return a.emit("aten.mul.Tensor", products, factors)
        factors = a.emit("aten.exp", self._hidden(power, diagonal))
        pairs = a.emit("aten.mul.Tensor", a.emit("aten.unsqueeze", x, 3), a.emit("aten.unsqueeze", key, 2))
        return a.emit("aten.sum.dim_IntList", a.emit("aten.mul.Tensor", pairs, factors), [4])

    def _hidden(self, power: Value, diagonal: int) -> Value:
        """−∞ beyond a diagonal of the dims 2 and 3."""
        a, length = self.a, self.length
        steps = a.emit("aten.arange", length, dtype=DType.I64)
        last = a.emit("aten.unsqueeze", a.emit("aten.add.Scalar", steps, diagonal), 1)
        seen = a.emit("aten.le.Tensor", steps, last)
        if tensor_type(power).rank == 5:
            seen = a.emit("aten.unsqueeze", seen, 2)
        return a.emit("aten.where.self", seen, power, a.constant(torch.tensor(float("-inf"))))

    def _decayed(self, x: Value, total: Value | None) -> Value:
        """x·e^G."""
        return x if total is None else self.a.emit("aten.mul.Tensor", x, self.a.emit("aten.exp", total))

    def _after(self, total: Value | None, written: Value, state: Value) -> Value:
        a, key = self.a, self.key
        if total is not None:
            last = a.emit("aten.slice.Tensor", total, 2, -1, None)
            key = a.emit("aten.mul.Tensor", key, a.emit("aten.exp", a.emit("aten.sub.Tensor", last, total)))
            fade = a.emit("aten.exp", a.emit("aten.transpose.int", last, -1, -2))
            state = a.emit("aten.mul.Tensor", state, fade)
        news = a.emit("aten.matmul", a.emit("aten.transpose.int", key, -1, -2), written)
        return a.emit("aten.add.Tensor", state, news)

    def _shared(self, value: Value) -> Value:
        return self.a.emit("aten.repeat_interleave.self_int", value, self.groups, 1)


@translates("CausalConvWithState")
def causal_conv_with_state(a: Application) -> Any:
    """A convolution of each channel with what came before, and the last k − 1 elements for the next call."""
    x, weight = a[0], a[1]
    batch, channels, length = tensor_type(x).shape
    groups, _, size = tensor_type(weight).shape
    activation = a.attr("activation", "none")
    if not isinstance(groups, int) or not isinstance(size, int):
        raise Declined("a kernel whose size is not known")
    if activation not in ("none", "silu", "swish"):
        raise Declined(f"activation {activation!r}")
    past = a[3] if a.has(3) else a.emit("aten.full", (batch, channels, size - 1), 0.0, dtype=tensor_type(x).dtype)
    whole = a.emit("aten.cat", [past, x], 2)
    y = a.emit("aten.conv1d", whole, weight, a.get(2), [1], [0], [1], groups)
    if activation != "none":
        y = a.emit("aten.silu", y)
    return [y, a.emit("aten.slice.Tensor", whole, 2, length, length + size - 1)]
