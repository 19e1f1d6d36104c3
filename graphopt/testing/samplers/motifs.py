"""Groups of operators that rewrites look for, put together from parts, with a twist now and then."""

from __future__ import annotations

from graphopt.ir import ConstantKind, TensorType, Value
from graphopt.ir.dims import Dim
from graphopt.testing.builder import ANY, BOOL, F32, FLOATS, NUMBERS, GraphBuilder, high, same_shape
from graphopt.testing.domain import BOOL as TRUTH
from graphopt.testing.domain import UNIT, Domain, symmetric
from graphopt.testing.samplers.matrices import dense, sums
from graphopt.testing.samplers.networks import convolve
from graphopt.testing.samplers.normalization import EPSILON, normalize_batch
from graphopt.testing.samplers.pooling import picture
from graphopt.testing.samplers.table import register_sampler


@register_sampler("attention-by-parts", weight=2)
def attention(b: GraphBuilder) -> None:
    """`softmax(q kᵀ · scale + mask) v`, the scale before or after, the key transposed in one way or another."""
    lead = b.shape((1, 2), least=1)
    length, source, width = b.dim(), b.dim(), b.dim(static=True)
    q, k, v = (b.like(TensorType(F32, (*lead, n, width)), bound=4.0) for n in (length, source, source))
    if b.flag():
        q = scaled(b, q)
    rank = len(lead) + 2
    if b.flag():
        k = b.emit("transpose.int", k, -1 if b.flag() else rank - 1, -2, domain=b.domain(k))
    else:
        k = b.emit("permute", k, (*range(rank - 2), rank - 1, rank - 2), domain=b.domain(k))
    scores = b.emit("matmul", q, k, domain=sums(b, q, k, width))
    if b.flag():
        scores = scaled(b, scores)
    if b.flag():
        mask = b.like(TensorType(F32, (*b.broadcastable(lead), length, source)), bound=8.0)
        known = symmetric(b.domain(scores).magnitude + 8.0)
        scores = b.emit("add.Tensor", *((mask, scores) if b.flag() else (scores, mask)), domain=known)
    weights = b.emit("softmax.int", scores, -1 if not b.chance(6) else 0, domain=UNIT)
    if b.chance(4):
        weights = b.emit("dropout", weights, 0.1, False, domain=UNIT)
    b.emit("matmul", weights, v, domain=symmetric(b.domain(v).magnitude * high(source)))


def scaled(b: GraphBuilder, x: Value) -> Value:
    number = b.one((0.5, 2.0, 0.25))
    if b.flag():
        return b.emit("div.Scalar", x, number, domain=symmetric(b.domain(x).magnitude * 4))
    return b.emit("mul.Scalar", x, number, domain=symmetric(b.domain(x).magnitude * 2))


@register_sampler("bias-by-addition", weight=2)
def bias(b: GraphBuilder) -> None:
    """A product of matrices and a term: a vector, a matrix, a number, or one that makes the result larger."""
    x = b.tensor((F32,), (1, 3), lambda v: isinstance(v.shape[-1], int), bound=8.0, least=1, make=lambda: (b.dim(), 3))
    y = dense(b, x)
    shapes = [y.shape[-1:], (1,), y.shape, (), (2, *y.shape)]
    term = b.like(TensorType(y.dtype, tuple(b.one(shapes))), bound=8.0)
    known = symmetric(b.domain(y).magnitude + b.domain(term).magnitude)
    b.emit("add.Tensor", *((term, y) if b.flag() else (y, term)), domain=known)


@register_sampler("pad-and-pool", weight=2)
def pad_and_pool(b: GraphBuilder) -> None:
    """Padding that a pooling may take over: minus infinity is what a maximum ignores, zero what a mean counts."""
    x = picture(b, 2)
    largest = b.flag()
    value = b.one((float("-inf"), 0.0)) if largest else 0.0
    amounts = tuple(b.integer(0, 1) for _ in range(4)) if b.flag() else (1, 1, 1, 1)
    known = b.domain(x).union(Domain(0.0, 0.0))
    padded = b.emit("constant_pad_nd", x, amounts, value, domain=known.union(Domain(value, value)))
    stride = (b.integer(1, 2),) * 2
    if largest:
        b.emit("max_pool2d", padded, (2, 2), stride, domain=known)
    else:
        b.emit("avg_pool2d", padded, (2, 2), stride, (0, 0), False, b.flag(), domain=known.rounded())


@register_sampler("parts-put-together", weight=3)
def parts_together(b: GraphBuilder) -> None:
    """A tensor split or unbound, and its parts joined: all of them in order, or not."""
    x = b.tensor(
        ANY, (1, 3), lambda v: any(isinstance(d, int) and 0 < d < 6 for d in v.shape), make=lambda: (b.dim(), 4)
    )
    axis = next(a for a, d in enumerate(x.shape) if isinstance(d, int) and 0 < d < 6)
    way = b.integer(0, 2)
    arguments = (axis,) if way == 0 else (b.integer(1, 2), axis)
    pieces = b.emit(("unbind.int", "split.Tensor", "chunk")[way], x, *arguments, domain=b.domain(x))
    pieces = list(pieces) if isinstance(pieces, tuple) else [pieces]
    if b.chance(4):
        pieces.reverse()
    if b.chance(4):
        pieces = pieces[:1]
    even = all(same_shape(p.shape, pieces[0].shape) for p in pieces)
    b.emit("stack" if way == 0 else "cat", pieces, 0 if even and b.chance(6) else axis, domain=b.domain(x))


@register_sampler("a-part-of-a-whole", weight=3)
def part_of_whole(b: GraphBuilder) -> None:
    """A slice, row or part of what was just joined, within one piece or across several."""
    x = b.tensor(ANY, (1, 3), least=1)
    y = b.like(TensorType(x.dtype, x.shape))
    known = b.domain(x).union(b.domain(y))
    axis = b.integer(0, len(x.shape) - 1)
    if b.flag():
        whole = b.emit("stack", [x, y], axis, domain=known)
        b.emit("select.int", whole, axis, b.one((0, 1, -1)), domain=known)
        return
    whole = b.emit("cat", [x, y, x] if b.flag() else [x, y], axis, domain=known)
    size = x.shape[axis]
    way = b.integer(0, 3)
    if way == 0:
        b.emit("slice.Tensor", whole, axis, 0, b.one((size, 1)), 1, domain=known)
    elif way == 1:
        b.emit("slice.Tensor", whole, axis, size, b.one((2 * size, size + 1)), 1, domain=known)
    elif way == 2:
        b.emit("select.int", whole, axis, b.one((0, -1)), domain=known)
    else:
        b.emit("split_with_sizes", whole, (size, whole.shape[axis] - size), axis, domain=known)


@register_sampler("moved-and-moved-back", weight=3)
def moved_and_back(b: GraphBuilder) -> None:
    """A function between a move of dims and another, often its inverse: the function may be of two tensors."""
    x = b.tensor(NUMBERS, (2, 4))
    order = tuple(reversed(range(len(x.shape)))) if b.flag() else (*range(1, len(x.shape)), 0)
    y = b.emit("permute", x, order, domain=b.domain(x))
    if b.flag():
        other = b.like(TensorType(x.dtype, x.shape)) if b.flag() else x
        other = b.emit("permute", other, order, domain=b.domain(other))
        known = b.domain(y).combine(b.domain(other), lambda p, q: p + q, exact=not y.dtype.is_floating)
        y = b.emit("add.Tensor", y, other, domain=known)
    y = b.emit(b.one(("relu", "neg", "abs")), y, domain=symmetric(b.domain(y).magnitude, exact=b.domain(y).exact))
    inverse = tuple(order.index(i) for i in range(len(order)))
    b.emit("permute", y, inverse if not b.chance(4) else order, domain=b.domain(y))


@register_sampler("known-truth", weight=2)
def known_truth(b: GraphBuilder) -> None:
    """Logic with a constant that is true or false throughout."""
    x = b.tensor((BOOL,), exact=True)
    shape: tuple[Dim, ...] = x.shape if b.flag() and all(isinstance(d, int) for d in x.shape) else ()
    known = b.stored(TensorType(BOOL, shape), Domain(*b.one(((0.0, 0.0), (1.0, 1.0)))), uniform=True)
    op = b.one(
        ("logical_and", "logical_or", "logical_xor", "bitwise_and.Tensor", "bitwise_or.Tensor", "bitwise_xor.Tensor")
    )
    b.emit(op, *((known, x) if b.flag() else (x, known)), domain=TRUTH)


@register_sampler("negated", weight=3)
def negated(b: GraphBuilder) -> None:
    """Arithmetic of negated tensors, comparisons negated, choices by a negated mask."""
    x = b.tensor(FLOATS)
    y = b.match(x)
    way = b.integer(0, 3)
    if way == 0:
        minus_x = b.emit("neg", x, domain=b.domain(x).map(lambda v: -v))
        minus_y = b.emit("neg", y, domain=b.domain(y).map(lambda v: -v)) if b.flag() else y
        bound = b.domain(x).magnitude * b.domain(y).magnitude + b.domain(x).magnitude + b.domain(y).magnitude
        b.emit(b.one(("mul.Tensor", "add.Tensor", "sub.Tensor")), minus_x, minus_y, domain=symmetric(bound))
    elif way == 1:
        op = b.one(("sub.Tensor", "rsub.Scalar"))
        bound = b.domain(x).magnitude + b.domain(y).magnitude + 1
        difference = b.emit(op, x, y if op == "sub.Tensor" else b.one((0, 1)), domain=symmetric(bound))
        b.emit("neg", difference, domain=symmetric(bound))
    elif b.domain(x).exact:
        op = b.one(("lt", "le", "gt", "ge", "eq", "ne"))
        truth = b.emit(f"{op}.Scalar", x, b.one((0, 1)), domain=TRUTH)
        truth = b.emit(b.one(("logical_not", "bitwise_not")), truth, domain=TRUTH)
        b.emit("where.self", truth, x, y if way == 2 else x, domain=b.domain(x).union(b.domain(y)))


@register_sampler("rounded-twice", weight=2)
def rounded_twice(b: GraphBuilder) -> None:
    """Functions whose results are whole, one after the other."""
    x = b.tensor(FLOATS, exact=True)
    bound = b.domain(x).magnitude + 1
    for _ in range(2):
        x = b.emit(b.one(("floor", "ceil", "trunc", "round", "sign")), x, domain=symmetric(bound, exact=True))


@register_sampler("normalized-by-parts", weight=2)
def normalized_by_parts(b: GraphBuilder) -> None:
    """`x / sqrt(mean(x²) + ε)`, with the mean taken off before, or not."""
    x = b.within(b.tensor(FLOATS, (1, 3), least=1, bound=8.0), 8.0)
    bound = 2 * b.domain(x).magnitude
    if b.flag():
        mean = b.emit("mean.dim", x, (-1,), True, domain=b.domain(x).rounded())
        x = b.emit("sub.Tensor", x, mean, domain=symmetric(bound))
    square = b.emit("pow.Tensor_Scalar", x, 2, domain=Domain(0.0, bound**2, False))
    variance = b.emit("mean.dim", square, (-1,), True, domain=Domain(0.0, bound**2, False))
    shifted = b.emit("add.Scalar", variance, EPSILON, domain=Domain(EPSILON, bound**2 + 1, False))
    if b.flag():
        root = b.emit("rsqrt", shifted, domain=Domain(0.0, EPSILON**-0.5, False))
        b.emit("mul.Tensor", x, root, domain=symmetric(6.0))
    else:
        root = b.emit("sqrt", shifted, domain=Domain(EPSILON**0.5, bound + 1, False))
        b.emit("div.Tensor", x, root, domain=symmetric(6.0))


@register_sampler("gated", weight=2)
def gated(b: GraphBuilder) -> None:
    """`x · σ(x)`, or by another's gate."""
    x = b.tensor(FLOATS)
    gate = b.emit(
        b.one(("sigmoid", "hardsigmoid", "tanh")), x if not b.chance(3) else b.match(x), domain=symmetric(1.0)
    )
    known = symmetric(b.domain(x).magnitude)
    b.emit("mul.Tensor", *((gate, x) if b.flag() else (x, gate)), domain=known)


@register_sampler("classifier", weight=2)
def classifier(b: GraphBuilder) -> None:
    """A convolution, a batch norm, perhaps a pooling; flattened into a linear layer."""
    x = b.within(b.tensor((F32,), (4, 4), _static_image, make=lambda: (b.dim(), 2, 2, 3), bound=8.0), 8.0)
    x = b.within(convolve(b, x, 2, 1), 16.0)
    x = normalize_batch(b, x)
    if b.chance(3):
        x = b.emit("relu", x, domain=b.domain(x).clamp(low=0.0))
    if b.flag():
        x = b.emit("adaptive_avg_pool2d", x, (1, 1), domain=b.domain(x).rounded())
    flat = b.emit("flatten.using_ints", b.within(x, 8.0), 1, domain=b.domain(x).clamp(-8.0, 8.0))
    if isinstance(flat.shape[1], int) and flat.shape[1] > 0:
        dense(b, flat)


def _static_image(v: Value) -> bool:
    return all(isinstance(d, int) and d > 0 for d in v.shape[1:])


@register_sampler("looked-up", weight=1)
def looked_up(b: GraphBuilder) -> None:
    """Rows of a table at indices that are counted, repeated, or stored."""
    table = b.weight(F32, 5, b.dim(static=True))
    way = b.integer(0, 2)
    if way == 0:
        index = b.emit("arange", b.one((5, 3)), domain=Domain(0.0, 4.0))
    else:
        index = b.stored(TensorType(ANY[2], (3,)), Domain(0.0, 4.0), kind=ConstantKind.CONSTANT, uniform=way == 2)
    if b.flag():
        index = b.emit("expand", index, (2, *index.shape), domain=b.domain(index))
    b.emit("embedding", table, index, domain=b.domain(table))
