"""Pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.lowerings.common import pair
from graphopt.backends.onnx.records import Tensor
from graphopt.backends.onnx.registry import Call, Declined, Lowering, lowers_each
from graphopt.backends.onnx.shaping import reshape, unsqueeze
from graphopt.ir import DType
from graphopt.ir.dims import Dim, bounds, known_equal, product


class Window:
    """The geometry of a pooling call over `rank` spatial dims."""

    def __init__(self, a: Call, rank: int) -> None:
        self.rank = rank
        self.kernel = pair(a.kernel_size, rank)
        self.stride = pair(a.stride, rank, self.kernel)
        self.padding = pair(a.padding, rank)
        self.dilation = pair(getattr(a, "dilation", 1), rank)
        self.extra = self._extra(a.self.dims[-rank:], a.out.shape[-rank:]) if a.ceil_mode else [0] * rank

    def _extra(self, sizes: Sequence[Dim], outputs: Sequence[Dim]) -> list[int] | None:
        """How far the last windows reach over the padded input when the output size is rounded up; None if a
        dynamic dim decides it."""
        extra = []
        for i, (size, out) in enumerate(zip(sizes, outputs)):
            reach = (out - 1) * self.stride[i] + self.dilation[i] * (self.kernel[i] - 1) + 1
            over = reach - size - 2 * self.padding[i]
            most = bounds(over)[1]
            if most is not None and most <= 0:
                over = 0
            if not isinstance(over, int):
                return None
            extra.append(over)
        return extra

    def pads(self, padding: Sequence[int] | None = None) -> list[int]:
        """Pads for ONNX: the padding, and after it what rounding up needs."""
        padding = self.padding if padding is None else padding
        return [*padding, *(p + x for p, x in zip(padding, self.extra or [0] * self.rank))]

    @property
    def ceil_mode(self) -> int | None:
        """1 where only the runtime can tell how far the windows reach."""
        return 1 if self.extra is None else None


def _batched(e: Emitter, x: Tensor, rank: int) -> Tensor:
    return x if x.rank == rank + 2 else unsqueeze(e, x, [0])


def _max_pool(rank: int) -> Lowering:
    def lower(e: Emitter, a: Call) -> Tensor | tuple[Tensor, Tensor]:
        window = Window(a, rank)
        with_indices = len(a.node.results) == 2
        pooled = e.ops(
            "MaxPool",
            _batched(e, a.self, rank),
            dtypes=(None, DType.I64) if with_indices else (None,),
            kernel_shape=window.kernel,
            strides=window.stride,
            pads=window.pads(),
            dilations=window.dilation,
            ceil_mode=window.ceil_mode,
        )
        y = _unbatched(e, pooled[0], a, rank)
        if not with_indices:
            return y
        # ONNX counts over the whole tensor, PyTorch within a channel.
        plane = e.scalar(product(a.self.dims[-rank:]), DType.I64)
        return y, _unbatched(e, e.op("Mod", pooled[1], plane), a, rank)

    return lower


def _unbatched(e: Emitter, y: Tensor, a: Call, rank: int) -> Tensor:
    return y if a.self.rank == rank + 2 else reshape(e, y, a.out.shape)


lowers_each({"aten.max_pool1d": 1, "aten.max_pool2d": 2, "aten.max_pool3d": 3}, _max_pool)
lowers_each(
    {"aten.max_pool1d_with_indices": 1, "aten.max_pool2d_with_indices": 2, "aten.max_pool3d_with_indices": 3},
    _max_pool,
)


def _avg_pool(rank: int) -> Lowering:
    def lower(e: Emitter, a: Call) -> Tensor:
        window = Window(a, rank)
        x = _batched(e, a.self, rank)
        y = _average(e, x, window, a.count_include_pad, getattr(a, "divisor_override", None))
        return _unbatched(e, y, a, rank)

    return lower


lowers_each({"aten.avg_pool1d": 1, "aten.avg_pool2d": 2, "aten.avg_pool3d": 3}, _avg_pool)


def _average(e: Emitter, x: Tensor, window: Window, include_pad: bool, divisor: int | None) -> Tensor:
    """An average divides by the cells that the window covers: those of the input, with `include_pad` those of the
    padding too, but never those beyond it that rounding up adds. With a divisor it is the sum over that number."""
    padding = window.padding
    counted = bool(include_pad) or divisor is not None
    if counted and window.ceil_mode:
        raise Declined("avg_pool with ceil_mode and counted padding needs static sizes")
    if counted and divisor is None and any(padding) and any(window.extra or ()):
        x = e.op("Pad", x, [0, 0, *padding, 0, 0, *padding])
        padding, counted = [0] * window.rank, False
    elif divisor is None and any(window.extra or ()):
        counted = False
    y = e.op(
        "AveragePool",
        x,
        kernel_shape=window.kernel,
        strides=window.stride,
        pads=window.pads(padding),
        count_include_pad=1 if counted else None,
        ceil_mode=window.ceil_mode,
    )
    if divisor is None:
        return y
    cells = math.prod(window.kernel)
    return e.op("Mul", y, cells / divisor)


def _adaptive_avg_pool(rank: int) -> Lowering:
    def lower(e: Emitter, a: Call) -> Tensor:
        sizes, targets = a.self.dims[-rank:], a.out.shape[-rank:]
        if all(known_equal(s, t) for s, t in zip(sizes, targets)):
            return a.self
        x = _batched(e, a.self, rank)
        if all(target == 1 for target in targets):
            y = e.op("GlobalAveragePool", x)
        else:
            kernel = _even_kernel(sizes, targets)
            y = _by_matrices(e, x, sizes, targets) if kernel is None else _tiled(e, "AveragePool", x, kernel)
        return _unbatched(e, y, a, rank)

    return lower


lowers_each(
    {
        "aten.adaptive_avg_pool1d": 1,
        "aten.adaptive_avg_pool2d": 2,
        "aten.adaptive_avg_pool3d": 3,
        "aten._adaptive_avg_pool2d": 2,
        "aten._adaptive_avg_pool3d": 3,
    },
    _adaptive_avg_pool,
)


def _even_kernel(sizes: Sequence[Dim], targets: Sequence[Dim]) -> list[int] | None:
    """The window with which adaptive pooling is ordinary pooling, if there is one."""
    if not all(isinstance(d, int) for d in (*sizes, *targets)):
        return None
    pairs = [(int(s), int(t)) for s, t in zip(sizes, targets)]  # type: ignore[arg-type]
    return [s // t for s, t in pairs] if all(t and s % t == 0 for s, t in pairs) else None


def _tiled(e: Emitter, op_type: str, x: Tensor, kernel: list[int]) -> Tensor:
    return e.op(op_type, x, kernel_shape=kernel, strides=kernel)


def _by_matrices(e: Emitter, x: Tensor, sizes: Sequence[Dim], targets: Sequence[Dim]) -> Tensor:
    """Uneven windows: the mean over a box is a mean along each dim in turn, each a product with a matrix."""
    rank = len(sizes)
    for axis, (size, target) in enumerate(zip(sizes, targets)):
        if not isinstance(size, int) or not isinstance(target, int):
            raise Declined("adaptive pooling of a dynamic dim to more than one cell")
        matrix = e.constant(_averaging(size, target).to(x.dtype.torch), "averaging")
        if axis == rank - 1:
            return e.op("MatMul", x, e.derived(matrix, "transposed", lambda m: m.t().contiguous()))
        letters = "abcde"[: rank + 2]
        inner = letters[2 + axis]
        x = e.op("Einsum", x, matrix, equation=f"{letters},z{inner}->{letters.replace(inner, 'z')}")
    return x


def _averaging(size: int, target: int) -> torch.Tensor:
    """Row i averages the cells from `floor(i*size/target)` to `ceil((i+1)*size/target)`."""
    matrix = torch.zeros(target, size, dtype=torch.float64)
    for row in range(target):
        start, end = row * size // target, -(-(row + 1) * size // target)
        matrix[row, start:end] = 1.0 / (end - start)
    return matrix


def _adaptive_max_pool(rank: int) -> Lowering:
    def lower(e: Emitter, a: Call) -> tuple[Tensor, Tensor]:
        sizes, targets = a.self.dims[-rank:], a.out.shape[-rank:]
        kernel = _even_kernel(sizes, targets)
        if kernel is None:
            raise Declined("adaptive max pooling to cells of unequal size")
        y, indices = e.ops(
            "MaxPool", _batched(e, a.self, rank), dtypes=(None, DType.I64), kernel_shape=kernel, strides=kernel
        )
        local = e.op("Mod", indices, e.scalar(product(sizes), DType.I64))
        return _unbatched(e, y, a, rank), _unbatched(e, local, a, rank)

    return lower


lowers_each(
    {"aten.adaptive_max_pool1d": 1, "aten.adaptive_max_pool2d": 2, "aten.adaptive_max_pool3d": 3}, _adaptive_max_pool
)
