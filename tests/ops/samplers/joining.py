"""Samplers: Concatenation, padding, repetition."""

from __future__ import annotations

from graphopt.ir import TensorType
from tests.ops.calls import FEW, Draw, Drawn, S, sampler


@sampler("cat concat concatenate")
def cat(d: Draw) -> Drawn:
    shape = d.shape(1, 3)
    dim = d.axis(len(shape))
    place = dim % len(shape)
    dtype = d.dtype()
    parts: list[TensorType | None] = []
    for _ in range(d.integer(1, 3)):
        kind = d.dtype() if d.integer(0, 3) == 0 else dtype
        parts.append(TensorType(kind, (*shape[:place], d.dim(), *shape[place + 1 :])))
    if d.integer(0, 5) == 0:
        parts.insert(0, TensorType(dtype, (0,)))
    return parts, {"dim": dim}


@sampler("stack")
def stack(d: Draw) -> Drawn:
    x = d.tensor(0, 3)
    return [x] * d.integer(1, 3), {"dim": d.integer(-x.rank - 1, x.rank)}


@sampler("broadcast_tensors")
def broadcast_tensors(d: Draw) -> Drawn:
    shape = d.shape()
    return [TensorType(d.dtype(), d.broadcastable(shape)) for _ in range(d.integer(1, 3))], {}


@sampler("constant_pad_nd")
def constant_pad(d: Draw) -> Drawn:
    x = d.tensor(1, 4)
    return [x], {"pad": tuple(d.integer(-1, 2) for _ in range(2 * d.integer(1, x.rank)))}


@sampler("pad")
def pad(d: Draw) -> Drawn:
    mode = d.one(("constant", "reflect", "replicate", "circular"))
    x = d.tensor(2, 4, FEW)
    count = d.integer(1, 2)
    return [x], {"pad": tuple(d.integer(0, 2) for _ in range(2 * count)), "mode": mode}


@sampler("reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d")
def mirrored(d: Draw) -> Drawn:
    n = int(d.op[-2])
    return [d.tensor(n + 1, n + 2, FEW)], {"padding": tuple(d.integer(0, 2) for _ in range(2 * n))}


@sampler("repeat")
def repeat(d: Draw) -> Drawn:
    x = d.tensor(0, 3)
    return [x], {"repeats": tuple(d.one((1, 2, 0, S)) for _ in range(x.rank + d.integer(0, 1)))}


@sampler("tile")
def tile(d: Draw) -> Drawn:
    x = d.tensor(0, 3)
    return [x], {"dims": tuple(d.one((1, 2, 0, S)) for _ in range(d.integer(0, 4)))}


@sampler("repeat_interleave.self_int")
def repeat_interleave(d: Draw) -> Drawn:
    x = d.tensor(1, 3)
    return [x], {"repeats": d.one((2, 1, 3, S)), "dim": d.one((None, d.axis(x.rank)))}
