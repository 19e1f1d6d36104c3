"""Fourier transforms along one dim, and complex numbers as pairs. PyTorch's fakes are slow with symbolic sizes."""

from __future__ import annotations

from graphopt.ir import DType, TensorType
from graphopt.ir.dim_ops import floordiv
from graphopt.ir.dims import Dim
from graphopt.ops.inference.shapes import wrap
from graphopt.ops.inference.table import Result, rule

COMPLEX_OF = {DType.F32: DType.C64, DType.F64: DType.C128}
REAL_OF = {complex_: real for real, complex_ in COMPLEX_OF.items()}
NORMS = (None, "backward", "ortho", "forward")


def _resized(x: TensorType, n: Dim | None, dim: int, norm: str | None, dtype: DType | None) -> TensorType | None:
    """The operand with `n` elements along a dim; None where PyTorch decides."""
    if not x.shape or dtype is None or norm not in NORMS:
        return None
    place = wrap(dim, x.rank)
    size = x.shape[place] if n is None else n
    if isinstance(size, int) and size < 1:
        return None
    return x.with_shape((*x.shape[:place], size, *x.shape[place + 1 :])).with_dtype(dtype)


@rule("fft_fft fft_ifft")
def transform(x: TensorType, n: Dim | None = None, dim: int = -1, norm: str | None = None) -> Result:
    """As many frequencies as samples; complex."""
    return _resized(x, n, dim, norm, x.dtype if x.dtype in REAL_OF else COMPLEX_OF.get(x.dtype))


@rule("fft_rfft")
def real_transform(x: TensorType, n: Dim | None = None, dim: int = -1, norm: str | None = None) -> Result:
    """The first half of the frequencies and one more."""
    whole = _resized(x, n, dim, norm, COMPLEX_OF.get(x.dtype))
    if whole is None:
        return None
    half = floordiv(whole.shape[wrap(dim, x.rank)], 2) + 1
    return _resized(whole, half, dim, norm, whole.dtype)


@rule("fft_irfft")
def inverse_real_transform(x: TensorType, n: Dim | None = None, dim: int = -1, norm: str | None = None) -> Result:
    """Twice as many samples as frequencies but one, if not told; real."""
    real = x.dtype if x.dtype in COMPLEX_OF else REAL_OF.get(x.dtype)
    if not x.shape:
        return None
    return _resized(x, 2 * (x.shape[wrap(dim, x.rank)] - 1) if n is None else n, dim, norm, real)


@rule("complex")
def complex_(real: TensorType, imag: TensorType) -> Result:
    """Complex numbers of their parts."""
    same = real.dtype is imag.dtype and real.shape == imag.shape
    dtype = COMPLEX_OF.get(real.dtype)
    return real.with_dtype(dtype) if same and dtype is not None else None


@rule("view_as_real")
def view_as_real(x: TensorType) -> Result:
    """Pairs, as a new last dim."""
    dtype = REAL_OF.get(x.dtype)
    return None if dtype is None else x.with_shape((*x.shape, 2)).with_dtype(dtype)


@rule("view_as_complex")
def view_as_complex(x: TensorType) -> Result:
    """Complex numbers of pairs."""
    dtype = COMPLEX_OF.get(x.dtype)
    return None if dtype is None or x.shape[-1:] != (2,) else x.with_shape(x.shape[:-1]).with_dtype(dtype)
