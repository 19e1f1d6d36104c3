"""Compute the live scores of attention alone.

    exact   softmax(s · Q Kᵀ + M) V, M known and −∞ in places  →  the runs of keys that each block of queries sees
    lossy   the same with a window: query i sees `window` keys around it, or behind it where it is causal

M may be stored, or computed in the graph from what is. A band, blocks, local and global parts, causal: whatever the
form, a block of queries reads the runs of keys that any of its queries sees (`graphopt.ops.attention.planning`), at
PyTorch's own kernel. That kernel leaves out what `is_causal` hides by itself, so there measuring decides.

Each is lowered only where it is faster: by a model of the cost, and by measuring on the engine where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from graphopt.analysis.bindings import bind_sizes
from graphopt.errors import GraphOptError, requested
from graphopt.ir import Graph, Node, Value
from graphopt.ir.dims import DimError, evaluate, known_equal
from graphopt.ops.attention import Planned, encode, plan_mask, plan_window
from graphopt.ops.attention.planning import window_shown
from graphopt.ops.attention.window import rows_for
from graphopt.passes.attention.break_even import GAIN, LARGEST, Build, Sizes, measured, sizes_of
from graphopt.passes.attention.leftovers import drop_leftovers
from graphopt.passes.attention.masks import by_head, known_tensor
from graphopt.passes.attention.report import AttentionReport, Lowered
from graphopt.passes.attention.sites import Site, find_site, type_of
from graphopt.passmanager import Pass, PassContext, PassResult
from graphopt.rewrite import Contract, Rewriter
from graphopt.rewrite.pattern import Surroundings

_ROWS = (64, 128, 256)
"""Sizes of blocks that are tried: small ones compute less beside the mask, large ones make fewer calls."""


@dataclass(frozen=True)
class SparseAttention(Pass):
    """Compute only the scores that a known mask leaves, or, with a window, only those near by.

    window: how many keys a query sees, itself among them. tokens: how many first positions see all and are seen by all.
    Both are lossy; without a window the pass is exact. measure: confirm the gain on the engine.
    """

    contract = Contract.REASSOCIATING

    window: int | None = None
    tokens: int = 0
    measure: bool = True

    def __post_init__(self) -> None:
        with requested():
            if self.window is not None and self.window < 1:
                raise GraphOptError(f"a window of {self.window} keys shows nothing; ask for window=1 or more")
            if self.tokens < 0 or (self.tokens and self.window is None):
                raise GraphOptError(f"tokens={self.tokens} needs a window, and is 0 or more")
        if self.window is not None:
            object.__setattr__(self, "contract", Contract.LOSSY)

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Rewrite `graph` in place.

        Raises:
            GraphOptError: a stored mask does not fit the scores that it is for.
        """
        run = _Run(graph, context, self)
        for node in graph.nodes:
            found = find_site(node)
            if isinstance(found, str):
                run.decline(node, found)
            elif found is not None:
                with requested():
                    run.lower(found)
        drop_leftovers(run.rewriter, run.left, context)
        return PassResult(run.rewriter.changed, notes=run.report.notes(), details=run.report)


@dataclass
class _Candidate:
    """How an attention may be computed. cost: what the plan computes; build: makes it."""

    plan: Planned
    build: Build


@dataclass
class _Run:
    """One run of the pass."""

    graph: Graph
    context: PassContext
    options: SparseAttention
    report: AttentionReport = field(default_factory=AttentionReport)

    def __post_init__(self) -> None:
        self.rewriter = Rewriter(self.graph, self.context.listeners)
        self.surroundings = Surroundings(self.context.trainable, frozenset(self.graph.mutations))
        self.bindings = bind_sizes(self.graph.inputs, self.context.samples[0]) if self.context.samples else {}
        self.masks: dict[Value, torch.Tensor | None] = {}
        self.plans: dict[Any, list[Planned]] = {}
        self.biases: dict[int, Value] = {}
        self.times: dict[Any, tuple[float, float] | None] = {}
        self.left: list[Value] = []

    def decline(self, node: Node, reason: str) -> None:
        """Leave a node alone."""
        self.report.declined[node.result.name] = reason

    def lower(self, site: Site) -> None:
        """Compute an attention by a plan, if that is faster."""
        mask = self._known(site.mask) if site.mask is not None else None
        candidate = self._candidate(site, mask)
        if isinstance(candidate, str):
            self.decline(site.node, candidate)
            return
        sizes = sizes_of(site, self.bindings)
        if sizes is None:
            self.decline(site.node, "its sizes are not known; give example inputs")
            return
        times = self._times(site, sizes, mask, candidate)
        reason = _refusal(sizes, candidate.plan, times)
        if reason is None and times is None and site.is_causal and self.options.window is None:
            reason = "kernels leave out what is causal by themselves, and its speed was not measured"
        if reason is not None:
            self.decline(site.node, reason)
            return
        before, after = times or (None, None)
        share = candidate.plan.pairs / (sizes.length * sizes.keys)
        self.report.lowered[site.node.result.name] = Lowered(share, sizes.gain(candidate.plan), before, after)
        with self.rewriter.at(site.node, self.options.name):
            result = candidate.build(self.rewriter, site.operands(self.rewriter), site.mask)
            self.rewriter.replace(site.node, [site.restored(result, self.rewriter)])
        if site.mask is not None:
            self.left.append(site.mask)

    def _known(self, mask: Value) -> torch.Tensor | None:
        if mask not in self.masks:
            self.masks[mask] = known_tensor(mask, self.surroundings)
        return self.masks[mask]

    def _candidate(self, site: Site, mask: torch.Tensor | None) -> _Candidate | str:
        if self.options.window is not None:
            return self._windowed(site, mask, self.options.window)
        if site.mask is None:
            return self._causal(site) if site.is_causal else "it has no mask"
        if mask is None:
            return "its mask depends on an input, or on a buffer that may change"
        shown = by_head(mask, site)
        return shown if isinstance(shown, str) else self._planned(site, lambda rows: plan_mask(shown, rows))

    def _causal(self, site: Site) -> _Candidate | str:
        _, length, keys = site.dims
        if not isinstance(length, int) or not isinstance(keys, int):
            return "its sizes are dynamic"
        if self.context.engine is None:
            return "kernels leave out what is causal by themselves, and there is no engine to measure on"
        return self._planned(site, lambda rows: plan_window(length, keys, length, 0, 0, rows))

    def _windowed(self, site: Site, mask: torch.Tensor | None, window: int) -> _Candidate | str:
        length, keys = site.dims[1:]
        if not known_equal(length, keys):
            return "its queries and keys are not the same positions"
        left, right, tokens = window // 2, (window - 1) // 2, self.options.tokens
        if site.is_causal:
            left, right, tokens = window - 1, 0, 0
        shown = by_head(mask, site) if mask is not None and isinstance(length, int) else None
        if isinstance(shown, torch.Tensor) and isinstance(length, int):
            near = window_shown(range(length), range(length), left, right, tokens)
            left_over = shown & near if shown.dtype is torch.bool else shown.masked_fill(~near, float("-inf"))
            return self._planned(site, lambda rows: plan_mask(left_over, rows))
        sizes = sizes_of(site, self.bindings)
        if sizes is None:
            return "its sizes are not known; give example inputs"
        planned = plan_window(sizes.length, sizes.keys, left, right, tokens, rows_for(left, right))
        return _Candidate(planned, partial(_window, left, right, tokens, site.scale))

    def _planned(self, site: Site, plan: Callable[[int], Planned]) -> _Candidate:
        key = (site.mask, site.is_causal, site.dims, site.heads)
        if key not in self.plans:
            self.plans[key] = [plan(rows) for rows in _ROWS]
        sizes = sizes_of(site, self.bindings)
        assert sizes is not None, "the sizes of a mask are known"
        best = min(self.plans[key], key=sizes.planned)
        return _Candidate(best, partial(_block_sparse, best, site.scale, self.biases))

    def _times(
        self, site: Site, sizes: Sizes, mask: torch.Tensor | None, candidate: _Candidate
    ) -> tuple[float, float] | None:
        engine = self.context.engine
        if engine is None or not self.options.measure or sizes.whole > LARGEST or sizes.gain(candidate.plan) < GAIN:
            return None
        if site.mask is not None and mask is None:
            mask = _any_mask(site, self.bindings)
            if mask is None:
                return None
        types = tuple(type_of(v) for v in site.node.operands[:3] if v is not None)
        key = (site.node.op, site.node.attributes, types, encode(candidate.plan.calls), site.mask)
        if key not in self.times:
            self.times[key] = measured(site, self.bindings, engine, mask, candidate.build)
        return self.times[key]


def _refusal(sizes: Sizes, plan: Planned, times: tuple[float, float] | None) -> str | None:
    share = plan.pairs / max(sizes.length * sizes.keys, 1)
    if times is not None:
        before, after = times
        slow = before < GAIN * after
        return f"it takes {1e3 * before:.3g} ms, and {1e3 * after:.3g} ms by live blocks" if slow else None
    if sizes.gain(plan) < GAIN:
        return f"live blocks hold {share:.0%} of the scores, too much to be faster"
    return None


def _any_mask(site: Site, bindings: dict[str, int]) -> torch.Tensor | None:
    """A mask of a site's type that hides nothing."""
    assert site.mask is not None
    type_ = type_of(site.mask)
    try:
        shape = [evaluate(dim, bindings) for dim in type_.shape]
    except DimError:
        return None
    make: Any = torch.ones if type_.dtype.torch is torch.bool else torch.zeros
    mask: torch.Tensor = make(shape, dtype=type_.dtype.torch)
    return mask


def _block_sparse(
    plan: Planned,
    scale: float | None,
    known: dict[int, Value],
    rewriter: Rewriter,
    operands: Sequence[Value],
    mask: Value | None,
) -> Value:
    """The operator that computes a plan."""
    bias = None
    if plan.bias.numel():
        dtype = type_of(operands[0]).dtype.torch
        bias = known.get(id(plan.bias))
        if bias is None or bias.type.dtype.torch is not dtype or rewriter.graph.constants.get(bias.name) is not bias:  # type: ignore[union-attr]
            bias = known[id(plan.bias)] = rewriter.constant(plan.bias.to(dtype), "attention_bias")
    numbers = encode(plan.calls)
    return rewriter.create("graphopt.block_sparse_attention", *operands, bias, numbers, scale).result


def _window(
    left: int,
    right: int,
    tokens: int,
    scale: float | None,
    rewriter: Rewriter,
    operands: Sequence[Value],
    mask: Value | None,
) -> Value:
    """The operator that plans by the sizes of a call."""
    return rewriter.create("graphopt.window_attention", *operands, mask, left, right, tokens, scale).result
