"""Pooling and resampling over the last one to three dims."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.ir import DType, TensorType
from graphopt.ir.dims import Dim, ceildiv, dim_min, equal, exact_div, floordiv, less, product
from graphopt.ops.inference.shapes import Shape, pair
from graphopt.ops.inference.table import Mismatch, Result, rule


def _pooled(
    x: TensorType,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    n: int,
) -> Shape | None:
    """Each size is ⌊(L + 2p − d(k − 1) − 1)/s⌋ + 1; with ceil_mode rounded up, but every window starts inside."""
    if len(x.shape) not in (n + 1, n + 2):
        raise Mismatch(f"an input of rank {len(x.shape)} cannot be pooled over {n} dims")
    if not x.dtype.is_floating or any(less(d, 1) is True for d in x.shape):
        return None
    kernels = pair(kernel, n)
    options = (pair(stride, n) if stride else kernels, pair(padding, n), pair(dilation, n))
    sizes = []
    for size, k, s, p, d in zip(x.shape[-n:], kernels, *options):
        if not all(isinstance(option, int) for option in (k, s, p, d)):
            return None
        if less(k, 1) or less(s, 1) or less(d, 1) or less(p, 0) or less(k, 2 * p):
            raise Mismatch(f"kernel {k}, stride {s}, padding {p}, dilation {d} make no window")
        room = size + 2 * p - d * (k - 1) - 1
        count: Dim = floordiv(room, s) + 1
        if ceil_mode:
            if less(room, 0) is True:
                return None
            count = dim_min(ceildiv(room, s) + 1, ceildiv(size + p, s))
        if less(count, 1) is True:
            raise Mismatch(f"the window spans {d * (k - 1) + 1}, the padded input {size + 2 * p}")
        sizes.append(count)
    return (*x.shape[:-n], *sizes)


def _register(n: int) -> None:
    @rule(f"max_pool{n}d")
    def max_pool(
        x: TensorType, kernel: Any, stride: Any = (), padding: Any = (0,), dilation: Any = (1,), ceil: bool = False
    ) -> Result:
        """The largest element of each window."""
        shape = _pooled(x, kernel, stride, padding, dilation, ceil, n)
        return None if shape is None else x.with_shape(shape)

    @rule(f"max_pool{n}d_with_indices")
    def max_pool_indices(
        x: TensorType, kernel: Any, stride: Any = (), padding: Any = (0,), dilation: Any = (1,), ceil: bool = False
    ) -> Result:
        """The largest element of each window, and where it was."""
        shape = _pooled(x, kernel, stride, padding, dilation, ceil, n)
        return None if shape is None else (x.with_shape(shape), TensorType(DType.I64, shape, x.device))

    @rule(f"avg_pool{n}d")
    def avg_pool(
        x: TensorType,
        kernel: Any,
        stride: Any = (),
        padding: Any = (0,),
        ceil: bool = False,
        _count_include_pad: bool = True,
        divisor: int | None = None,
    ) -> Result:
        """The mean of each window."""
        if divisor == 0 or (n == 3 and any(less(d, k) is True for d, k in zip(x.shape[-3:], pair(kernel, 3)))):
            return None
        shape = _pooled(x, kernel, stride, padding, (1,), ceil, n)
        return None if shape is None else x.with_shape(shape)

    @rule(f"adaptive_avg_pool{n}d _adaptive_avg_pool{n}d" if n > 1 else "adaptive_avg_pool1d")
    def adaptive_avg_pool(x: TensorType, output_size: Any) -> Result:
        """Windows chosen so that the output has a given size."""
        shape = _adapted(x, output_size, n)
        return None if shape is None else x.with_shape(shape)

    @rule(f"adaptive_max_pool{n}d")
    def adaptive_max_pool(x: TensorType, output_size: Any) -> Result:
        """The largest element of each window, and where it was."""
        shape = _adapted(x, output_size, n)
        return None if shape is None else (x.with_shape(shape), TensorType(DType.I64, shape, x.device))


def _adapted(x: TensorType, output_size: Any, n: int) -> Shape | None:
    if len(x.shape) not in (n + 1, n + 2):
        return None
    if not x.dtype.is_floating or any(less(d, 1) is True for d in x.shape[-n - 1 :]):
        return None
    sizes = pair(output_size, n)
    return None if any(less(d, 0) is not False for d in sizes) else (*x.shape[:-n], *sizes)


for _n in (1, 2, 3):
    _register(_n)


@rule("col2im")
def col2im(x: TensorType, output_size: Any, kernel_size: Any, dilation: Any, padding: Any, stride: Any) -> Result:
    """Columns […, c·k₁·k₂, blocks] as images […, c, h, w]."""
    options = (output_size, kernel_size, dilation, padding, stride)
    if len(x.shape) not in (2, 3) or any(len(option) != 2 for option in options):
        return None
    positive = (*output_size, *kernel_size, *dilation, *stride)
    if any(less(d, 1) is True for d in positive) or any(less(p, 0) is True for p in padding):
        return None
    counts = [floordiv(o + 2 * p - d * (k - 1) - 1, s) + 1 for o, k, d, p, s in zip(*options)]
    channels = exact_div(x.shape[-2], product(kernel_size))
    if channels is None or equal(x.shape[-1], product(counts)) is False or any(less(d, 1) is True for d in x.shape):
        return None
    return x.with_shape((*x.shape[:-2], channels, *output_size))


def _resampled(x: TensorType, output_size: Any, factors: Any, n: int) -> Result:
    if len(x.shape) != n + 2:
        raise Mismatch(f"an input of rank {len(x.shape)} cannot be resampled over {n} dims")
    if not x.dtype.is_floating or any(less(d, 1) is True for d in x.shape):
        return None
    if output_size is not None:
        if len(output_size) != n or any(less(d, 1) is True for d in output_size):
            return None
        return x.with_shape((*x.shape[:2], *output_size))
    if factors is None or len(factors) != n:
        return None
    sizes = [_scaled(size, factor) for size, factor in zip(x.shape[2:], factors)]
    if any(size is None or less(size, 1) is True for size in sizes):
        return None
    return x.with_shape((*x.shape[:2], *sizes))  # type: ignore[arg-type]


def _scaled(size: Dim, factor: float) -> Dim | None:
    """⌊size·factor⌋; of a symbol only by a whole factor."""
    if float(factor).is_integer():
        return size * int(factor)
    return int(size * factor) if isinstance(size, int) else None


_MODES = {1: ("nearest", "linear"), 2: ("nearest", "bilinear", "bicubic"), 3: ("nearest", "trilinear")}


def _register_upsample(mode: str, n: int) -> None:
    names = [f"upsample_{mode}{n}d", *([f"_upsample_nearest_exact{n}d"] if mode == "nearest" else [])]
    factors = 0 if mode == "nearest" else 1  # the others say first whether corners are aligned

    @rule(*[f"{name}.vec" for name in names])
    def upsample_vec(x: TensorType, output_size: Any, *rest: Any) -> Result:
        """Resampling to a size, or by factors."""
        return _resampled(x, output_size, rest[factors], n)

    @rule(*names)
    def upsample(x: TensorType, output_size: Any, *_: Any) -> Result:
        """Resampling to a size."""
        return _resampled(x, output_size, None, n)


for _n, _modes in _MODES.items():
    for _mode in _modes:
        _register_upsample(_mode, _n)
