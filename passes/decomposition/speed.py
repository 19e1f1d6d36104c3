"""How long layers and what may stand for them take alone on an engine; each kind and size is measured once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from graphopt.analysis import watch_values
from graphopt.ir import Graph, TensorType, Value, from_torch
from graphopt.passes.decomposition.emitting import emit, operands
from graphopt.passes.decomposition.factors import Factor, joined
from graphopt.passes.decomposition.methods import METHODS
from graphopt.passes.decomposition.options import Curve, Option, pareto, thinned, timed
from graphopt.passes.decomposition.sites import Site
from graphopt.passes.quantization.micro_models import Timed, best_seconds
from graphopt.passmanager import PassContext
from graphopt.rewrite import Rewriter

GAIN = 0.97
"""What a chain may take of the layer's time, at most; nearer is noise."""

LOOKS = 6
"""Options of a layer that are measured."""


class Clock:
    """Measures layers and options. inputs: that give the sizes."""

    def __init__(self, graph: Graph, sites: Sequence[Site], context: PassContext) -> None:
        assert context.engine is not None
        self.engine = context.engine
        self._known: dict[Any, float] = {}
        self._found: dict[Value, torch.Tensor] = {}
        wanted = {operands(site, site.nodes[0])[0] for site in sites}

        def take(value: Value, tensor: torch.Tensor) -> None:
            if value in wanted:
                self._found[value] = tensor

        watch_values(graph, [context.samples[0]], take)

    def measure(self, curve: Curve, all_: bool) -> Curve:
        """The curve with times, without what is no faster than the layer.

        all_: only options that were measured stay; otherwise those between them do, too.
        """
        site = curve.site
        if operands(site, site.nodes[0])[0] not in self._found or not curve.options:
            return curve
        looked_at = thinned(pareto(curve.options), LOOKS)
        keys = [self._key(site, None), *(self._key(site, option) for option in looked_at)]
        graphs = [self._layer(site), *(self._chain(site, option) for option in looked_at)]
        if any(key not in self._known for key in keys):
            # The layer runs along each time, so that all are measured in the same moment.
            self._known.update(zip(keys, best_seconds(self.engine, graphs)))
        count = len(site.nodes)
        own = self._known[keys[0]] * count
        found = [timed(option, self._known[key] * count) for option, key in zip(looked_at, keys[1:])]
        faster = [option for option in found if option.seconds is not None and option.seconds < GAIN * own]
        reasons = list(curve.reasons)
        if found and not faster:
            best = min(option.seconds or 0.0 for option in found)
            reasons.append(f"it takes {1e3 * own:.3g} ms, and its factors {1e3 * best:.3g} ms at best")
        if not all_:
            slowest = max((option.work.macs for option in faster), default=0)
            unmeasured = [o for o in curve.options if o not in looked_at and o.work.macs <= slowest]
            faster = sorted([*faster, *unmeasured], key=lambda o: o.work.macs)
        return Curve(site, faster, reasons, own, curve.failures)

    def _key(self, site: Site, option: Option | None) -> Any:
        source, bias = operands(site, site.nodes[0])
        chosen = None if option is None else (option.method, option.ranks)
        size = tuple(self._found[source].shape)
        return site.shape, site.geometry, size, bias is None, site.layer.weight.type, chosen

    def _layer(self, site: Site) -> Timed:
        source, _ = operands(site, site.nodes[0])
        graph, rewriter, given = self._start(source)
        node = site.nodes[0]
        new = {
            value: graph.add_constant(value.name, value.type, value.constant)
            for value in dict.fromkeys(node.inputs)
            if value.constant is not None
        }
        new[source] = given
        operands_ = [None if value is None else new.get(value) for value in node.operands]
        graph.set_outputs([rewriter.rebuild(node, operands_).result])
        return Timed(graph, [self._found[source]])

    def _chain(self, site: Site, option: Option) -> Timed:
        source, bias = operands(site, site.nodes[0])
        graph, rewriter, given = self._start(source)
        assert isinstance(site.layer.weight.type, TensorType)
        dtype = site.layer.weight.type.dtype.torch
        layout = METHODS[option.method].layout(site.shape, option.ranks)
        chain = joined([[_numbers(factor, dtype) for factor in layout]] * site.shape.groups)
        weights = []
        for index, factor in enumerate(chain):
            tensor = factor.weight.t() if site.shape.kind == "embedding" and not index else factor.weight
            weights.append(rewriter.constant(tensor.contiguous(), f"w{index}"))
        added = None
        if bias is not None and bias.constant is not None:
            added = graph.add_constant("bias", bias.type, bias.constant)
        graph.set_outputs([emit(rewriter, site, given, weights, chain, added)])
        return Timed(graph, [self._found[source]])

    def _start(self, source: Value) -> tuple[Graph, Rewriter, Value]:
        graph = Graph("micro")
        tensor = self._found[source]
        given = graph.add_input("x", TensorType(from_torch(tensor.dtype), tuple(tensor.shape)))
        return graph, Rewriter(graph), given


def _numbers(factor: Factor, dtype: torch.dtype) -> Factor:
    """The factor with some numbers: no kernel is faster for others, but for zeros."""
    generator = torch.Generator().manual_seed(0)
    return replace(factor, weight=torch.randn(factor.weight.shape, generator=generator).mul_(0.02).to(dtype))


def why_unmeasured(graph: Graph, context: PassContext) -> str | None:
    """Why the speed of layers cannot be measured, or None."""
    if context.engine is None:
        return "the target has no engine"
    if not context.samples:
        return "there are no example inputs"
    return context.engine.missing() or context.engine.unsupported(graph)


def whole_seconds(graphs: Sequence[Graph], context: PassContext) -> list[float]:
    """The seconds of whole graphs, in turn."""
    assert context.engine is not None
    return best_seconds(context.engine, [Timed(graph, list(context.samples[0])) for graph in graphs], 7)
