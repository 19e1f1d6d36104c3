"""Matrix products and attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.ir import DType, TensorType
from graphopt.ir.dims import Dim, divisible, equal
from graphopt.ops.inference.shapes import broadcast, broadcast_dim, require_equal, require_rank
from graphopt.ops.inference.table import Mismatch, Result, rule

_INNER = "the inner sizes differ"


def _same_dtype(*tensors: TensorType | None) -> bool:
    present = [t for t in tensors if t is not None]
    return all(t.dtype is present[0].dtype for t in present) and present[0].dtype is not DType.BOOL


@rule("mm")
def mm(a: TensorType, b: TensorType) -> Result:
    """[n, k] · [k, m]."""
    require_rank(a, 2, what="left matrix")
    require_rank(b, 2, what="right matrix")
    require_equal(a.shape[1], b.shape[0], _INNER)
    return a.with_shape((a.shape[0], b.shape[1])) if _same_dtype(a, b) else None


@rule("bmm")
def bmm(a: TensorType, b: TensorType) -> Result:
    """[z, n, k] · [z, k, m]."""
    require_rank(a, 3, what="left batch of matrices")
    require_rank(b, 3, what="right batch of matrices")
    require_equal(a.shape[2], b.shape[1], _INNER)
    require_equal(a.shape[0], b.shape[0], "the batch sizes differ")
    return a.with_shape((a.shape[0], a.shape[1], b.shape[2])) if _same_dtype(a, b) else None


@rule("_grouped_mm")
def grouped_mm(
    a: TensorType,
    b: TensorType,
    offsets: TensorType | None = None,
    bias: TensorType | None = None,
    out_dtype: DType | None = None,
) -> Result:
    """Products of groups of rows or columns, which end at `offsets`, with matrices of a batch."""
    if not _same_dtype(a, b) or not a.dtype.is_floating or bias is not None or out_dtype not in (None, a.dtype):
        return None
    if offsets is None or offsets.dtype is not DType.I32 or len(offsets.shape) != 1:
        return None
    ranks = (len(a.shape), len(b.shape))
    if ranks not in ((2, 3), (3, 2), (2, 2)):
        return None
    aligned = 128 // a.dtype.bits
    if any(divisible(d, aligned) is not True or d == 0 for d in (a.shape[-1], b.shape[-1])):
        return None  # rows of 16 bytes; PyTorch knows the strides
    batches = [t.shape[0] for t in (a, b) if len(t.shape) == 3]
    if equal(a.shape[-1], b.shape[-2]) is False or any(equal(n, offsets.shape[0]) is False for n in batches):
        return None
    lead = offsets.shape if ranks == (2, 2) else ()
    return a.with_shape((*lead, a.shape[-2], b.shape[-1]))


@rule("dot vdot")
def dot(a: TensorType, b: TensorType) -> Result:
    """[k] · [k]."""
    require_rank(a, 1, what="left vector")
    require_rank(b, 1, what="right vector")
    require_equal(a.shape[0], b.shape[0], "the sizes differ")
    return a.with_shape(()) if _same_dtype(a, b) else None


@rule("bilinear")
def bilinear(a: TensorType, b: TensorType, weight: TensorType, bias: TensorType | None = None) -> Result:
    """[…, i] · [o, i, j] · […, j]."""
    require_rank(weight, 3, what="weight")
    if not _same_dtype(a, b, weight, bias) or not a.shape or len(a.shape) != len(b.shape):
        return None
    for left, right in zip(a.shape[:-1], b.shape[:-1]):
        require_equal(left, right, "the batch sizes differ")
    require_equal(a.shape[-1], weight.shape[1], _INNER)
    require_equal(b.shape[-1], weight.shape[2], _INNER)
    if bias is not None and len(bias.shape) == 1:
        require_equal(bias.shape[0], weight.shape[0], "the bias has another size")
    elif bias is not None:
        return None
    return a.with_shape((*a.shape[:-1], weight.shape[0]))


@rule("mv")
def mv(a: TensorType, b: TensorType) -> Result:
    """[n, k] · [k]."""
    require_rank(a, 2, what="matrix")
    require_rank(b, 1, what="vector")
    require_equal(a.shape[1], b.shape[0], _INNER)
    return a.with_shape(a.shape[:1]) if _same_dtype(a, b) else None


@rule("outer ger")
def outer(a: TensorType, b: TensorType) -> Result:
    """[n] ⊗ [m]."""
    require_rank(a, 1, what="left vector")
    require_rank(b, 1, what="right vector")
    return a.with_shape((a.shape[0], b.shape[0])) if a.dtype is b.dtype else None


@rule("matmul")
def matmul(a: TensorType, b: TensorType) -> Result:
    """NumPy's matmul: vectors are promoted to matrices, leading dims broadcast."""
    if not a.shape or not b.shape:
        raise Mismatch("a tensor of rank 0 has no matrix product")
    left, right = a.shape, b.shape
    inner: Dim = right[-2] if len(right) > 1 else right[0]
    require_equal(left[-1], inner, _INNER)
    if not _same_dtype(a, b):
        return None
    lead = broadcast(left[:-2], right[:-2])
    return a.with_shape((*lead, *left[-2:-1], *(right[-1:] if len(right) > 1 else ())))


@rule("addmm")
def addmm(c: TensorType, a: TensorType, b: TensorType, *_: Any) -> Result:
    """β·c + α·a·b, where c expands to the product's shape."""
    return _added(c, mm(a, b), a)


@rule("baddbmm")
def baddbmm(c: TensorType, a: TensorType, b: TensorType, *_: Any) -> Result:
    """β·c + α·a·b by batch."""
    return _added(c, bmm(a, b), a)


@rule("addmv")
def addmv(c: TensorType, a: TensorType, b: TensorType, *_: Any) -> Result:
    """β·c + α·a·b of a matrix and a vector."""
    return _added(c, mv(a, b), a)


def _added(c: TensorType, product: Any, a: TensorType) -> Result:
    if product is None or not _same_dtype(c, a) or any(d == 0 for d in product.shape):
        return None
    if len(c.shape) > len(product.shape):
        raise Mismatch(f"the summand of rank {len(c.shape)} does not expand to rank {len(product.shape)}")
    for old, new in zip(c.shape[::-1], product.shape[::-1]):
        if equal(old, 1) is False and equal(old, new) is False:
            raise Mismatch(f"the summand's size {old} does not expand to {new}")
    return product


@rule("linalg_solve_triangular")
def solve_triangular(
    a: TensorType, b: TensorType, _upper: bool, left: bool = True, _unitriangular: bool = False
) -> Result:
    """A⁻¹·B, or B·A⁻¹ unless `left`: […, n, n] with […, n, m] or […, m, n]."""
    if min(len(a.shape), len(b.shape)) < 2 or not _same_dtype(a, b) or not a.dtype.is_floating:
        return None
    require_equal(a.shape[-1], a.shape[-2], "the triangle is not square")
    require_equal(a.shape[-1], b.shape[-2 if left else -1], _INNER)
    return b.with_shape((*broadcast(a.shape[:-2], b.shape[:-2]), *b.shape[-2:]))


@rule("linear")
def linear(x: TensorType, weight: TensorType, bias: TensorType | None = None) -> Result:
    """x·Wᵀ + b: […, k] with weight [m, k]."""
    if not x.shape or len(weight.shape) not in (1, 2):
        return None
    require_equal(x.shape[-1], weight.shape[-1], _INNER)
    if bias is not None and len(weight.shape) == 2:
        if len(bias.shape) > 1:
            return None
        if bias.shape and equal(bias.shape[0], 1) is not True:
            require_equal(bias.shape[0], weight.shape[0], "the bias does not fit the weight")
    if not _same_dtype(x, weight, bias) or (bias is not None and len(weight.shape) == 1):
        return None
    return x.with_shape((*x.shape[:-1], *weight.shape[:-1]))


@rule("scaled_dot_product_attention")
def attention(
    query: TensorType,
    key: TensorType,
    value: TensorType,
    mask: TensorType | None = None,
    _dropout: float = 0.0,
    is_causal: bool = False,
    _scale: float | None = None,
    enable_gqa: bool = False,
) -> Result:
    """softmax(q·kᵀ)·v: […, L, E], […, S, E], […, S, V] → […, L, V]."""
    tensors = (query, key, value)
    if min(len(t.shape) for t in tensors) < 2 or not _same_dtype(*tensors) or not query.dtype.is_floating:
        return None
    if mask is not None and (is_causal or mask.dtype not in (DType.BOOL, query.dtype)):
        return None
    require_equal(query.shape[-1], key.shape[-1], "query and key differ in their last size")
    require_equal(key.shape[-2], value.shape[-2], "key and value differ in length")
    lead = query.shape[:-2]
    if not enable_gqa:
        lead = broadcast(lead, key.shape[:-2], value.shape[:-2])
        if len(lead) > len(query.shape) - 2:
            return None
    if mask is not None:
        scores = (*lead, query.shape[-2], key.shape[-2])
        if not 2 <= len(mask.shape) <= len(scores):
            return None
        broadcast(scores, mask.shape)
    return query.with_shape((*lead, query.shape[-2], value.shape[-1]))


@rule("einsum")
def einsum(equation: str, tensors: Sequence[TensorType], _path: Any = None) -> Result:
    """Sums of products by letters; an ellipsis, and a letter twice in one operand, are left to PyTorch."""
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if "." in equation or len(terms) != len(tensors) or not tensors or not _same_dtype(*tensors):
        return None
    sizes: dict[str, Dim] = {}
    for term, tensor in zip(terms, tensors):
        if len(term) != len(tensor.shape) or len(set(term)) != len(term):
            return None
        for letter, size in zip(term, tensor.shape):
            sizes[letter] = broadcast_dim(sizes.get(letter, 1), size)
    letters = "".join(terms)
    if not arrow:
        output = "".join(sorted(letter for letter in sizes if letters.count(letter) == 1))
    if len(set(output)) != len(output) or not set(output) <= set(sizes):
        return None
    return tensors[0].with_shape(tuple([sizes[letter] for letter in output]))
