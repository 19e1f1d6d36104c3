"""Samplers: Operators that take parts."""

from __future__ import annotations

from tests.ops.calls import Draw, Drawn, S, sampler


@sampler("slice.Tensor")
def slice_(d: Draw) -> Drawn:
    x = d.tensor(1, 3)
    ends = (None, 0, 1, 3, -1, -2, 100, 2**63 - 1, S)
    return [x], {"dim": d.axis(x.rank), "start": d.one(ends), "end": d.one(ends), "step": d.integer(1, 3)}


@sampler("select.int")
def select(d: Draw) -> Drawn:
    x = d.tensor(1, 3)
    return [x], {"dim": d.axis(x.rank), "index": d.integer(-4, 3)}


@sampler("narrow")
def narrow(d: Draw) -> Drawn:
    x = d.tensor(1, 3)
    return [x], {"dim": d.axis(x.rank), "start": d.integer(0, 2), "length": d.one((0, 1, 2, 3))}


@sampler("split.Tensor unsafe_split.Tensor")
def split(d: Draw) -> Drawn:
    x = d.tensor(1, 3)
    return [x], {"split_size": d.one((1, 2, 3, 8, S)), "dim": d.axis(x.rank)}


@sampler("chunk")
def chunk(d: Draw) -> Drawn:
    x = d.tensor(1, 3)
    return [x], {"chunks": d.integer(1, 4), "dim": d.axis(x.rank)}


@sampler("tensor_split.sections")
def tensor_split(d: Draw) -> Drawn:
    x = d.tensor(1, 3)
    return [x], {"sections": d.integer(1, 4), "dim": d.axis(x.rank)}


@sampler("split_with_sizes unsafe_split_with_sizes split.sizes")
def split_with_sizes(d: Draw) -> Drawn:
    x = d.tensor(1, 3)
    dim = d.axis(x.rank)
    first = d.one((1, 0, 2))
    key = "split_size" if d.op == "split.sizes" else "split_sizes"
    return [x], {key: (first, x.shape[dim] - first), "dim": dim}


@sampler("unfold")
def unfold(d: Draw) -> Drawn:
    x = d.tensor(1, 3)
    return [x], {"dimension": d.axis(x.rank), "size": d.integer(0, 3), "step": d.integer(1, 3)}


@sampler("diagonal")
def diagonal(d: Draw) -> Drawn:
    x = d.tensor(2, 3)
    return [x], {"offset": d.integer(-2, 2), "dim1": 0, "dim2": d.one((1, -1, -2))}
