"""Operators that move elements and leave them as they are."""

from __future__ import annotations

import math
from typing import Any

from graphopt.ir import Value
from graphopt.ir.dims import Dim, exact_div, known_equal, product
from graphopt.testing.builder import ANY, FLOATS, MAX_ELEMENTS, NUMBERS, GraphBuilder, elements, high, low
from graphopt.testing.domain import Domain
from graphopt.testing.samplers.table import register_sampler


def moved(b: GraphBuilder, op: str, x: Value, *args: Any, **attributes: Any) -> Any:
    """Emit an operator that keeps the elements of `x`."""
    return b.emit(op, x, *args, domain=b.domain(x), **attributes)


def new_shape(b: GraphBuilder, shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """Another shape with as many elements: dims merged, split, ones added or dropped, one dim left to infer."""
    sizes = list(shape)
    way = b.integer(0, 4)
    if way == 0 and len(sizes) > 1:
        place = b.integer(0, len(sizes) - 2)
        sizes[place : place + 2] = [sizes[place] * sizes[place + 1]]
    elif way == 1 and sizes:
        place = b.integer(0, len(sizes) - 1)
        half = exact_div(sizes[place], b.one((2, 3)))
        if half is not None and half != 0:
            factor = exact_div(sizes[place], half)
            assert factor is not None
            sizes[place : place + 1] = b.one(([half, factor], [factor, half]))
    elif way == 2:
        sizes.insert(b.integer(0, len(sizes)), 1)
    elif way == 3:
        sizes = [product(sizes)]
    elif 1 in sizes:
        sizes.remove(1)
    if sizes and b.chance(3) and all(low(d) > 0 for d in sizes):
        sizes[b.integer(0, len(sizes) - 1)] = -1
    return tuple(sizes)


@register_sampler("reshape", weight=4)
@register_sampler("view _unsafe_view")
def reshape(b: GraphBuilder) -> None:
    x = b.tensor(ANY)
    if b.op != "reshape" and (x.producer is not None or b.flag()):
        x = moved(b, "contiguous", x)
    moved(b, b.op, x, new_shape(b, x.shape))


@register_sampler("permute", weight=4)
def permute(b: GraphBuilder) -> None:
    """Often several in a row, whose product may be the identity."""
    x = b.tensor(ANY, (1, 5))
    for _ in range(b.integer(1, 2)):
        left = list(range(len(x.shape)))
        order = [left.pop(b.integer(0, len(left) - 1)) for _ in range(len(x.shape))]
        x = moved(b, "permute", x, tuple(a - len(order) if b.chance(6) else a for a in order))


@register_sampler("transpose.int", weight=3)
@register_sampler("swapaxes movedim.int swapdims moveaxis.int")
def transpose(b: GraphBuilder) -> None:
    x = b.tensor(ANY, (1, 5))
    x = moved(b, b.op, x, b.axis(len(x.shape)), b.axis(len(x.shape)))
    if b.chance(3):
        moved(b, b.op, x, b.axis(len(x.shape)), b.axis(len(x.shape)))


@register_sampler("t")
def transpose_matrix(b: GraphBuilder) -> None:
    moved(b, "t", b.tensor(ANY, (0, 2)))


@register_sampler("mT numpy_T")
def transpose_last(b: GraphBuilder) -> None:
    moved(b, b.op, b.tensor(ANY, (2, 4 if b.op == "mT" else 2)))


@register_sampler("ravel atleast_1d atleast_2d atleast_3d")
def plain(b: GraphBuilder) -> None:
    moved(b, b.op, b.tensor(ANY))


@register_sampler("diag_embed")
def diag_embed(b: GraphBuilder) -> None:
    x = b.tensor(FLOATS, (1, 2))
    b.emit("diag_embed", x, domain=b.domain(x).union(Domain(0.0, 0.0)))


@register_sampler("unfold")
def unfold(b: GraphBuilder) -> None:
    x = b.tensor(ANY, (1, 3), least=1)
    axis = b.integer(0, len(x.shape) - 1)
    moved(b, "unfold", x, axis, b.integer(1, min(low(x.shape[axis]), 2)), b.integer(1, 2))


@register_sampler("unsqueeze", weight=2)
def unsqueeze(b: GraphBuilder) -> None:
    x = b.tensor(ANY)
    moved(b, "unsqueeze", x, b.axis(len(x.shape) + 1))


@register_sampler("squeeze.dim squeeze.dims")
def squeeze(b: GraphBuilder) -> None:
    """A dim that may or may not be 1, depending on its symbol, is left out: the rank must be known."""
    x = b.tensor(ANY, (1, 5))
    known = [a for a, d in enumerate(x.shape) if d == 1 or low(d) > 1 or high(d) < 1]
    if not known:
        x, known = moved(b, "unsqueeze", x, 0), [0]
    if b.op == "squeeze.dim":
        moved(b, b.op, x, b.one(known))
    else:
        moved(b, b.op, x, b.some(known))


@register_sampler("broadcast_to")
@register_sampler("expand", weight=2)
def expand(b: GraphBuilder) -> None:
    x = b.tensor(ANY, (0, 3))
    lead = tuple(b.dim() for _ in range(b.integer(0, 1)))
    size = lead + tuple(b.dim() if d == 1 else b.one((d, -1)) for d in x.shape)
    real = lead + tuple(d if s == -1 else s for d, s in zip(x.shape, size[len(lead) :]))
    if elements(real) <= MAX_ELEMENTS:
        moved(b, b.op, x, size)
    else:
        moved(b, "alias", x)


@register_sampler("expand_as view_as reshape_as")
def shape_of_other(b: GraphBuilder) -> None:
    x = b.tensor(ANY, (0, 3))
    same = b.find(ANY, where=lambda v: len(v.shape) == len(x.shape) and all(map(known_equal, v.shape, x.shape)))
    moved(b, b.op, moved(b, "contiguous", x), x if same is None else same)


@register_sampler("flatten.using_ints", weight=2)
def flatten(b: GraphBuilder) -> None:
    x = b.tensor(ANY)
    rank = len(x.shape)
    start = b.integer(0, max(rank - 1, 0))
    end = b.integer(start, max(rank - 1, 0))
    moved(b, "flatten.using_ints", x, start, end - rank if rank and b.flag() else end)


@register_sampler("unflatten.int")
def unflatten(b: GraphBuilder) -> None:
    x = b.tensor(ANY, (1, 4), least=1)
    dim = b.axis(len(x.shape))
    size = x.shape[dim]
    half = exact_div(size, 2)
    options: list[tuple[Dim, ...]] = [(1, size), (size, 1), (-1, 1)]
    if half is not None:
        options += [(2, half), (-1, 2)]
    moved(b, "unflatten.int", x, dim, b.one(options))


@register_sampler("flipud fliplr")
def flip_one(b: GraphBuilder) -> None:
    moved(b, b.op, b.tensor(ANY, (2, 4)))


@register_sampler("flip")
def flip(b: GraphBuilder) -> None:
    x = b.tensor(ANY)
    moved(b, "flip", x, b.axes(len(x.shape)))


@register_sampler("roll")
def roll(b: GraphBuilder) -> None:
    x = b.tensor(ANY, (1, 4), least=1)
    if b.flag():
        moved(b, "roll", x, (b.integer(-2, 2),), (b.integer(0, len(x.shape) - 1),))
    else:
        moved(b, "roll", x, (b.integer(-2, 2),))


@register_sampler("tril triu")
def triangle(b: GraphBuilder) -> None:
    x = b.tensor(FLOATS, (2, 4))
    b.emit(b.op, x, b.integer(0, 2) - 1, domain=b.domain(x).union(Domain(0.0, 0.0)))


@register_sampler("diagonal")
def diagonal(b: GraphBuilder) -> None:
    x = b.tensor(ANY, (2, 4), lambda v: all(isinstance(d, int) for d in v.shape))
    if all(isinstance(d, int) for d in x.shape):
        moved(b, "diagonal", x, b.integer(0, 1), 0, 1)


@register_sampler("repeat tile")
def repeat(b: GraphBuilder) -> None:
    x = b.tensor(ANY, (0, 3))
    counts = tuple(b.one((1, 2, 1, 3)) for _ in range(len(x.shape) + b.integer(0, 1)))
    if elements(x.shape) * math.prod(counts) <= MAX_ELEMENTS:
        moved(b, b.op, x, counts)


@register_sampler("repeat_interleave.self_int")
def repeat_interleave(b: GraphBuilder) -> None:
    x = b.tensor(ANY, (1, 3))
    moved(b, b.op, x, b.integer(1, 3), b.axis(len(x.shape)))


@register_sampler("constant_pad_nd", weight=2)
def constant_pad(b: GraphBuilder) -> None:
    x = b.tensor(NUMBERS, (1, 4))
    axes = b.integer(1, min(2, len(x.shape)))
    value = b.one((0, 0, 1, -1))
    amounts = tuple(b.integer(0, 2) for _ in range(2 * axes))
    b.emit("constant_pad_nd", x, amounts, value, domain=b.domain(x).union(Domain(float(value), float(value))))


@register_sampler("pad")
def pad(b: GraphBuilder) -> None:
    mode = b.one(("constant", "reflect", "replicate", "circular"))
    x = b.tensor(FLOATS, (3, 4), least=3, make=lambda: [b.dim(), b.dim(), b.dim(3), b.dim(3)])
    amounts = tuple(b.integer(0, 2) for _ in range(2 * (len(x.shape) - 2)))
    b.emit("pad", x, amounts, mode, domain=b.domain(x).union(Domain(0.0, 0.0)))


@register_sampler("pixel_shuffle")
def pixel_shuffle(b: GraphBuilder) -> None:
    moved(b, "pixel_shuffle", image(b, 4), 2)


@register_sampler("pixel_unshuffle")
def pixel_unshuffle(b: GraphBuilder) -> None:
    x = b.tensor(
        FLOATS,
        (4, 4),
        lambda v: all(exact_div(d, 2) is not None for d in v.shape[2:]),
        make=lambda: (b.dim(), b.dim(static=True), 4, 2),
    )
    moved(b, "pixel_unshuffle", x, 2)


@register_sampler("channel_shuffle")
def channel_shuffle(b: GraphBuilder) -> None:
    moved(b, "channel_shuffle", image(b, 4), 2)


def image(b: GraphBuilder, multiple: int = 1, ranks: tuple[int, int] = (4, 4)) -> Value:
    """A batch of images whose channels are known, and a multiple of something."""
    return b.tensor(
        FLOATS,
        ranks,
        lambda v: isinstance(v.shape[1], int) and v.shape[1] % multiple == 0 and v.shape[1] > 0,
        make=lambda: [b.dim(), b.one((multiple, 2 * multiple))] + [b.dim(2) for _ in range(ranks[0] - 2)],
        least=1,
    )
