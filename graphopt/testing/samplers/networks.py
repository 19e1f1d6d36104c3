"""Convolutions, alone and with what folds into them: batch norms, padding, activations."""

from __future__ import annotations

from graphopt.ir import Value
from graphopt.ir.dims import Dim
from graphopt.testing.builder import F32, FLOATS, GraphBuilder, high
from graphopt.testing.domain import Domain, symmetric
from graphopt.testing.samplers.normalization import normalize_batch
from graphopt.testing.samplers.table import register_sampler

CONV_BOUND = 8.0


def picture(b: GraphBuilder, spatial: int, least: int) -> Value:
    """An input of a convolution: a batch, known channels, spatial dims of at least `least`."""
    rank = spatial + 2

    def fits(v: Value) -> bool:
        return isinstance(v.shape[1], int) and v.shape[1] > 0 and all(b.at_least(d, least) for d in v.shape[2:])

    def fresh() -> list[Dim]:
        return [b.dim(), b.dim(static=True), *(b.dim(least) for _ in range(spatial))]

    return b.tensor((F32,) if not b.chance(8) else FLOATS, (rank, rank), fits, bound=CONV_BOUND, make=fresh)


def convolve(b: GraphBuilder, x: Value, spatial: int, kernel: int) -> Value:
    """A convolution of `x`, grouped and padded at times."""
    channels = int(x.shape[1])
    groups = b.one([g for g in (1, 1, channels, 2) if channels % g == 0])
    out = groups * b.one((1, 2, 3))
    sizes = tuple(b.integer(1, kernel) for _ in range(spatial))
    weight = b.weight(x.dtype, out, channels // groups, *sizes, bound=0.5)
    bias = b.weight(x.dtype, out) if b.flag() else None
    terms = channels // groups
    for size in sizes:
        terms *= size
    bound = b.domain(x).magnitude * 0.5 * terms + 1
    padding = tuple(b.integer(0, 1) for _ in range(spatial))
    return b.emit(f"conv{spatial}d", x, weight, bias, b.integer(1, 2), padding, 1, groups, domain=symmetric(bound))


def decorate(b: GraphBuilder, x: Value) -> Value:
    """What usually follows a convolution, and folds into it."""
    for _ in range(b.integer(0, 2)):
        x = b.within(x, 64.0)
        way = b.integer(0, 3)
        if way == 0:
            x = b.emit("relu", x, domain=b.domain(x).clamp(low=0.0))
        elif way == 1:
            x = normalize_batch(b, x)
        else:
            x = scale_or_shift(b, x, multiply=way == 2)
    return x


def scale_or_shift(b: GraphBuilder, x: Value, *, multiply: bool) -> Value:
    """A factor or a term for each channel."""
    vector = b.weight(x.dtype, x.shape[1], *(1,) * (len(x.shape) - 2))
    bound = b.domain(x).magnitude
    if multiply:
        return b.emit("mul.Tensor", x, vector, domain=symmetric(bound))
    return b.emit("add.Tensor", x, vector, domain=symmetric(bound + 1))


@register_sampler("conv2d", weight=6)
@register_sampler("conv1d", weight=2)
@register_sampler("conv3d")
def convolution(b: GraphBuilder) -> None:
    spatial = int(b.op[4])
    x = picture(b, spatial, 2)
    if b.chance(3):
        x = pad_before(b, x, spatial)
    elif b.chance(4):
        x = normalize_batch(b, x)
    x = b.within(x, CONV_BOUND)
    decorate(b, convolve(b, x, spatial, 2))


def pad_before(b: GraphBuilder, x: Value, spatial: int) -> Value:
    """Padding by zeros, or by something else, which a convolution cannot take over."""
    amounts = tuple(b.integer(0, 2) for _ in range(2 * spatial))
    value = b.one((0.0, 0.0, 1.0))
    known = b.domain(x).union(Domain(value, value))
    return b.emit("constant_pad_nd", x, amounts, value, domain=known)


@register_sampler("conv2d.padding conv1d.padding")
def convolution_by_word(b: GraphBuilder) -> None:
    spatial = int(b.op[4])
    x = b.within(picture(b, spatial, 3), CONV_BOUND)
    weight = b.weight(x.dtype, b.one((1, 2, 3)), x.shape[1], *(b.integer(1, 3) for _ in range(spatial)), bound=0.5)
    known = symmetric(b.domain(x).magnitude * 0.5 * 9 * int(x.shape[1]))
    b.emit(b.op, x, weight, None, 1, b.one(("same", "valid")), domain=known)


@register_sampler("convolution")
def core_convolution(b: GraphBuilder) -> None:
    """The form that all others come down to."""
    x = b.within(picture(b, 2, 3), CONV_BOUND)
    weight = b.weight(x.dtype, b.one((1, 2, 3)), x.shape[1], *(b.integer(1, 3) for _ in range(2)), bound=0.5)
    known = symmetric(b.domain(x).magnitude * 0.5 * 9 * int(x.shape[1]))
    strides = (b.integer(1, 2), b.integer(1, 2))
    b.emit(b.op, x, weight, None, strides, (1, 0), (1, 1), False, (0, 0), 1, domain=known)


@register_sampler("conv_transpose2d.input", weight=2)
@register_sampler("conv_transpose1d")
def transposed_convolution(b: GraphBuilder) -> None:
    spatial = int(b.op[14])
    x = b.within(picture(b, spatial, 2), CONV_BOUND)
    channels = int(x.shape[1])
    groups = b.one([g for g in (1, 1, 2) if channels % g == 0])
    out = b.one((1, 2))
    kernel = b.integer(1, 3)
    weight = b.weight(x.dtype, channels, out, *(kernel,) * spatial, bound=0.5)
    bias = b.weight(x.dtype, out * groups) if b.flag() else None
    stride = b.integer(1, 2)
    output_padding = b.integer(0, stride - 1)
    known = symmetric(b.domain(x).magnitude * 0.5 * kernel**spatial * channels + 1)
    if all(high(d) <= 24 for d in x.shape):
        padding = b.integer(0, (kernel - 1) // 2)
        y = b.emit(b.op, x, weight, bias, stride, padding, output_padding, groups, domain=known)
        decorate(b, y)
