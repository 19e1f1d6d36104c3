"""Reductions, scans, softmax and sorting."""

from __future__ import annotations

from typing import Any

from graphopt.ir import DType, TensorType
from graphopt.ir.dims import Dim, equal, less
from graphopt.ops.inference.promotion import category
from graphopt.ops.inference.shapes import Shape, wrap, wrap_all
from graphopt.ops.inference.table import Mismatch, Result, rule


def _reduced(x: TensorType, dims: Any, keepdim: bool) -> Shape:
    """The shape without the reduced dims; none given means all."""
    rank = len(x.shape)
    if dims is None or dims == ():
        gone = list(range(rank))
    else:
        gone = wrap_all(dims if isinstance(dims, tuple) else (dims,), rank)
    if keepdim:
        return tuple([1 if i in gone else d for i, d in enumerate(x.shape)])
    return tuple([d for i, d in enumerate(x.shape) if i not in gone])


def _has_empty(x: TensorType, dims: Any) -> bool:
    """True if a reduced dim is known to be empty, where a maximum has no value."""
    if dims is None or dims == ():
        return any(equal(d, 0) is True for d in x.shape)
    if not x.shape:
        return False
    return any(equal(x.shape[wrap(d, len(x.shape))], 0) is True for d in (dims if isinstance(dims, tuple) else (dims,)))


def _summed(dtype: DType, given: DType | None) -> DType:
    return given if given is not None else DType.I64 if category(dtype) < 2 else dtype


@rule("sum.dim_IntList")
def sum_dims(x: TensorType, dims: Any, keepdim: bool = False, dtype: DType | None = None) -> Result:
    """Integers and bools add up in 64 bits."""
    return TensorType(_summed(x.dtype, dtype), _reduced(x, dims, keepdim), x.device)


@rule("nansum")
def nansum(x: TensorType, dims: Any = None, keepdim: bool = False, dtype: DType | None = None) -> Result:
    """The sum of what is a number."""
    return None if x.dtype.is_complex else sum_dims(x, dims, keepdim, dtype)


@rule("sum prod")
def sum_all(x: TensorType, dtype: DType | None = None) -> Result:
    """Over all dims."""
    return TensorType(_summed(x.dtype, dtype), (), x.device)


@rule("prod.dim_int")
def prod_dim(x: TensorType, dim: int, keepdim: bool = False, dtype: DType | None = None) -> Result:
    """Over one dim."""
    return sum_dims(x, (dim,), keepdim, dtype)


@rule("mean.dim")
def mean_dims(x: TensorType, dims: Any, keepdim: bool = False, dtype: DType | None = None) -> Result:
    """Means are floating."""
    kind = dtype or x.dtype
    return TensorType(kind, _reduced(x, dims, keepdim), x.device) if category(kind) >= 2 else None


@rule("mean")
def mean_all(x: TensorType, dtype: DType | None = None) -> Result:
    """Over all dims."""
    return mean_dims(x, None, False, dtype)


@rule("amax amin")
def extremum(x: TensorType, dims: Any = (), keepdim: bool = False) -> TensorType | None:
    """The largest or smallest element; of none, there is none."""
    if x.dtype.is_complex or _has_empty(x, dims):
        return None
    return x.with_shape(_reduced(x, dims, keepdim))


@rule("max min")
def extremum_all(x: TensorType) -> Result:
    """Over all dims."""
    return extremum(x)


@rule("max.dim min.dim")
def extremum_dim(x: TensorType, dim: int, keepdim: bool = False) -> Result:
    """Values and indices."""
    values = extremum(x, (dim,), keepdim)
    return None if values is None else (values, _indices(values))


def _indices(x: Any) -> TensorType:
    return TensorType(DType.I64, x.shape, x.device)


@rule("argmax argmin")
def argmax(x: TensorType, dim: int | None = None, keepdim: bool = False) -> Result:
    """The index of an extremum."""
    if category(x.dtype) in (0, 3) or _has_empty(x, dim):
        return None
    return TensorType(DType.I64, _reduced(x, dim, keepdim), x.device)


@rule("any.dim all.dim any.dims all.dims")
def any_dims(x: TensorType, dim: Any = None, keepdim: bool = False) -> Result:
    """Logic over dims."""
    if x.dtype is DType.U8 or dim == ():
        return None
    return TensorType(DType.BOOL, _reduced(x, dim, keepdim), x.device)


@rule("any all")
def any_all(x: TensorType) -> Result:
    """Over all dims."""
    return any_dims(x)


@rule("var.dim std.dim")
def var_dims(x: TensorType, dims: Any, unbiased: bool = True, keepdim: bool = False) -> Result:
    """Variance of floats."""
    return x.with_shape(_reduced(x, dims, keepdim)) if x.dtype.is_floating else None


@rule("var.correction std.correction")
def var_correction(x: TensorType, dims: Any = None, correction: Any = None, keepdim: bool = False) -> Result:
    """Variance with a correction for the degrees of freedom."""
    return var_dims(x, dims, True, keepdim)


@rule("var std")
def var_all(x: TensorType, unbiased: bool = True) -> Result:
    """Over all dims."""
    return var_dims(x, None)


@rule("logsumexp")
def logsumexp(x: TensorType, dims: Any, keepdim: bool = False) -> Result:
    """log Σ exp(x) of floats."""
    if not x.dtype.is_floating or dims == ():
        return None
    return x.with_shape(_reduced(x, dims, keepdim))


@rule("linalg_vector_norm")
def vector_norm(
    x: TensorType, ord: Any = 2, dims: Any = None, keepdim: bool = False, dtype: DType | None = None
) -> Result:
    """A norm of floats; of no elements, some orders have none."""
    if not x.dtype.is_floating or dtype is not None or _has_empty(x, dims) or isinstance(ord, complex):
        return None
    return x.with_shape(_reduced(x, dims, keepdim))


@rule("softmax.int log_softmax.int")
def softmax(x: TensorType, dim: int, dtype: DType | None = None) -> Result:
    """Keeps the shape; `dtype` is the dtype of computation and result."""
    wrap(dim, len(x.shape))
    kind = dtype or x.dtype
    return x.with_dtype(kind) if kind.is_floating else None


@rule("_softmax _log_softmax _safe_softmax")
def core_softmax(x: TensorType, dim: int, half_to_float: Any = None) -> Result:
    """The decomposed form."""
    wrap(dim, len(x.shape))
    return x if x.dtype.is_floating and not half_to_float else None


@rule("cumsum cumprod")
def cumulative(x: TensorType, dim: int, dtype: DType | None = None) -> Result:
    """Sums so far."""
    wrap(dim, len(x.shape))
    return x.with_dtype(_summed(x.dtype, dtype))


@rule("topk")
def topk(x: TensorType, k: Dim, dim: int = -1, *_: Any) -> Result:
    """The k largest or smallest elements along a dim, and their indices."""
    place = wrap(dim, len(x.shape))
    if not x.shape or x.dtype.is_complex:
        return None
    if less(x.shape[place], k) is True or less(k, 0) is True:
        raise Mismatch(f"k is {k}, the size of the dim {x.shape[place]}")
    values = x.with_shape((*x.shape[:place], k, *x.shape[place + 1 :]))
    return values, _indices(values)


@rule("sort")
def sort(x: TensorType, dim: int = -1, *_: Any) -> Result:
    """Sorted values and their indices."""
    wrap(dim, len(x.shape))
    return None if x.dtype.is_complex else (x, _indices(x))


@rule("sort.stable")
def sort_stable(x: TensorType, _stable: Any, dim: int = -1, *_: Any) -> Result:
    """Sorted values and their indices."""
    return sort(x, dim)


@rule("argsort")
def argsort(x: TensorType, dim: int = -1, *_: Any) -> Result:
    """Indices that sort."""
    wrap(dim, len(x.shape))
    return None if x.dtype.is_complex else _indices(x)


@rule("glu")
def glu(x: TensorType, dim: int = -1) -> Result:
    """a·sigmoid(b) on the halves of a dim."""
    if not x.shape or not x.dtype.is_floating:
        return None
    place = wrap(dim, len(x.shape))
    size: Dim = x.shape[place]
    if isinstance(size, int) and size % 2:
        raise Mismatch(f"the size {size} cannot be halved")
    return x.with_shape((*x.shape[:place], size // 2, *x.shape[place + 1 :]))
