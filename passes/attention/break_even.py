"""Whether attention by a plan is faster than the whole: a model, confirmed by measuring where there is an engine.

    time ∝ calls · CALL + (SLOWER · pairs + COPY · copied keys) · heads · (E + F)    against    L · S · heads · (E + F)

Pairs of a plan take longer than those of the whole, for its matrices are smaller; each call costs something, and keys
that lie apart have to be brought together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from graphopt.ir import DType, Graph, TensorType, Value
from graphopt.ir.dims import DimError, evaluate, symbols_of
from graphopt.ops.attention import Planned
from graphopt.passes.attention.sites import Site, type_of
from graphopt.passes.quantization.micro_models import Timed, best_seconds
from graphopt.rewrite import Rewriter
from graphopt.targets import Engine

CALL = 7e6
"""What a call costs, in multiplications: about 50 µs."""
SLOWER = 1.25
"""What a score of a plan costs, in scores of the whole."""
COPY = 170
"""What copying a number costs, in multiplications."""
GAIN = 1.05
"""How much faster it has to be."""
LARGEST = 2e11
"""Multiplications of an attention that is measured; a larger one takes seconds, and the model decides."""


@dataclass(frozen=True)
class Sizes:
    """An attention's sizes at the samples."""

    batch: int
    heads: int
    length: int
    keys: int
    width: int

    @property
    def whole(self) -> float:
        """Multiplications of the whole."""
        return float(self.batch * self.heads * self.length * self.keys * self.width)

    def planned(self, plan: Planned) -> float:
        """What a plan costs, in multiplications of the whole."""
        each = SLOWER * plan.pairs + COPY * plan.copied
        return self.batch * (CALL * len(plan.calls) + self.heads * self.width * each)

    def gain(self, plan: Planned) -> float:
        """How many times faster a plan should be."""
        return (CALL * self.batch + self.whole) / max(self.planned(plan), 1.0)


def sizes_of(site: Site, bindings: Mapping[str, int]) -> Sizes | None:
    """The sizes of an attention, its dynamic dims bound, a batch of 1 where nothing is known of it; None where its
    length is not known."""
    query, value = (
        type_of(operand) for operand in (site.node.operands[0], site.node.operands[2]) if operand is not None
    )
    alone = dict.fromkeys((symbol.name for symbol in symbols_of(site.dims[0])), 1)
    try:
        batch = evaluate(site.dims[0], alone | dict(bindings))
        length, keys, heads = (evaluate(dim, bindings) for dim in (*site.dims[1:], site.heads[0]))
        width = evaluate(query.shape[-1], bindings) + evaluate(value.shape[-1], bindings)
    except DimError:
        return None
    return Sizes(batch, heads, length, keys, width // (heads if site.packed else 1))


Build = Callable[[Rewriter, list[Value], "Value | None"], Value]
"""Makes an attention of queries, keys and values with heads apart, and the mask."""


def measured(
    site: Site, bindings: Mapping[str, int], engine: Engine, mask: torch.Tensor | None, build: Build
) -> tuple[float, float] | None:
    """The seconds that an attention takes as it is, and as `build` makes it; None if the engine runs one of them not.

    mask: what the mask holds, if there is one.
    """
    whole, other = (_micro(site, bindings, mask, make) for make in (None, build))
    if engine.missing() is not None or any(engine.unsupported(one.graph) for one in (whole, other)):
        return None
    before, after = best_seconds(engine, [whole, other])
    return before, after


def _micro(site: Site, bindings: Mapping[str, int], mask: torch.Tensor | None, build: Build | None) -> Timed:
    graph = Graph("attention")
    rewriter = Rewriter(graph)
    given: list[Any] = []
    known: dict[Value, Value] = {}
    for index, operand in enumerate(site.node.operands[:3]):
        assert operand is not None
        type_ = type_of(operand)
        shape = tuple(evaluate(dim, bindings) for dim in type_.shape)
        if operand not in known:
            given.append(_numbers(shape, type_.dtype, index))
            known[operand] = graph.add_input(f"x{index}", TensorType(type_.dtype, shape))
    shown = None if mask is None else rewriter.constant(mask, "mask")
    operands = [None if v is None else shown if v is site.mask else known[v] for v in site.node.operands]
    node = rewriter.rebuild(site.node, operands)
    result = node.result
    if build is not None:
        batch, length, keys = (evaluate(dim, bindings) for dim in site.dims)
        alone = Site(node, shown, site.heads, (batch, length, keys), site.packed, site.single)
        result = alone.restored(build(rewriter, alone.operands(rewriter), shown), rewriter)
    graph.set_outputs([result])
    if build is not None:
        rewriter.erase(node)
    return Timed(graph, given)


def _numbers(shape: tuple[int, ...], dtype: DType, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(dtype.torch)
