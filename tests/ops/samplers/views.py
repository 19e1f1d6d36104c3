"""Samplers: Operators that rearrange dims."""

from __future__ import annotations

from graphopt.ir import DType, TensorType
from graphopt.ir.dims import product
from tests.ops.calls import Draw, Drawn, T, sampler


@sampler("dropout alpha_dropout feature_dropout")
def dropout(d: Draw) -> Drawn:
    return [d.tensor()], {"p": d.one((0.5, 0.0, 1.5)), "train": d.flag()}


@sampler("reshape view _unsafe_view")
def reshape(d: Draw) -> Drawn:
    shape = list(d.shape())
    size = list(shape)
    if len(size) > 1 and d.flag():
        size[:2] = [product(size[:2])]
    if size and d.flag():
        size[d.integer(0, len(size) - 1)] = -1
    elif d.flag():
        size.insert(0, 1)
    key = "shape" if d.op == "reshape" else "size"
    return [TensorType(d.dtype(), tuple(shape))], {key: tuple(size)}


@sampler("permute")
def permute(d: Draw) -> Drawn:
    x = d.tensor()
    order = d.one((tuple(range(x.rank))[::-1], tuple(range(1, x.rank)) + (0,) * (x.rank > 0)))
    return [x], {"dims": tuple(a - x.rank if d.flag() else a for a in order)}


@sampler("transpose.int")
def transpose(d: Draw) -> Drawn:
    x = d.tensor()
    return [x], {"dim0": d.axis(x.rank), "dim1": d.axis(x.rank)}


@sampler("swapaxes")
def swapaxes(d: Draw) -> Drawn:
    x = d.tensor()
    return [x], {"axis0": d.axis(x.rank), "axis1": d.axis(x.rank)}


@sampler("swapdims")
def swapdims(d: Draw) -> Drawn:
    return transpose(d)


@sampler("t numpy_T tril triu")
def matrix(d: Draw) -> Drawn:
    return [d.tensor(0, 3)], {}


@sampler("movedim.int moveaxis.int")
def movedim(d: Draw) -> Drawn:
    x = d.tensor()
    return [x], {"source": d.axis(x.rank), "destination": d.axis(x.rank)}


@sampler("movedim.intlist moveaxis.intlist")
def movedims(d: Draw) -> Drawn:
    x = d.tensor(2, 4)
    return [x], {"source": (0, -1), "destination": d.one(((1, 0), (-1, 0), (0, 1)))}


@sampler("squeeze.dim unbind.int")
def one_dim(d: Draw) -> Drawn:
    x = d.tensor()
    return [x], {"dim": d.axis(x.rank)}


@sampler("unsqueeze")
def unsqueeze(d: Draw) -> Drawn:
    x = d.tensor()
    return [x], {"dim": d.integer(-x.rank - 1, x.rank)}


@sampler("squeeze.dims")
def squeeze_dims(d: Draw) -> Drawn:
    x = d.tensor()
    return [x], {"dim": d.axes(x.rank)}


@sampler("expand broadcast_to")
def expand(d: Draw) -> Drawn:
    size = d.shape()
    x = TensorType(d.dtype(), d.broadcastable(size))
    offset = len(size) - x.rank
    return [x], {"size": tuple(-1 if i >= offset and x.shape[i - offset] == n else n for i, n in enumerate(size))}


@sampler("expand_as")
def expand_as(d: Draw) -> Drawn:
    size = d.shape()
    return [TensorType(d.dtype(), d.broadcastable(size)), TensorType(d.dtype(), size)], {}


@sampler("view_as reshape_as")
def view_as(d: Draw) -> Drawn:
    x = d.tensor()
    return [x, TensorType(d.dtype(), x.shape[::-1])], {}


@sampler("flatten.using_ints")
def flatten(d: Draw) -> Drawn:
    x = d.tensor()
    return [x], {"start_dim": d.axis(x.rank), "end_dim": d.axis(x.rank)}


@sampler("unflatten.int")
def unflatten(d: Draw) -> Drawn:
    x = d.tensor(1, 3)
    dim = d.axis(x.rank)
    size = x.shape[dim]
    return [x], {"dim": dim, "sizes": d.one(((1, size), (-1, 1), (size, -1), (2, -1)))}


@sampler("flip")
def flip(d: Draw) -> Drawn:
    x = d.tensor()
    return [x], {"dims": d.axes(x.rank)}


@sampler("roll")
def roll(d: Draw) -> Drawn:
    x = d.tensor(1, 3)
    dims = d.axes(x.rank)
    return [x], {"shifts": (1,) * (len(dims) or 1), "dims": dims}


@sampler("pixel_shuffle")
def pixel_shuffle(d: Draw) -> Drawn:
    n, c, h, w = (d.dim() for _ in range(4))
    return [TensorType(DType.F32, (n, d.one((c, c * 4)), h, w))], {"upscale_factor": 2}


@sampler("pixel_unshuffle")
def pixel_unshuffle(d: Draw) -> Drawn:
    n, c, h, w = (d.dim() for _ in range(4))
    return [TensorType(DType.F32, (n, c, d.one((h, h * 2)), w * 2))], {"downscale_factor": 2}


@sampler("channel_shuffle")
def channel_shuffle(d: Draw) -> Drawn:
    return [TensorType(DType.F32, (d.dim(), d.one((4, T, 3)), d.dim(), d.dim()))], {"groups": 2}
