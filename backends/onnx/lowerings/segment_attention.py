"""Attention within the sequences of a batch, on live rows: no operator of ONNX has segments, so rows are padded for it.

The longer half of the sequences is padded to the longest of all, the shorter half to the longest among them: in a batch
of mixed lengths that is about half of the scores. Where rows come from and go to is computed once for all attentions
with one mask:

    source [b, l]      the row at place l of sequence b, or that of zeros behind the last
    place [T]          where a row lies among the padded results of both halves
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import torch

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.lowerings.attention import WHOLE, additive, attend, causal_mask
from graphopt.backends.onnx.lowerings.common import static
from graphopt.backends.onnx.records import Tensor
from graphopt.backends.onnx.registry import Call, Declined, lowers
from graphopt.backends.onnx.shaping import concat, full, reshape, slice_, transpose, unsqueeze
from graphopt.ir import DType
from graphopt.ir.dims import Dim, floordiv


@lowers("graphopt.segment_attention")
def _lower_segments(e: Emitter, a: Call) -> Tensor:
    """In two halves where attention is an operator, else with every sequence in its place."""
    heads, shared = (static(x.dims[1]) for x in (a.query, a.key))
    if heads is None or shared is None:
        raise Declined("attention over an unknown number of heads")
    if e.opset < WHOLE or a.query.dtype is not DType.F32:
        return _in_place(e, a)
    batch = _Batch(e, a.mask)
    operands = [_with_zeros(e, x) for x in (a.query, a.key, a.value)]
    options = {"is_causal": int(a.is_causal) or None, "scale": a.scale, "q_num_heads": heads, "kv_num_heads": shared}
    width = heads * a.value.dims[2]
    parts = []
    for half in (0, 1):
        padded = [e.op("Gather", x, batch.source(half), axis=0, shape=None) for x in operands]
        result = e.op("Attention", *padded, batch.shown(half), shape=None, **options)
        parts.append(e.op("Reshape", result, [-1, width], shape=None))
    rows = e.op(
        "Gather", e.op("Concat", *parts, axis=0, shape=None), batch.places(), axis=0, shape=(a.out.shape[0], width)
    )
    return reshape(e, rows, a.out.shape)


def _once(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let what a method makes be made once for a mask, whichever attention asks."""

    @wraps(method)
    def made(batch: _Batch, *arguments: int) -> Tensor:
        return batch.e.once((method.__name__, batch.mask, *arguments), lambda: method(batch, *arguments))

    return made


class _Batch:
    """The halves of a batch by the lengths of its sequences, the longer ones first; an odd one is in both."""

    def __init__(self, e: Emitter, mask: Tensor) -> None:
        self.e, self.mask = e, mask
        self.size = mask.dims[0]
        self.count = floordiv(self.size + 1, 2)
        self.zero, self.one = (e.scalar(number, DType.I64) for number in (0, 1))

    @_once
    def source(self, half: int) -> Tensor:
        """The row at each place, [b, l]: that of zeros behind the end of a sequence."""
        row = self.e.op("Add", self._of_half(self._starts(), half), self._numbers(half), shape=None)
        return self.e.op("Where", self._live(half), row, self._total(), shape=None)

    @_once
    def shown(self, half: int) -> Tensor:
        """The keys that each query sees, [b, 1, l, l]."""
        size = self.e.op("Reshape", self._longest(half), [1], shape=(1,))
        shape = self.e.op("Concat", self.e.sizes.vector((self.count, 1)), size, size, axis=0, shape=(4,))
        live = self.e.op("Unsqueeze", self._live(half), [1, 2], shape=None)
        return self.e.op("Expand", live, shape, shape=None)

    @_once
    def places(self) -> Tensor:
        """Where each row lies among the places of both halves, one behind the other: [T]. It is the inverse of the
        sources, but for what lies at the row of zeros."""
        e = self.e
        flat = [e.op("Reshape", self.source(half), [-1], shape=None) for half in (0, 1)]
        rows = e.op("Concat", *flat, axis=0, shape=None)
        count = e.op("Squeeze", e.op("Shape", rows, dtype=DType.I64, shape=(1,)), [0], shape=())
        numbers = e.op("Range", self.zero, count, self.one, shape=None)
        size = e.op("Add", self._total(), e.ints([1]), shape=(1,))
        zeros = e.op("ConstantOfShape", size, dtype=DType.I64, shape=None, value=torch.zeros(1, dtype=torch.int64))
        places = e.op("ScatterElements", zeros, rows, numbers, axis=0, shape=None)
        return e.op("Slice", places, e.ints([0]), self._total(), e.ints([0]), shape=None)

    @_once
    def _lengths(self) -> Tensor:
        live = self.e.cast(self.e.cast(self.mask, DType.BOOL), DType.I64)
        return self.e.op("ReduceSum", live, [1], keepdims=0, shape=(self.size,))

    @_once
    def _starts(self) -> Tensor:
        """The first row of each sequence."""
        return self.e.op("CumSum", self._lengths(), self.zero, exclusive=1, shape=(self.size,))

    @_once
    def _total(self) -> Tensor:
        return self.e.op("ReduceSum", self._lengths(), [0], keepdims=1, shape=(1,))

    @_once
    def _order(self) -> Tensor:
        """The sequences, the longest first."""
        shapes = ((self.size,),) * 2
        size = self.e.sizes.vector((self.size,))
        return self.e.ops("TopK", self._lengths(), size, dtypes=(None, None), shapes=shapes, axis=0)[1]

    def _of_half(self, values: Tensor, half: int) -> Tensor:
        """Those of a half's sequences: [b, 1]."""
        first = 0 if half == 0 else self.size - self.count
        own = slice_(self.e, self._order(), 0, first, first + self.count, size=self.count)
        return unsqueeze(self.e, self.e.op("Gather", values, own, axis=0, shape=(self.count,)), [1])

    @_once
    def _ends(self, half: int) -> Tensor:
        return self._of_half(self._lengths(), half)

    @_once
    def _longest(self, half: int) -> Tensor:
        """The length of the longest sequence, 1 at least."""
        return self.e.op("Max", self.e.op("ReduceMax", self._ends(half), [0, 1], keepdims=0, shape=()), 1, shape=())

    @_once
    def _numbers(self, half: int) -> Tensor:
        """The numbers of places: [1, l]."""
        numbers = self.e.op("Range", self.zero, self._longest(half), self.one, shape=None)
        return self.e.op("Unsqueeze", numbers, [0], shape=None)

    @_once
    def _live(self, half: int) -> Tensor:
        """The places in front of the end: [b, l]."""
        return self.e.op("Less", self._numbers(half), self._ends(half), dtype=DType.BOOL, shape=None)


def _with_zeros(e: Emitter, x: Tensor) -> Tensor:
    """Rows side by side, [T, H, E] → [T + 1, H · E], and a row of zeros behind."""
    width = x.dims[1] * x.dims[2]
    return concat(e, [reshape(e, x, (x.dims[0], width)), full(e, (1, width), 0.0, x.dtype)], 0)


def _in_place(e: Emitter, a: Call) -> Tensor:
    """By products and softmax, each row in its place of the batch [B, L]."""
    batch, length = a.mask.dims
    live = e.cast(a.mask, DType.BOOL)
    rows = e.once(("live rows", a.mask), lambda: _live_rows(e, live))
    mask = additive(e, unsqueeze(e, live, [1, 2]), a.query.dtype)
    if a.is_causal:
        mask = e.op("Add", mask, causal_mask(e, length, length, a.query.dtype))
    query, key, value = (_padded(e, x, rows, batch, length) for x in (a.query, a.key, a.value))
    result = attend(e, query, key, value, mask, a.scale, may_be_empty=True)[0]
    flat = reshape(e, transpose(e, result, (0, 2, 1, 3)), (batch * length, *a.out.shape[1:]))
    return e.op("Gather", flat, rows, axis=0, shape=a.out.shape)


def _live_rows(e: Emitter, live: Tensor) -> Tensor:
    """The places of live positions in the batch, flattened: i64 [T]."""
    batch, length = live.dims
    found = e.op("NonZero", reshape(e, live, (batch * length,)), dtype=DType.I64, shape=None)
    return e.op("Squeeze", found, [0], shape=None)


def _padded(e: Emitter, x: Tensor, rows: Tensor, batch: Dim, length: Dim) -> Tensor:
    """[T, H, E] → [B, H, L, E], with zeros at the other positions."""
    _, heads, width = x.dims
    places = full(e, (batch * length, heads, width), 0.0, x.dtype)
    index = e.once(("places of rows", rows), lambda: e.op("Unsqueeze", rows, [1], shape=None))
    filled = e.op("ScatterND", places, index, x, shape=places.dims)
    return transpose(e, reshape(e, filled, (batch, length, heads, width)), (0, 2, 1, 3))
