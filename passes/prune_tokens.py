"""Drop the tokens that attention looks at least, from a layer on.

    score_j = Σ over heads and queries of softmax(s · Q Kᵀ + M)_j         at the attention in front
    kept    = the k = ⌈keep · L⌉ tokens with the largest scores, in their order
    x [B, L, C] → x[kept] [B, k, C], the mask → mask[kept], and whatever follows runs on k tokens

The length has to be dynamic, so that what follows it is known, and outputs must not have a row for each token. A
padding mask is narrowed like the tokens; padded positions have no score and go first. Lossy, and asked for.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from graphopt.errors import GraphOptError, requested
from graphopt.ir import Expr, Graph, Node, TensorType, Value
from graphopt.ir.dims import Dim, floordiv, from_symbol, known_equal, substitute, symbols_of
from graphopt.ir.types import type_symbols
from graphopt.passes.attention.padding_masks import Marks
from graphopt.passes.attention.sites import Site, find_site, type_of
from graphopt.passmanager import Pass, PassContext, PassResult
from graphopt.rewrite import Contract, Rewriter

_PARTS = 1000
"""`keep` is a fraction of at most so many parts, for sizes are computed on whole numbers."""


@dataclass(frozen=True)
class PruneTokens(Pass):
    """Keep a share of the tokens in front of an attention.

    layer: which attention, counted from 0; the scores are those of the one before. keep: the share, to a thousandth.
    """

    contract = Contract.LOSSY
    must_speed_up = True

    keep: float = 0.5
    layer: int = 1

    def __post_init__(self) -> None:
        with requested():
            if not 0 < Fraction(self.keep).limit_denominator(_PARTS) < 1:
                raise GraphOptError(f"keep={self.keep} is no share of the tokens; it lies between 0 and 1")
            if self.layer < 1:
                raise GraphOptError(f"layer={self.layer} has no attention before it; count from 1")

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Rewrite `graph` in place."""
        sites = [site for node in graph if isinstance(site := find_site(node), Site)]
        if len(sites) <= self.layer:
            return PassResult(False, notes=[f"there are {len(sites)} attentions, and none is number {self.layer}"])
        tokens = _tokens(sites[self.layer])
        if isinstance(tokens, str):
            return PassResult(False, notes=[tokens])
        pruning = _Pruning(graph, tokens, Marks())
        reason = pruning.refusal(sites[self.layer - 1])
        if reason is not None:
            return PassResult(False, notes=[reason])
        rewriter = Rewriter(graph, context.listeners)
        pruning.run(sites[self.layer - 1], self.keep, rewriter, self.name)
        report = TokenReport(self.layer, self.keep, len(pruning.behind))
        return PassResult(rewriter.changed, notes=[str(report)], details=report)


@dataclass(frozen=True)
class TokenReport:
    """Where tokens go, how many stay, and how many nodes run on those."""

    layer: int
    keep: float
    nodes: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.nodes} nodes from attention {self.layer} on run on {self.keep:.0%} of the tokens"


def _tokens(site: Site) -> Value | str:
    """The hidden states [B, L, C] that the queries of an attention are made of, or why there are none."""
    value = site.node.operands[0]
    while value is not None and value.producer is not None and value.producer.op.base != "aten.linear":
        value = value.producer.operands[0]
    source = value.producer.operands[0] if value is not None and value.producer is not None else None
    if source is None or not isinstance(source.type, TensorType) or source.type.rank != 3:
        return "the queries are not made of hidden states [batch, length, channels] by a linear layer"
    length = source.type.shape[1]
    names = symbols_of(length)
    if not isinstance(length, Expr) or len(names) != 1 or from_symbol(names[0]) != length:
        return "the length is fixed; capture the model with a dynamic one"
    if not all(known_equal(length, dim) for dim in site.dims[1:]):
        return "its queries and keys are not the same positions"
    return source


class _Pruning:
    """Narrows what lies behind the tokens."""

    def __init__(self, graph: Graph, tokens: Value, marks: Marks) -> None:
        self.graph, self.tokens, self.marks = graph, tokens, marks
        self.batch, self.length, _ = type_of(tokens).shape
        (self.symbol,) = symbols_of(self.length)
        self.behind = self._behind()
        self.new: dict[Value, Value] = {}

    def _behind(self) -> list[Node]:
        found: set[Node] = set()
        pending = [self.tokens]
        while pending:
            for node in pending.pop().users:
                if node not in found and node is not self.graph.terminator:
                    found.add(node)
                    pending += node.results
        return [node for node in self.graph if node in found]

    def _is_long(self, value: Value) -> bool:
        return self.symbol in type_symbols(value.type)

    def _is_row(self, value: Value) -> bool:
        type_ = value.type
        return (
            isinstance(type_, TensorType)
            and type_.rank >= 2
            and known_equal(type_.shape[0], self.batch)
            and known_equal(type_.shape[1], self.length)
        )

    def refusal(self, before: Site) -> str | None:
        """Why tokens cannot go, or None."""
        behind = set(self.behind)
        if before.node in behind or before.node.graph is None:
            return "the attention before does not come before"
        if any(node.regions for node in behind):
            return "there is control flow behind the tokens"
        for value in self.graph.returned:
            if (value.producer in behind or value is self.tokens) and self._is_long(value):
                return f"output %{value.name} has a row for each token"
        for node in self.behind:
            for value in node.inputs:
                outside = value.producer not in behind and value is not self.tokens and self._is_long(value)
                if outside and not self._is_row(value) and self.marks.of(value) is None:
                    return f"%{value.name}, which {node!r} reads, depends on the places of tokens"
        return None

    def run(self, before: Site, keep: float, rewriter: Rewriter, rule: str) -> None:
        """Rewrite what lies behind the tokens."""
        share = Fraction(keep).limit_denominator(_PARTS)
        kept = floordiv(self.length * share.numerator + (share.denominator - 1), share.denominator)
        with rewriter.at(self.behind[0], rule):
            scores = _scores(before, rewriter)
            chosen = rewriter.create("aten.topk", scores, kept, 1).results[1]
            self.places = rewriter.create("aten.sort", chosen, 1).results[0]
            self.kept = kept
        for node in self.behind:
            with rewriter.at(node, rule):
                operands = [None if v is None else self._narrow(v, rewriter) for v in node.operands]
                rebuilt = rewriter.rebuild(node, operands, **self._changes(node))
            self.new |= zip(node.results, rebuilt.results)
        for node in reversed(self.behind):
            for value in node.results:
                if value.num_uses:
                    rewriter.replace_value(value, self.new[value])
            rewriter.erase(node)

    def _narrow(self, value: Value, rewriter: Rewriter) -> Value:
        """A value for the tokens that are kept."""
        if value in self.new or not self._is_long(value):
            return self.new.get(value, value)
        if self._is_row(value):
            rest = type_of(value).shape[2:]
            index = rewriter.create("aten.reshape", self.places, (self.batch, self.kept, *[1] * len(rest))).result
            index = rewriter.create("aten.expand", index, (self.batch, self.kept, *rest)).result
            self.new[value] = rewriter.create("aten.gather", value, 1, index).result
            return self.new[value]
        node = value.producer
        assert node is not None, "a mark is computed, or a row"
        operands = [None if v is None else self._narrow(v, rewriter) for v in node.operands]
        rebuilt = rewriter.rebuild(node, operands, **self._changes(node))
        self.new |= zip(node.results, rebuilt.results)
        return self.new[value]

    def _changes(self, node: Node) -> dict[str, Any]:
        """Attributes that mention the length."""
        if self.symbol not in node.attributes.symbols:
            return {}
        return {name: self._with_kept(value) for name, value in node.attributes.items()}

    def _with_kept(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(self._with_kept(each) for each in value)
        return substitute(value, {self.symbol.name: self.kept}) if isinstance(value, Expr) else value


def _scores(site: Site, rewriter: Rewriter) -> Value:
    """How much each key is looked at: [B, L]."""
    query, key, _ = site.operands(rewriter)
    width = type_of(query).shape[-1]
    scale = site.scale if site.scale is not None else float(width) ** -0.5 if isinstance(width, int) else 1.0
    groups = _groups(site.heads)
    if groups > 1:
        key = rewriter.create("aten.repeat_interleave.self_int", key, groups, 1).result
    swapped = rewriter.create("aten.transpose.int", key, 2, 3).result
    scores = rewriter.create("aten.matmul", query, swapped).result
    scores = rewriter.create("aten.mul.Scalar", scores, scale).result
    if site.mask is not None:
        scores = _masked(scores, site.mask, rewriter)
    weights = rewriter.create("aten.softmax.int", scores, -1).result
    return rewriter.create("aten.nan_to_num", rewriter.create("aten.sum.dim_IntList", weights, (1, 2)).result).result


def _groups(heads: tuple[Dim, Dim]) -> int:
    query, key = heads
    return query // key if isinstance(query, int) and isinstance(key, int) else 1


def _masked(scores: Value, mask: Value, rewriter: Rewriter) -> Value:
    if not type_of(mask).dtype.torch.is_floating_point:
        hidden = rewriter.create("aten.logical_not", mask).result
        return rewriter.create("aten.masked_fill.Scalar", scores, hidden, float("-inf")).result
    return rewriter.create("aten.add.Tensor", scores, mask).result
