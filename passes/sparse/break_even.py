"""Whether a sparse weight is faster than the dense one: a model measured on this chip, confirmed by measuring.

    dense   D₀ + d(N) · M · K
    sparse  S₀ + a(N) · (M + K) + b(N, height) · blocks

for W [M, K] times N columns. b is what a block costs; a what laying out X and writing Y costs. They are measured once
on each machine, at a few N, and kept with its description (`graphopt.targets.machine_cache`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch.nn import functional as F

from graphopt.analysis.bindings import bind_sizes
from graphopt.ir import Graph, TensorType, Value
from graphopt.ir.dims import DimError, evaluate
from graphopt.ops.sparse import HEIGHTS, compress, sparse_linear
from graphopt.passes.quantization.micro_models import Timed, best_seconds
from graphopt.passes.sparse.sites import Site
from graphopt.rewrite import Rewriter
from graphopt.targets import Engine
from graphopt.targets.machine_cache import cached

GAIN = 1.05
"""How much faster it has to be."""
DOUBT = 0.6
"""A gain by the model below which a layer is not measured."""
_COLUMNS = (1, 16, 64, 256)
_SIZE = 512
_DENSITIES = (0.02, 0.2)
_CALLS, _LEAST, _SECONDS = 40, 5, 0.02
"""Calls of each product that is measured: at most and at least, and the seconds that they may take in between."""


@dataclass(frozen=True)
class Sizes:
    """A layer's sizes at the samples: W [rows, inner] times so many columns."""

    rows: int
    inner: int
    columns: int


class Model:
    """The seconds of products on this machine."""

    def __init__(self, measured: Mapping[str, Any]) -> None:
        self._measured = measured

    def dense(self, sizes: Sizes, groups: int = 1) -> float:
        """The seconds of the dense product."""
        each = self._at("dense", sizes.columns)
        return float(self._measured["call"]) + each * sizes.rows * sizes.inner * sizes.columns / groups

    def sparse(self, sizes: Sizes, height: int, blocks: int) -> float:
        """The seconds of the product with so many blocks."""
        edges = self._at("edges", sizes.columns) * (sizes.rows + sizes.inner) * sizes.columns
        each = self._at(f"blocks{height}", sizes.columns) * blocks * sizes.columns
        return float(self._measured["sparse_call"]) + edges + each

    def best_height(self, sizes: Sizes, counts: Mapping[int, int]) -> int:
        """The height of blocks that should be fastest. counts: of blocks, by height."""
        return min(counts, key=lambda height: self.sparse(sizes, height, counts[height]))

    def gain(self, site: Site, sizes: Sizes, height: int) -> float:
        """How many times faster the sparse layer should be."""
        return self.dense(sizes, site.groups) / self.sparse(sizes, height, site.counts[height])

    def _at(self, name: str, columns: int) -> float:
        """What was measured for a number of columns, between two that were by their logarithms."""
        known = self._measured[name]
        where = [math.log(n) for n in _COLUMNS]
        place = min(max(math.log(max(columns, 1)), where[0]), where[-1])
        index = max(i for i in range(len(where) - 1) if where[i] <= place)
        share = (place - where[index]) / (where[index + 1] - where[index])
        return float(known[index] * (1 - share) + known[index + 1] * share)


def model() -> Model:
    """The model of this machine, measured by the first process that asks, in a few seconds."""
    return Model(cached(f"sparse-{torch.get_num_threads()}-threads", _measure))


def _measure() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(_SIZE, _SIZE, generator=generator)
    stored = {}
    for height in HEIGHTS:
        for density in _DENSITIES:
            shown = torch.rand(_SIZE // height, _SIZE, generator=generator) < density
            stored[height, density] = compress(weight * shown.repeat_interleave(height, 0), height)
    found: dict[str, Any] = {name: [] for name in ("dense", "edges", *(f"blocks{height}" for height in HEIGHTS))}
    with torch.inference_mode():
        tiny, one = torch.ones(1, 1), compress(torch.ones(1, 1))
        found["call"] = _seconds(lambda: F.linear(tiny, tiny))
        found["sparse_call"] = _seconds(lambda: sparse_linear(tiny, *one, None, 1))
        for columns in _COLUMNS:
            x = torch.randn(columns, _SIZE, generator=generator)
            dense = _seconds(partial(F.linear, x, weight)) - found["call"]
            found["dense"].append(max(dense, 0.0) / (_SIZE * _SIZE * columns))
            edges = []
            for height in HEIGHTS:
                few, many = (stored[height, density] for density in _DENSITIES)
                times = [_seconds(partial(sparse_linear, x, *parts, None, _SIZE)) for parts in (few, many)]
                each = max(times[1] - times[0], 0.0) / (many.values.shape[0] - few.values.shape[0])
                found[f"blocks{height}"].append(each / columns)
                edges.append(times[0] - found["sparse_call"] - each * few.values.shape[0])
            found["edges"].append(max(median(edges), 0.0) / (2 * _SIZE * columns))
    return found


def _seconds(call: Callable[[], Any]) -> float:
    """The best of some calls: a busy machine only makes things slower."""
    call()
    best, spent = math.inf, 0.0
    for done in range(_CALLS):
        if spent > _SECONDS and done >= _LEAST:
            break
        start = perf_counter()
        call()
        taken = perf_counter() - start
        best, spent = min(best, taken), spent + taken
    return best


def sizes_of(site: Site, bindings: Mapping[str, int]) -> Sizes | None:
    """The sizes of a layer, its dynamic dims bound; None where they are not known."""
    result = site.node.result
    try:
        shape = [evaluate(dim, bindings) for dim in result.shape]
    except DimError:
        return None
    rows = site.matrix.shape[0]
    return Sizes(rows, site.inner, math.prod(shape) // max(rows, 1))


def measured(site: Site, height: int, bindings: Mapping[str, int], engine: Engine) -> tuple[float, float] | None:
    """The seconds that a layer takes dense and sparse; None if the engine runs one of them not."""
    dense, sparse = (_micro(site, bindings, h) for h in (None, height))
    if engine.missing() is not None or any(engine.unsupported(one.graph) for one in (dense, sparse)):
        return None
    before, after = best_seconds(engine, [dense, sparse])
    return before, after


def _micro(site: Site, bindings: Mapping[str, int], height: int | None) -> Timed:
    """The layer alone, dense or in blocks of a height."""
    graph = Graph("layer")
    rewriter = Rewriter(graph)
    type_ = site.input.type
    assert isinstance(type_, TensorType)
    shape = tuple(evaluate(dim, bindings) for dim in type_.shape)
    x = graph.add_input("x", TensorType(type_.dtype, shape))
    bias = None if site.bias is None else _copied(graph, site.bias)
    if height is None:
        result = rewriter.rebuild(site.node, [x, _copied(graph, site.weight), bias][: len(site.node.operands)]).result
        if site.last is not site.node:
            result = rewriter.rebuild(site.last, [result]).result
    else:
        names = ("crow_indices", "col_indices", "values")
        parts = [rewriter.constant(t, name) for name, t in zip(names, site.compressed(height))]
        result = site.build(rewriter, x, (parts[0], parts[1], parts[2]), bias)
    graph.set_outputs([result])
    generator = torch.Generator().manual_seed(0)
    return Timed(graph, [torch.randn(shape, generator=generator)])


def _copied(graph: Graph, value: Value) -> Value:
    if value.constant is not None:
        return graph.add_constant(value.name, value.type, value.constant)
    type_ = value.type
    assert isinstance(type_, TensorType)
    return Rewriter(graph).constant(
        torch.zeros([evaluate(dim, {}) for dim in type_.shape]), value.name
    )  # a bias that is computed


def bindings_of(graph: Graph, samples: Any) -> dict[str, int]:
    """Sizes of the symbols at the first sample."""
    return bind_sizes(graph.inputs, samples[0]) if samples else {}
