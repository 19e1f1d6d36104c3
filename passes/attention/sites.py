"""An attention as passes read it, whichever operator it is written with: heads apart, [B, H, L, E]."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir import Node, TensorType, Value
from graphopt.ir.dims import Dim
from graphopt.rewrite import Rewriter

FUSED, PACKED = "aten.scaled_dot_product_attention", "graphopt.attention"


@dataclass(frozen=True)
class Site:
    """softmax(s · Q Kᵀ + M) V at a node. heads: of the queries and of the keys. dims: B, L and S.

    packed: heads lie side by side, [B, L, H · E]. single: there is one head and no dim for it, [B, L, E].
    """

    node: Node
    mask: Value | None
    heads: tuple[Dim, Dim]
    dims: tuple[Dim, Dim, Dim]
    packed: bool = False
    single: bool = False

    @property
    def is_causal(self) -> bool:
        """Whether a query sees no key behind its own place."""
        return bool(self.node.attr("is_causal"))

    @property
    def scale(self) -> float | None:
        """The factor of the scores; None is 1 / √E."""
        scale: float | None = self.node.attr("scale")
        return scale

    def operands(self, rewriter: Rewriter) -> list[Value]:
        """Queries, keys and values with heads apart."""
        return [self._apart(value, index, rewriter) for index, value in enumerate(self.node.operands[:3])]

    def _apart(self, value: Value | None, index: int, rewriter: Rewriter) -> Value:
        assert value is not None
        if self.single:
            return rewriter.create("aten.unsqueeze", value, 1).result
        if not self.packed:
            return value
        heads = self.heads[min(index, 1)]
        split = rewriter.create("aten.reshape", value, (*type_of(value).shape[:2], heads, -1)).result
        return rewriter.create("aten.transpose.int", split, 1, 2).result

    def restored(self, result: Value, rewriter: Rewriter) -> Value:
        """A result with heads apart in the form of the node's own."""
        if self.single:
            return rewriter.create("aten.squeeze.dim", result, 1).result
        if not self.packed:
            return result
        swapped = rewriter.create("aten.transpose.int", result, 1, 2).result
        return rewriter.create("aten.reshape", swapped, type_of(self.node.result).shape).result


def type_of(value: Value) -> TensorType:
    """The type of a tensor."""
    assert isinstance(value.type, TensorType)
    return value.type


def find_site(node: Node) -> Site | str | None:
    """Read a node: an attention, why it is left alone, or None if it is no attention."""
    if node.name not in (FUSED, PACKED):
        return None
    query, key = (type_of(value) for value in node.operands[:2] if value is not None)
    mask = node.operands[3] if len(node.operands) > 3 else None
    if node.name == PACKED and query.rank == 3:
        heads = node.attr("q_heads"), node.attr("kv_heads")
        return Site(node, mask, heads, (query.shape[0], query.shape[1], key.shape[1]), packed=True)
    if node.name == FUSED and node.attr("dropout_p"):
        return "it drops out"
    if query.rank == 3:
        return Site(node, mask, (1, 1), (query.shape[0], query.shape[1], key.shape[1]), single=True)
    if query.rank != 4 or key.rank != 4:
        return f"its queries have {query.rank} dims, not 3 or 4"
    return Site(node, mask, (query.shape[1], key.shape[1]), (query.shape[0], query.shape[2], key.shape[2]))
