"""Scaled dot-product attention.

    S = (√s·Q)(√s·K)ᵀ      C = c·tanh(S/c), or S without a cap c      Y = softmax(C + B)·V

Keys and values of the past come first. Heads that share a key stand side by side. The bias B is the sum of the mask and
of −∞ where a key j is hidden from a query i, which stands at position p = i + offset: by causality (j > p), by a window
(j < p − left, j > p + right), or as padding (j ≥ length). The offset is the length of the past; without a past, the
padded length less the number of queries. A query that sees no key gives zeros.

All of it is `scaled_dot_product_attention` but for the cap, a softmax in lower precision, and results on the way.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any

from graphopt.frontends.onnx.application import Application, Declined, tensor_type, translates
from graphopt.ir import DType, Value
from graphopt.ir.dims import Dim, equal, exact_div, floordiv, less
from graphopt.ops.onnx_dtypes import FROM_ONNX_CODE

RAW, CAPPED, BIASED, PROBABILITIES = range(4)
"""What `qk_matmul_output_mode` asks for."""


@translates("Attention")
def attention(a: Application) -> Any:
    """Attention over heads `[B, H, L, E]`, or over `[B, L, H·E]` with the heads given."""
    flat = a.type(0).rank == 3
    queries, keys, values = (_heads(a, i, "q_num_heads" if i == 0 else "kv_num_heads") for i in range(3))
    if a.has(4) != a.has(5):
        raise Declined("a past of the keys or of the values alone")
    if a.has(4):
        keys = a.emit("aten.cat", [a[4], keys], 2)
        values = a.emit("aten.cat", [a[5], values], 2)
    problem = Problem(a, queries, keys, values)
    y, scores = problem.solve()
    if flat:
        moved = a.emit("aten.permute", y, [0, 2, 1, 3])
        batch, length, heads, width = tensor_type(moved).shape
        y = a.reshape(moved, (batch, length, heads * width))
    return [y, keys, values, scores][: max(a.num_outputs, 1)]


@translates("FlexAttention", domain="ai.onnx.preview")
def flex_attention(a: Application) -> Value:
    """Attention whose scores and probabilities are as they come; the operator's own definition says the rest."""
    if a.attr("score_mod") is not None or a.attr("prob_mod") is not None:
        raise Declined("scores or probabilities that a graph modifies")
    if FROM_ONNX_CODE.get(a.attr("softmax_precision"), DType.F32) not in (DType.F32, a.type(0).dtype):
        raise Declined("a softmax in another precision")
    return Problem(a, a[0], a[1], a[2]).solve()[0]


def _heads(a: Application, index: int, name: str) -> Value:
    """An operand as `[B, H, L, E]`."""
    x, shape = a[index], a.type(index).shape
    if len(shape) == 4:
        return x
    heads = a.attr(name)
    if len(shape) != 3 or not heads:
        raise Declined(f"an operand of rank {len(shape)} without {name}")
    width = floordiv(shape[2], heads)
    return a.emit("aten.permute", a.reshape(x, (shape[0], shape[1], heads, width)), [0, 2, 1, 3])


@dataclass(frozen=True)
class Problem:
    """Attention of heads that stand ready: `[B, Hq, L, E]`, `[B, Hkv, S, E]`, `[B, Hkv, S, V]`."""

    a: Application
    queries: Value
    keys: Value
    values: Value

    def __post_init__(self) -> None:
        types = {tensor_type(v).dtype for v in (self.queries, self.keys, self.values)}
        if len(types) > 1:
            raise Declined("queries, keys and values of different types")
        scale = self.a.attr("scale")
        if scale is not None and scale < 0:
            raise Declined(f"a negative scale, {scale}, of which there is no root")

    @property
    def dtype(self) -> DType:
        """The element type."""
        return tensor_type(self.queries).dtype

    @property
    def lengths(self) -> tuple[Dim, Dim]:
        """The numbers of queries and of keys."""
        return tensor_type(self.queries).shape[2], tensor_type(self.keys).shape[2]

    @property
    def groups(self) -> int:
        """How many query heads share a key head."""
        heads, shared = (tensor_type(v).shape[1] for v in (self.queries, self.keys))
        found = exact_div(heads, shared)
        if not isinstance(found, int) or found < 1:
            raise Declined(f"{heads} query heads are not known to be a multiple of {shared} key heads")
        return found

    def solve(self) -> tuple[Value, Value | None]:
        """The output, and the scores that were asked for."""
        a, bias = self.a, self._bias()
        if a.attr("softcap", 0.0) == 0 and not a.uses(3) and self._softmax_dtype in (None, DType.F32):
            if not a.attr("is_causal", 0) or bias is not None:
                return self._whole(bias, False), None
            return self._whole(None, True), None
        return self._by_parts(bias)

    @property
    def _softmax_dtype(self) -> DType | None:
        """The type that the softmax is asked to be computed in, if it is another; PyTorch's has at least 32 bits."""
        code = self.a.attr("softmax_precision")
        if code is None:
            return None
        dtype = FROM_ONNX_CODE[code]
        return None if dtype is self.dtype else dtype

    def _whole(self, bias: Value | None, causal: bool) -> Value:
        a = self.a
        if bias is not None and tensor_type(bias).rank < 2:
            bias = a.emit("aten.unsqueeze", bias, 0)
        grouped = {"enable_gqa": True} if self.groups > 1 else {}
        name = "aten.scaled_dot_product_attention"
        return a.emit(name, self.queries, self.keys, self.values, bias, 0.0, causal, scale=a.attr("scale"), **grouped)

    def _by_parts(self, bias: Value | None) -> tuple[Value, Value]:
        a, cap, mode = self.a, self.a.attr("softcap", 0.0), self.a.attr("qk_matmul_output_mode", RAW)
        raw = self._products()
        capped = raw
        if cap > 0:
            capped = a.emit("aten.mul.Scalar", a.emit("aten.tanh", a.emit("aten.div.Scalar", raw, cap)), cap)
        if bias is None and a.attr("is_causal", 0):
            bias = self._additive(self._causal())
        elif bias is not None:
            bias = self._additive(bias)
        biased = capped if bias is None else a.emit("aten.add.Tensor", capped, bias)
        weights = a.emit("aten.softmax.int", a.cast(biased, self._softmax_dtype or self.dtype), -1)
        weights = a.cast(weights, self.dtype)
        if bias is not None:
            largest = a.emit("aten.amax", bias, [-1], True)
            hidden = a.emit("aten.eq.Scalar", largest, float("-inf"))
            weights = a.emit("aten.where.self", hidden, a.scalar(0.0, weights), weights)
        y = a.emit("aten.matmul", weights, self._shared(self.values))
        return y, (raw, capped, biased, weights)[mode]

    def _products(self) -> Value:
        a, scale = self.a, self.a.attr("scale")
        if scale is None:
            size = tensor_type(self.queries).shape[3]
            if not isinstance(size, int):
                raise Declined("attention by parts without a scale, over heads of unknown size")
            scale = size**-0.5
        left, right = (a.emit("aten.mul.Scalar", v, scale**0.5) for v in (self.queries, self._shared(self.keys)))
        return a.emit("aten.matmul", left, a.emit("aten.transpose.int", right, -1, -2))

    def _shared(self, value: Value) -> Value:
        """Each key head as often as query heads share it."""
        groups = self.groups
        return value if groups == 1 else self.a.emit("aten.repeat_interleave.self_int", value, groups, 1)

    # The bias

    def _bias(self) -> Value | None:
        """The mask and all else that hides keys, as truth values or numbers; None if nothing but causality does, and
        it alone is what `is_causal` of PyTorch means."""
        a = self.a
        hiding = [value for value in (self._window(), self._padding()) if value is not None]
        mask = self._mask()
        plain = mask is None and not hiding and not a.has(4) and not a.has(6)
        if a.attr("is_causal", 0) and not plain:
            hiding.append(self._causal())
        seen = reduce(lambda x, y: a.emit("aten.logical_and", x, y), hiding) if hiding else None
        if mask is None or seen is None:
            return mask if seen is None else seen
        if tensor_type(mask).dtype is DType.BOOL:
            return a.emit("aten.logical_and", mask, seen)
        return a.emit("aten.add.Tensor", mask, self._additive(seen))

    def _additive(self, mask: Value) -> Value:
        """0 where a mask of truth values is true, −∞ where it is not; another mask as it is."""
        if tensor_type(mask).dtype is not DType.BOOL:
            return mask
        a = self.a
        nothing, hidden = (a.scalar(number, self.queries) for number in (0.0, float("-inf")))
        return a.emit("aten.where.self", mask, nothing, hidden)

    def _mask(self) -> Value | None:
        """The mask, padded to all keys where it is shorter."""
        a, keys = self.a, self.lengths[1]
        if not a.has(3):
            return None
        mask = a[3] if a.type(3).dtype is DType.BOOL else a.cast(a[3], self.dtype)
        size = tensor_type(mask).shape[-1] if tensor_type(mask).rank else 1
        same = equal(size, keys)
        if same:
            return mask
        if equal(size, 1) is True or (a.version < 24 and same is False):
            raise Declined(f"a mask of {size} keys for {keys}: of whether it is padded or repeated opinions differ")
        missing = keys - size
        if less(missing, 0) is True:
            raise Declined(f"a mask of {size} keys for {keys}")
        fill = False if tensor_type(mask).dtype is DType.BOOL else float("-inf")
        return a.emit("aten.constant_pad_nd", mask, [0, missing], fill)

    def _padding(self) -> Value | None:
        """Keys that are not padding: j < length, `[B, 1, 1, S]`."""
        a = self.a
        if not a.has(6):
            return None
        if a.has(4):
            raise Declined("both a past and lengths of padded keys")
        lengths = a.reshape(a.cast(a[6], DType.I64), (tensor_type(self.queries).shape[0], 1, 1, 1))
        return a.emit("aten.lt.Tensor", self._counted(self.lengths[1]), lengths)

    def _causal(self) -> Value:
        """j ≤ p."""
        return self.a.emit("aten.le.Tensor", self._counted(self.lengths[1]), self._positions())

    def _window(self) -> Value | None:
        """p − left ≤ j ≤ p + right."""
        a = self.a
        left, right = (a.attr(f"{side}_window_size", -1) for side in ("left", "right"))
        if left < 0 and right < 0:
            return None
        position, keys = self._positions(), self._counted(self.lengths[1])
        seen: list[Value] = []
        if left >= 0:
            seen.append(a.emit("aten.ge.Tensor", keys, a.emit("aten.sub.Scalar", position, left)))
        if right >= 0:
            seen.append(a.emit("aten.le.Tensor", keys, a.emit("aten.add.Scalar", position, right)))
        return reduce(lambda x, y: a.emit("aten.logical_and", x, y), seen)

    def _positions(self) -> Value:
        """Where each query stands among the keys: `[L, 1]`, or `[B, 1, L, 1]` where the lengths differ."""
        a, queries = self.a, self.lengths[0]
        index = a.emit("aten.unsqueeze", self._counted(queries), 1)
        if a.has(4):
            past = a.type(4).shape[2]
            return index if past == 0 else a.emit("aten.add.Scalar", index, past)
        if not a.has(6):
            return index
        offset = a.emit("aten.sub.Scalar", a.cast(a[6], DType.I64), queries)
        return a.emit("aten.add.Tensor", index, a.reshape(offset, (tensor_type(self.queries).shape[0], 1, 1, 1)))

    def _counted(self, size: Dim) -> Value:
        return self.a.emit("aten.arange", size, dtype=DType.I64)
