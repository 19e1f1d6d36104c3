"""Which operators act on each position of a batch alone, and what they become on live rows.

A value of a batch [B, L] has one of two layouts, and of its live rows one form for both:

    rows  [B, L, …] → [T, …]              heads  [B, H, L, E] → [T, H, E]

An operand has a role: it is in such a layout, or the same for every position (`KEEP`; `FLAT` if it has dims of size 1
for them), or the same for all of the batch or for all positions of a sequence (`SPREAD`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from graphopt.ir import Node, TensorType, Trait, Value
from graphopt.ir.dims import Dim, known_equal
from graphopt.ops.effects import is_random
from graphopt.passes.rules.permutes import permutation

ROWS, HEADS = "rows", "heads"
KEEP, FLAT, SPREAD = "keep", "flat", "spread"
_SWAP = (0, 2, 1, 3)
_LEAD = {ROWS: (0, 1), HEADS: (0, 2)}
_AXIS = {ROWS: {axis: axis - 1 for axis in range(2, 9)}, HEADS: {1: 1, 3: 2}}
"""What an axis of a layout is among live rows."""


def _aten(names: str) -> frozenset[str]:
    return frozenset(f"aten.{name}" for name in names.split())


_SAME = _aten("dropout _to_copy clone contiguous alias detach feature_dropout")
_RESHAPES = _aten("reshape view _unsafe_view flatten unflatten unsqueeze squeeze")
_NORMS = _aten("layer_norm rms_norm")
_ALONG = _aten("softmax _softmax log_softmax _log_softmax slice split split_with_sizes chunk cat narrow glu cumsum")
_REDUCING = _aten("select unbind sum mean amax amin")


@dataclass(frozen=True)
class Form:
    """A node on live rows. roles: of its operands. layout: of its results. changes: attributes that differ.

    kind: "same" operator, a "reshape" of each row, "nothing" to do, or an "attention".
    """

    roles: tuple[str, ...]
    layout: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "same"


class Forms:
    """Finds the forms of nodes, in order. batch, length: the dims of the batch. attentions: those that see live keys
    alone."""

    def __init__(self, batch: Dim, length: Dim, attentions: Collection[Node]) -> None:
        self.batch, self.length = batch, length
        self.attentions = attentions
        self.layouts: dict[Value, str] = {}
        self.found: dict[Node, Form] = {}

    def add(self, node: Node) -> None:
        """Look at the next node."""
        form = self._form(node)
        if form is not None:
            self.found[node] = form
            self.layouts.update(dict.fromkeys(node.results, form.layout))

    def layout(self, value: Value | None) -> str | None:
        """The layout of a value: that of its node's form, or rows, by its shape."""
        if value is None or not isinstance(value.type, TensorType):
            return None
        if value in self.layouts:
            return self.layouts[value]
        return ROWS if self._fits(value.type.shape, ROWS) else None

    def _fits(self, shape: tuple[Dim, ...], layout: str) -> bool:
        batch, length = _LEAD[layout]
        enough = len(shape) >= 2 if layout == ROWS else len(shape) == 4
        return enough and known_equal(shape[batch], self.batch) and known_equal(shape[length], self.length)

    def _form(self, node: Node) -> Form | None:
        if not node.results or node.regions or not all(isinstance(r.type, TensorType) for r in node.results):
            return None
        if node in self.attentions:
            layout = HEADS if node.results[0].type.rank == 4 else ROWS  # type: ignore[union-attr]
            return Form((layout,) * 3 + (KEEP,) * (len(node.operands) - 3), layout, kind="attention")
        rule = self._rule(node)
        return None if rule is None else rule(node)

    def _rule(self, node: Node) -> Callable[[Node], Form | None] | None:
        base = node.op.base
        table = {
            "aten.linear": self._first_alone,
            "aten.matmul": self._by_matrix,
            "aten.embedding": self._embedding,
            **dict.fromkeys(_NORMS, self._norm),
            **dict.fromkeys(_RESHAPES, self._reshape),
            **dict.fromkeys(_ALONG, self._along),
            **dict.fromkeys(_REDUCING, self._along),
        }
        if base in table:
            return table[base]
        if permutation(node) == _SWAP:
            return self._swap
        known = (Trait.ELEMENTWISE in node.op.traits and not is_random(node)) or base in _SAME
        return self._elementwise if known and len(node.results) == 1 else None

    def _first_alone(self, node: Node) -> Form | None:
        """The first operand holds rows, the others are the same for all."""
        type_ = _type(node.operands[0])
        if type_ is None or type_.rank < 3 or self.layout(node.operands[0]) != ROWS:
            return None
        others = node.operands[1:]
        return Form((ROWS, *[KEEP] * len(others)), ROWS)

    def _by_matrix(self, node: Node) -> Form | None:
        matrix = _type(node.operands[1])
        return self._first_alone(node) if matrix is not None and matrix.rank == 2 else None

    def _norm(self, node: Node) -> Form | None:
        type_ = _type(node.operands[0])
        inner = len(node.attr("normalized_shape"))
        return self._first_alone(node) if type_ is not None and inner <= type_.rank - 2 else None

    def _embedding(self, node: Node) -> Form | None:
        return Form((KEEP, ROWS), ROWS) if self.layout(node.operands[1]) == ROWS else None

    def _reshape(self, node: Node) -> Form | None:
        result = _type(node.results[0])
        if self.layout(node.operands[0]) != ROWS or result is None or not self._fits(result.shape, ROWS):
            return None
        return Form((ROWS,), ROWS, {"shape": (-1, *result.shape[2:])}, "reshape")

    def _swap(self, node: Node) -> Form | None:
        layout = self.layout(node.operands[0])
        if layout is None:
            return None
        return Form((layout,), HEADS if layout == ROWS else ROWS, kind="nothing")

    def _along(self, node: Node) -> Form | None:
        """Operators along axes that are not those of the positions."""
        given = [v for v in node.operands if v is not None]
        layouts = {self.layout(value) for value in given}
        layout = layouts.pop() if len(layouts) == 1 else None
        type_ = _type(given[0]) if given else None
        dim = node.attributes.get("dim")
        if layout is None or type_ is None or dim is None or (layout == HEADS and node.op.base in _REDUCING):
            return None
        dims = [dim] if isinstance(dim, int) else list(dim)
        axes = [_AXIS[layout].get(axis % type_.rank) for axis in dims]
        if None in axes or not axes:
            return None
        changed = axes[0] if isinstance(dim, int) else tuple(axes)
        return Form((layout,) * len(node.operands), layout, {"dim": changed})

    def _elementwise(self, node: Node) -> Form | None:
        result = _type(node.results[0])
        assert result is not None
        layouts = {self.layouts[v] for v in node.operands if v is not None and v in self.layouts}
        layout = HEADS if HEADS in layouts else ROWS
        if len(layouts) > 1 or not self._fits(result.shape, layout):
            return None
        roles = tuple(self._role(value, result, layout) for value in node.operands)
        return Form(roles, layout) if layout in roles else None

    def _role(self, value: Value | None, result: TensorType, layout: str) -> str:
        type_ = _type(value)
        if value is None or type_ is None:
            return KEEP
        shift = result.rank - type_.rank
        lead = [axis - shift for axis in _LEAD[layout] if axis >= shift]
        wide = [axis for axis in lead if type_.shape[axis] != 1]
        if not wide:
            return FLAT if lead else KEEP
        return layout if len(wide) == 2 and self._fits(type_.shape, layout) else SPREAD


def _type(value: Value | None) -> TensorType | None:
    return value.type if value is not None and isinstance(value.type, TensorType) else None


def connected(forms: Forms) -> set[Node]:
    """The nodes to run on live rows: what attentions read, and all that follows from it, as far as forms are known."""
    before = _closure(forms.attentions, lambda node: _feeding(node, forms))
    return _closure(before, lambda node: [user for r in node.results for user in r.users if _fed(user, r, forms)])


def _closure(start: Collection[Node], near: Callable[[Node], list[Node]]) -> set[Node]:
    found = set(start)
    pending = list(start)
    while pending:
        for node in near(pending.pop()):
            if node not in found:
                found.add(node)
                pending.append(node)
    return found


def _feeding(node: Node, forms: Forms) -> list[Node]:
    form = forms.found[node]
    operands = [v for v, role in zip(node.operands, form.roles) if v is not None and role in (ROWS, HEADS)]
    return [v.producer for v in operands if v.producer is not None and v.producer in forms.found]


def _fed(node: Node, value: Value, forms: Forms) -> bool:
    """Whether a node has a form in which it reads rows of the value."""
    form = forms.found.get(node)
    return form is not None and any(v is value and r in (ROWS, HEADS) for v, r in zip(node.operands, form.roles))
