"""Floating-point operations of single nodes, by operator.

A multiply-add counts as one MAC and two FLOPs. An elementwise operator counts one FLOP for each element of its result
(transcendental functions too), a reduction one for each element that it reads, a view none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from graphopt.ir import Node, TensorType, Trait, Value
from graphopt.ir.dims import evaluate
from graphopt.ops.attention import decode

Bindings = Mapping[str, int]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Work:
    """Multiply-adds, and operations in all (multiply-adds counted twice)."""

    macs: int
    flops: int


NONE = Work(0, 0)


class Shapes:
    """The shapes of a node's operands and results, with symbols bound."""

    def __init__(self, node: Node, bindings: Bindings) -> None:
        self.node = node
        self.bindings = bindings
        self._arguments: dict[str, Any] | None = None

    def operand(self, name: str) -> Shape | None:
        """The shape of an operand, or None if it is absent or no tensor."""
        if self._arguments is None:
            self._arguments = self.node.arguments()
        return self.of(self._arguments.get(name))

    def result(self, index: int = 0) -> Shape:
        """The shape of a result; () for what is no tensor."""
        return self.of(self.node.results[index]) or ()

    def of(self, value: Any) -> Shape | None:
        """The shape of a value."""
        if not isinstance(value, Value) or not isinstance(value.type, TensorType):
            return None
        return tuple(d if isinstance(d, int) else max(evaluate(d, self.bindings), 0) for d in value.type.shape)

    def first(self) -> Shape:
        """The shape of the first operand that is a tensor."""
        return next((s for s in map(self.of, self.node.operands) if s is not None), ())


Rule = Callable[[Shapes], Work]


def macs(count: int, extra: int = 0) -> Work:
    """Work of `count` multiply-adds and `extra` other operations."""
    return Work(count, 2 * count + extra)


def _per_output(factor: int) -> Rule:
    return lambda s: Work(0, factor * sum(prod(s.result(i)) for i in range(len(s.node.results))))


def _per_input(factor: int) -> Rule:
    return lambda s: Work(0, factor * prod(s.first()))


def _none(shapes: Shapes) -> Work:
    return NONE


def _convolution(s: Shapes) -> Work:
    weight = s.operand("weight") or ()
    transposed = "transpose" in s.node.op.name or s.node.attributes.get("transposed") is True
    # Each element of the result (of the input, if transposed) meets one kernel column of its group.
    positions = prod((s.operand("input") or s.first()) if transposed else s.result())
    bias = prod(s.result()) if s.operand("bias") is not None else 0
    return macs(positions * prod(weight[1:]), bias)


def _linear(s: Shapes) -> Work:
    weight = s.operand("weight") or (1,)
    return macs(prod(s.result()) * weight[-1], prod(s.result()) if s.operand("bias") is not None else 0)


def _matmul(s: Shapes) -> Work:
    return macs(prod(s.result()) * s.first()[-1])


def _added_matmul(name: str) -> Rule:
    def rule(s: Shapes) -> Work:
        return macs(prod(s.result()) * (s.operand(name) or (1,))[-1], prod(s.result()))

    return rule


def _attention(s: Shapes) -> Work:
    query, key, value = (s.operand(n) or (1, 1) for n in ("query", "key", "value"))
    scores = prod(query[:-1]) * key[-2]
    return macs(scores * (query[-1] + value[-1]), 5 * scores)


def _whole_attention(s: Shapes) -> Work:
    """Of heads side by side, too."""
    query, key, value = (s.operand(n) or (1, 1, 1, 1) for n in ("query", "key", "value"))
    if len(query) == 4:
        return _attention(s)
    heads, shared = s.node.attributes["q_heads"], s.node.attributes["kv_heads"]
    scores = heads * prod(query[:2]) * key[1]
    return macs(scores * (query[2] // heads + value[2] // shared), 5 * scores)


def _planned_attention(s: Shapes) -> Work:
    """The scores that a plan or a window has computed."""
    query, key, value = (s.operand(n) or (1, 1, 1, 1) for n in ("query", "key", "value"))
    given = s.node.attributes
    if "plan" in given:
        pairs = sum(call.pairs for call in decode(tuple(given["plan"])))
    else:
        pairs = query[2] * min(given["left"] + given["right"] + 1 + given["tokens"], key[2])
    scores = pairs * prod(query[:2])
    return macs(scores * (query[3] + value[3]), 5 * scores)


def _segment_attention(s: Shapes) -> Work:
    """Each row sees as many rows as a sequence has at most."""
    query, value, mask = (s.operand(n) or (1, 1, 1) for n in ("query", "value", "mask"))
    scores = query[0] * query[1] * min(query[0], mask[1])
    return macs(scores * (query[2] + value[2]), 5 * scores)


def _recurrent(gates: int) -> Rule:
    """Each step of each layer and direction multiplies two matrices of `gates` blocks: input and hidden state."""

    def rule(s: Shapes) -> Work:
        steps = prod(s.first()[:-1])
        weights = [w for w in (s.of(v) for v in s.node.operands) if w is not None and len(w) == 2 and w[0] % gates == 0]
        return macs(steps * sum(map(prod, weights)), steps * sum(w[0] for w in weights) // 2)

    return rule


def _einsum(s: Shapes) -> Work:
    """Contract from left to right; an index is summed out once no later operand and not the result has it."""
    equation = str(s.node.attributes.get("equation", "")).replace(" ", "")
    inputs, arrow, output = equation.partition("->")
    terms = inputs.split(",")
    shapes = [shape for shape in map(s.of, s.node.operands) if shape is not None]
    named = [_indices(term, shape) for term, shape in zip(terms, shapes)]
    if not arrow:
        output = "".join(sorted(c for c in set(inputs) if c.isalpha() and inputs.count(c) == 1))
    sizes = {index: size for term in named for index, size in term.items()}
    kept = {i for i in sizes if not i.isalpha() or i in output}
    held, count = set(named[0]) if named else set(), 0
    for position, term in enumerate(named[1:], start=1):
        count += prod(sizes[i] for i in held | set(term))
        later = {i for other in named[position + 1 :] for i in other}
        held = (held | set(term)) & (kept | later)
    return macs(count) if len(named) > 1 else Work(0, prod(sizes.values()))


def _indices(term: str, shape: Shape) -> dict[str, int]:
    """Index → size of one operand of an einsum; the dims that an ellipsis stands for are numbered from the last."""
    before, dots, after = term.partition("...")
    hidden = len(shape) - len(before) - len(after) if dots else 0
    names = [*before, *(str(hidden - i) for i in range(hidden)), *after]
    return dict(zip(names, shape))


def _interpolation(taps: int) -> Rule:
    return lambda s: macs(taps * prod(s.result()))


def _pooling(s: Shapes) -> Work:
    kernel = s.node.attributes.get("kernel_size") or ()
    return Work(0, prod(s.result()) * prod(kernel) if kernel else prod(s.first()))


def _sort(s: Shapes) -> Work:
    shape = s.first()
    return Work(0, prod(shape) * max((max(shape, default=1)).bit_length(), 1))


def _cumulative(names: str, rule: Rule) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


RULES: dict[str, Rule] = {
    **_cumulative(
        "conv1d conv2d conv3d convolution conv_transpose1d conv_transpose2d conv_transpose3d _convolution", _convolution
    ),
    "linear": _linear,
    **_cumulative("mm bmm matmul dot mv vdot", _matmul),
    "einsum": _einsum,
    "_grouped_mm": _matmul,
    "addmm": _added_matmul("mat1"),
    "baddbmm": _added_matmul("batch1"),
    "addbmm": _added_matmul("batch1"),
    "addmv": _added_matmul("mat"),
    "scaled_dot_product_attention": _attention,
    **_cumulative("lstm lstm_cell", _recurrent(4)),
    **_cumulative("gru gru_cell", _recurrent(3)),
    **_cumulative("rnn_tanh rnn_relu rnn_tanh_cell rnn_relu_cell", _recurrent(1)),
    **_cumulative("batch_norm _native_batch_norm_legit_no_training", _per_input(2)),
    **_cumulative("layer_norm native_layer_norm group_norm native_group_norm instance_norm", _per_input(8)),
    **_cumulative("rms_norm _fused_rms_norm", _per_input(5)),
    **_cumulative("softmax _softmax log_softmax _log_softmax logsumexp", _per_input(5)),
    **_cumulative(
        "sum mean amax amin max min argmax argmin any all prod count_nonzero cumsum cumprod aminmax nansum",
        _per_input(1),
    ),
    **_cumulative("var std var_mean std_mean _weight_norm", _per_input(4)),
    **_cumulative("nonzero histc bincount unique_consecutive index_add scatter_add diff", _per_input(1)),
    **_cumulative(
        """where hardswish log_sigmoid prelu floor_divide __and__ __or__ __xor__ __lshift__ __rshift__ rand randn
        rand_like randn_like randint randint_like bernoulli multinomial normal""",
        _per_output(1),
    ),
    **_cumulative("norm linalg_vector_norm linalg_norm frobenius_norm", _per_input(2)),
    **_cumulative(
        "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices avg_pool1d avg_pool2d avg_pool3d", _pooling
    ),
    **_cumulative("adaptive_avg_pool1d adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_avg_pool3d", _per_input(1)),
    **_cumulative("adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d", _per_input(1)),
    **_cumulative("upsample_bilinear2d upsample_linear1d", _interpolation(4)),
    **_cumulative("upsample_bicubic2d", _interpolation(16)),
    **_cumulative("upsample_trilinear3d", _interpolation(8)),
    **_cumulative("sort topk argsort msort", _sort),
    **_cumulative(
        """embedding index index_select gather scatter index_put cat stack broadcast_to empty_like numpy_T pad
        constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d upsample_nearest1d
        upsample_nearest2d upsample_nearest3d arange zeros ones full empty full_like zeros_like ones_like new_zeros
        new_ones new_full scalar_tensor repeat repeat_interleave roll flip tril triu masked_fill select_scatter
        slice_scatter one_hot pixel_shuffle pixel_unshuffle channel_shuffle to _to_copy type_as copy lift_fresh_copy
        dropout dropout_ feature_dropout alpha_dropout sym_size eye meshgrid broadcast_tensors unfold im2col
        as_strided""",
        _none,
    ),
}
"""Rules by ATen base name."""


def node_work(node: Node, bindings: Bindings) -> tuple[Work, bool]:
    """Return the work of a node, and whether it is known.

    An operator without a rule or trait counts one operation for each element that it reads or writes, and is not known.
    """
    if Trait.VIEW in node.op.traits:
        return NONE, True
    shapes = Shapes(node, bindings)
    rule = rule_for(node)
    if rule is not None:
        return rule(shapes), True
    if Trait.ELEMENTWISE in node.op.traits:
        return Work(0, sum(prod(shapes.result(i)) for i in range(len(node.results)))), True
    elements = [prod(s) for s in map(shapes.of, (*node.operands, *node.results)) if s is not None]
    return Work(0, sum(elements)), False


def rule_for(node: Node) -> Rule | None:
    """The rule of a node's operator, or None."""
    dialect, _, rest = node.op.name.partition(".")
    return RULES.get(rest.partition(".")[0]) if dialect == "aten" else EXTRA_RULES.get(node.op.name)


def _sparse(s: Shapes) -> Work:
    """One multiplication for each stored weight at each place of the result."""
    stored = prod(s.operand("values") or ())
    rows = max((s.operand("crow_indices") or (2,))[0] - 1, 1) * (s.operand("values") or (1, 1))[1]
    return macs(prod(s.result()) * stored // rows)


EXTRA_RULES: dict[str, Rule] = {
    "graphopt.attention": _whole_attention,
    "graphopt.block_sparse_attention": _planned_attention,
    "graphopt.copy": _none,
    "graphopt.segment_attention": _segment_attention,
    "graphopt.sparse_conv": _sparse,
    "graphopt.sparse_linear": _sparse,
    "graphopt.window_attention": _planned_attention,
    "transformers.grouped_mm_fallback": _matmul,
}
"""Rules of operators outside ATen, by full name. Backends and passes that define operators add theirs."""


def register_flops(op: str, rule: Rule) -> None:
    """Tell the cost model what an operator outside ATen costs."""
    EXTRA_RULES[op] = rule
