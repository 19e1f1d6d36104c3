"""Run an encoder on its live positions alone, without the padding.

    rows = the places where the mask is not 0                        [B, L] → [T]
    f(x), f acting on each position alone  →  f(x[rows])             [B, L, …] → [T, …]
    attention with the mask  →  attention within each sequence       `graphopt.segment_attention`
    what leaves  →  zeros, with the rows put back in their places    [T, …] → [B, L, …]

The field calls it padding-free, or unpadding. All that lies between the first embedding and the pooling runs on rows,
so time falls with the share of padding. It is exact where what leaves is multiplied by the mask, as a mean over the
positions does it: there, padded positions held zeros before. Elsewhere it is left alone, unless zeros are asked for.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

import torch

from graphopt.ir import Graph, Node, TensorType, Value
from graphopt.ir.dims import Dim, known_equal
from graphopt.passes.attention.leftovers import drop_leftovers
from graphopt.passes.attention.packing import Packing
from graphopt.passes.attention.padding_masks import Mark, Marks
from graphopt.passes.attention.rows import Forms, Layout, connected
from graphopt.passes.attention.sites import Site, find_site
from graphopt.passmanager import Pass, PassContext, PassResult
from graphopt.rewrite import Contract, Rewriter


@dataclass(frozen=True)
class PaddingFree(Pass):
    """Skip padded positions of a batch with an attention mask.

    zeros: where it matters what padded positions hold, let them hold zeros: lossy, since the model has some numbers
    there. A model that reads the first position needs it, and is exact as far as no first position is padding.
    binary: the mask holds zeros and ones alone, as a model assumes that computes with its numbers, (1 − mask) · −10³⁸.
    """

    contract = Contract.REASSOCIATING
    must_speed_up = True

    zeros: bool = False
    binary: bool = False

    def __post_init__(self) -> None:
        if self.zeros:
            object.__setattr__(self, "contract", Contract.LOSSY)

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Rewrite `graph` in place."""
        found = _find(graph, self.binary)
        if isinstance(found, str):
            return PassResult(False, notes=[found])
        forms = Forms(*found.dims, set(found.sites))
        for node in graph:
            forms.add(node)
        strange = next((node for node in found.sites if node not in forms.found), None)
        if strange is not None:
            return PassResult(False, notes=[f"{strange!r} reads positions that are laid out in another way"])
        region = connected(forms)
        reason = _late_mask(found.source, region) or self._exits(forms, region, found)
        if reason is not None:
            return PassResult(False, notes=[reason])
        rewriter = Rewriter(graph, context.listeners)
        Packing(graph, rewriter, found.source, found.inverted, forms, self.name).run(region)
        drop_leftovers(rewriter, [site.mask for site in found.sites.values() if site.mask is not None], context)
        report = PaddingReport(len(region), len(found.sites), _live_share(graph, found, context))
        return PassResult(rewriter.changed, notes=[str(report)], details=report)

    def _exits(self, forms: Forms, region: Collection[Node], found: _Found) -> str | None:
        """Why what leaves the region is not the same, or None."""
        if self.zeros:
            return None
        for node in region:
            for value in node.results:
                outside = [user for user in value.users if user not in region]
                if outside and not _is_zero_at_padding(value, forms.layouts[value], found):
                    return (
                        f"{outside[0]!r} reads padded positions of %{value.name}, which is not multiplied by the mask; "
                        "`padding-free{zeros=true}` lets them hold zeros"
                    )
        return None


@dataclass(frozen=True)
class PaddingReport:
    """How many nodes run on rows, attentions among them; live: the share of live positions in the samples."""

    nodes: int
    attentions: int
    live: float | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        share = "" if self.live is None else f"; {self.live:.0%} of the positions in the samples are live"
        return f"{self.nodes} nodes, {self.attentions} attentions among them, run on live positions alone{share}"


@dataclass(frozen=True)
class _Found:
    """The attentions with one padding mask. inverted: the source is true at padding."""

    sites: dict[Node, Site]
    source: Value
    inverted: bool
    dims: tuple[Dim, Dim]
    marks: Marks


def _find(graph: Graph, binary: bool) -> _Found | str:
    """The attentions that a padding mask of the batch is for, or why there are none."""
    marks = Marks(binary)
    sites: dict[Node, Site] = {}
    first: tuple[Value, bool] | None = None
    reasons: dict[str, None] = {}
    for node in graph:
        site = find_site(node)
        if isinstance(site, str):
            reasons[f"{node!r} is left alone: {site}"] = None
        if not isinstance(site, Site):
            continue
        mask = _padding(site, marks)
        if isinstance(mask, str):
            reasons[f"{node!r} is left alone: {mask}"] = None
        elif first in (None, mask):
            first, sites[node] = mask, site
    if first is None:
        return next(iter(reasons), "there is no attention with a padding mask")
    dims = first[0].type.shape  # type: ignore[union-attr]
    return _Found(sites, *first, (dims[0], dims[1]), marks)


def _padding(site: Site, marks: Marks) -> tuple[Value, bool] | str:
    """The mask [B, L] that an attention's mask is made of, and whether it is true at padding; or why it is none."""
    if site.mask is None:
        return "it has no mask"
    if site.is_causal:
        return "it is causal"
    mark = marks.of(site.mask)
    type_ = site.mask.type
    assert isinstance(type_, TensorType)
    if mark is None or mark.source is None or not (mark.hides_dead or mark.hides_live):
        return (
            "its mask is not known to hide padded positions, and no other; if it is computed from a mask of zeros and "
            "ones, `padding-free{binary=true}` says so"
        )
    rank = 3 if site.single else 4
    if type_.rank != rank or mark.axes != (0, rank - 1):
        return "its mask does not lie along the batch and the keys"
    source = mark.source.type
    assert isinstance(source, TensorType)
    if not all(
        known_equal(source.shape[0], site.dims[0]) and known_equal(source.shape[1], dim) for dim in site.dims[1:]
    ):
        return "its queries and keys are not the positions of the mask"
    return mark.source, mark.hides_live


def _is_zero_at_padding(value: Value, layout: Layout, found: _Found) -> bool:
    """True if a value is a product with a mask that is 0 there, or is such a mask."""
    node = value.producer
    if node is None:
        return False
    factors = node.operands if node.op.name == "aten.mul.Tensor" else ()
    type_ = value.type
    assert isinstance(type_, TensorType)
    return any(_is_zero(found.marks.of(f), f, type_, layout, found) for f in factors if f is not None)


def _is_zero(mark: Mark | None, value: Value, product: TensorType, layout: Layout, found: _Found) -> bool:
    if mark is None or mark.source is not found.source or mark.axes is None:
        return False
    shift = product.rank - value.type.rank  # type: ignore[union-attr]
    at_padding = mark.live if found.inverted else mark.dead
    return (mark.axes[0] + shift, mark.axes[1] + shift) == layout[:2] and not bool(at_padding.any())


def _late_mask(source: Value, region: Collection[Node]) -> str | None:
    """Why the mask cannot be made first, or None."""
    pending, seen = [source], {source}
    while pending:
        node = pending.pop().producer
        if node is not None and node in region:
            return f"the mask %{source.name} depends on {node!r}, which would run on its rows"
        fresh = [v for v in node.inputs if v not in seen] if node is not None else []
        seen.update(fresh)
        pending += fresh
    return None


def _live_share(graph: Graph, found: _Found, context: PassContext) -> float | None:
    """The share of live positions in the samples, where the mask is an input."""
    if found.source not in graph.inputs or not context.samples:
        return None
    masks = [sample[graph.inputs.index(found.source)] for sample in context.samples]
    live = [(mask == 0 if found.inverted else mask != 0).to(torch.float32) for mask in masks]
    return float(torch.cat([one.flatten() for one in live]).mean())
