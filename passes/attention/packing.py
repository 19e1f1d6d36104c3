"""Rewriting a region of a graph from a padded batch [B, L, …] to its live rows [T, …], and back."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from graphopt.ir import Graph, Node, Value
from graphopt.ir.dims import Dim, floordiv, shapes_known_equal
from graphopt.passes.attention.rows import FLAT, HEADS, KEEP, ROWS, Form, Forms, Layout, Role
from graphopt.passes.attention.sites import Site, find_site, type_of
from graphopt.rewrite import Rewriter


class Packing:
    """source: the mask [B, L]. inverted: it is true at padding."""

    def __init__(
        self, graph: Graph, rewriter: Rewriter, source: Value, inverted: bool, forms: Forms, rule: str
    ) -> None:
        self.graph, self.rewriter, self.forms, self.rule = graph, rewriter, forms, rule
        self.source, self.inverted = source, inverted
        self.packed: dict[Value, Value] = {}
        self._entered: dict[tuple[Value, Role, Layout, int], Value] = {}
        self._positions: Value | None = None

    def run(self, region: Collection[Node]) -> None:
        """Rewrite the region."""
        order = [node for node in self.graph if node in region]
        self._raise_mask(order[0])
        with self.rewriter.at(order[0], self.rule):
            self.live = self.source
            if self.inverted:
                self.live = self.rewriter.create("aten.logical_not", self.source).result
            places = self.rewriter.create("aten.nonzero", self._flat(self.live)).result
            self.rows = self.rewriter.create("aten.squeeze.dim", places, 1).result
        for node in order:
            with self.rewriter.at(node, self.rule):
                self.packed |= zip(node.results, self._rebuilt(node, self.forms.found[node]))
        for node in reversed(order):
            with self.rewriter.at(node, self.rule):
                for value in node.results:
                    if value.num_uses:
                        self.rewriter.replace_value(value, self._padded(value))
            self.rewriter.erase(node)

    def _raise_mask(self, first: Node) -> None:
        """Let what makes the mask stand in front of the region."""
        makers: set[Node] = set()
        pending = [self.source]
        while pending:
            node = pending.pop().producer
            if node is not None and node not in makers:
                makers.add(node)
                pending += node.inputs
        for node in [node for node in self.graph if node in makers]:
            if not self.graph.is_before(node, first):
                self.rewriter.move_before(node, first)

    def _rebuilt(self, node: Node, form: Form) -> Sequence[Value]:
        """The node's results on live rows."""
        if form.kind == "attention":
            return [self._attention(node, form.layout)]
        rank = type_of(node.results[0]).rank
        operands = [self._operand(v, role, form.layout, rank) for v, role in zip(node.operands, form.roles)]
        if form.kind == "permute":
            assert operands[0] is not None
            return [self._permuted(operands[0], form.changes["dims"])]
        if form.kind == "reshape":
            return self.rewriter.create("aten.reshape", operands[0], form.changes["shape"]).results
        return self.rewriter.rebuild(node, operands, **form.changes).results

    def _attention(self, node: Node, layout: Layout) -> Value:
        site = find_site(node)
        assert isinstance(site, Site)
        rank = type_of(node.result).rank
        rows = [self._operand(value, layout, layout, rank) for value in node.operands[:3]]
        if layout == ROWS:
            rows = [self._heads_apart(value, site.heads[min(index, 1)]) for index, value in enumerate(rows)]
        result = self.rewriter.create("graphopt.segment_attention", *rows, self.live, False, site.scale).result
        if layout == HEADS:
            return result
        return self.rewriter.create("aten.reshape", result, (-1, *type_of(node.result).shape[2:])).result

    def _heads_apart(self, value: Value | None, heads: Dim) -> Value:
        """[T, H · E] as [T, H, E]."""
        assert value is not None
        width = floordiv(type_of(value).shape[1], heads)
        return self.rewriter.create("aten.reshape", value, (-1, heads, width)).result

    def _operand(self, value: Value | None, role: Role, layout: Layout, rank: int) -> Value | None:
        """An operand in its form on rows. layout, rank: of what the operator gives, to which operands are aligned."""
        if value is None or role == KEEP:
            return value
        if isinstance(role, Layout) and value in self.packed:
            return self.packed[value]
        key = (value, role, layout, rank)
        if key not in self._entered:
            self._entered[key] = self._entry(value, role, layout, rank)
        return self._entered[key]

    def _entry(self, value: Value, role: Role, layout: Layout, rank: int) -> Value:
        """The live rows of a value from outside."""
        own = type_of(value)
        if not isinstance(role, Layout):
            shape = (*[1] * (rank - own.rank), *own.shape)
            if role == FLAT:
                return self.rewriter.create("aten.reshape", value, [shape[axis] for axis in layout.rest(rank)]).result
            value = self.rewriter.create("aten.reshape", value, shape).result if own.rank < rank else value
            role = layout
        value = self._permuted(value, (role.batch, role.length, *role.rest(type_of(value).rank)))
        shape = type_of(value).shape
        if shape[0] == 1 and not shapes_known_equal(shape[:1], self._dims()[:1]):
            return self._at_positions(value)
        if not shapes_known_equal(shape[:2], self._dims()):
            value = self.rewriter.create("aten.expand", value, (*self._dims(), *shape[2:])).result
        return self.rewriter.create("aten.index_select", self._flat(value), 0, self.rows).result

    def _permuted(self, value: Value, order: Sequence[int]) -> Value:
        if list(order) == sorted(order):
            return value
        return self.rewriter.create("aten.permute", value, tuple(order)).result

    def _at_positions(self, value: Value) -> Value:
        """The rows of a table [1, L, …] by position in the sequence."""
        table = self.rewriter.create("aten.reshape", value, type_of(value).shape[1:]).result
        if self._positions is None:
            batch, length = self._dims()
            counted = self.rewriter.create("aten.arange", length, device=type_of(value).device).result
            spread = self.rewriter.create("aten.expand", counted, (batch, length)).result
            self._positions = self.rewriter.create("aten.index_select", self._flat(spread), 0, self.rows).result
        return self.rewriter.create("aten.index_select", table, 0, self._positions).result

    def _padded(self, value: Value) -> Value:
        """The rows of a value back in their places of a batch, with zeros at the others."""
        rows = self.packed[value]
        batch, length = self._dims()
        rest = type_of(rows).shape[1:]
        zeros = self.rewriter.create("aten.new_zeros", rows, (batch * length, *rest)).result
        filled = self.rewriter.create("aten.index_copy", zeros, 0, self.rows, rows).result
        whole = self.rewriter.create("aten.reshape", filled, (batch, length, *rest)).result
        layout, type_ = self.forms.layouts[value], type_of(value)
        if layout.merged:
            order = (0, 1) if layout.batch_first else (1, 0)
            whole = self._permuted(whole, (*order, *range(2, 2 + len(rest))))
            return self.rewriter.create("aten.reshape", whole, type_.shape).result
        places = [layout.batch, layout.length, *layout.rest(type_.rank)]
        return self._permuted(whole, [places.index(axis) for axis in range(type_.rank)])

    def _dims(self) -> tuple[Dim, Dim]:
        batch, length = type_of(self.source).shape
        return batch, length

    def _flat(self, value: Value) -> Value:
        """[B, L, …] as [B · L, …]."""
        batch, length, *rest = type_of(value).shape
        return self.rewriter.create("aten.reshape", value, (batch * length, *rest)).result
