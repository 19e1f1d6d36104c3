"""Which operators act on each position of a batch alone, and what they become on live rows.

A value of a batch has one axis of B sequences and one of L positions, or one of both together. Where they are is its
layout; of its live rows it has the same form wherever they are, the rows first and then the other axes in their order:

    [B, L, C] → [T, C]        [B, H, L, E] → [T, H, E]        [3, L, B, C] → [T, 3, C]        [L · B, C] → [T, C]

An operand has a role: it is in such a layout, or the same for every position (`KEEP`; `FLAT` if it has dims of size 1
for them), or the same for all of the batch or for all positions of a sequence (`SPREAD`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from graphopt.ir import Node, TensorType, Trait, Value
from graphopt.ir.dims import Dim, known_equal, shapes_known_equal
from graphopt.ops.effects import is_random
from graphopt.passes.rules.permutes import permutation

KEEP, FLAT, SPREAD = "keep", "flat", "spread"


class Layout(NamedTuple):
    """The axes of sequences and of positions; one and the same where they are merged, and then which is the outer."""

    batch: int
    length: int
    batch_first: bool = True

    @property
    def merged(self) -> bool:
        """Whether one axis holds both."""
        return self.batch == self.length

    def rest(self, rank: int) -> list[int]:
        """The other axes."""
        return [axis for axis in range(rank) if axis not in (self.batch, self.length)]

    def shifted(self, by: int) -> Layout:
        """The layout with so many more axes in front."""
        return self._replace(batch=self.batch + by, length=self.length + by)


Role: TypeAlias = "str | Layout"
ROWS, HEADS = Layout(0, 1), Layout(0, 2)


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

    kind: the "same" operator, a "reshape" or "permute" of each row, or an "attention".
    """

    roles: tuple[Role, ...]
    layout: Layout
    changes: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "same"


class Forms:
    """Finds the forms of nodes, in order. batch, length: the dims of the batch. attentions: those that see live keys
    alone."""

    def __init__(self, batch: Dim, length: Dim, attentions: Collection[Node]) -> None:
        self.batch, self.length = batch, length
        self.attentions = attentions
        self.layouts: dict[Value, Layout] = {}
        self.found: dict[Node, Form] = {}
        matrix_like = dict.fromkeys(("aten.linear", "aten.matmul"), self._first_alone)
        self._rules: dict[str, Callable[[Node], Form | None]] = {
            "aten.embedding": self._embedding,
            **matrix_like,
            **dict.fromkeys(_NORMS, self._norm),
            **dict.fromkeys(_RESHAPES, self._reshape),
            **dict.fromkeys(_ALONG | _REDUCING, self._along),
        }

    def add(self, node: Node) -> None:
        """Look at the next node."""
        form = self._form(node)
        if form is not None:
            self.found[node] = form
            self.layouts.update(dict.fromkeys(node.results, form.layout))

    def layout(self, value: Value | None) -> Layout | None:
        """The layout of a value: that of its node's form, or rows, by its shape."""
        type_ = _type(value)
        if value is None or type_ is None:
            return None
        if value in self.layouts:
            return self.layouts[value]
        return ROWS if self._fits(type_.shape, ROWS) else None

    def _fits(self, shape: Sequence[Dim], layout: Layout) -> bool:
        if len(shape) <= max(layout.batch, layout.length):
            return False
        if layout.merged:
            return known_equal(shape[layout.batch], self.batch * self.length)
        return known_equal(shape[layout.batch], self.batch) and known_equal(shape[layout.length], self.length)

    def _form(self, node: Node) -> Form | None:
        if not node.results or node.regions or not all(isinstance(r.type, TensorType) for r in node.results):
            return None
        if node in self.attentions:
            layout = HEADS if node.results[0].type.rank == 4 else ROWS  # type: ignore[union-attr]
            if any(self.layouts.get(v, layout) != layout for v in node.operands[:3] if v is not None):
                return None
            return Form((layout,) * 3 + (KEEP,) * (len(node.operands) - 3), layout, kind="attention")
        rule = self._rules.get(node.op.base)
        if rule is not None:
            return rule(node)
        if permutation(node) is not None:
            return self._permute(node)
        known = (Trait.ELEMENTWISE in node.op.traits and not is_random(node)) or node.op.base in _SAME
        return self._elementwise(node) if known and len(node.results) == 1 else None

    def _first_alone(self, node: Node) -> Form | None:
        """The first operand holds rows, the others are matrices and vectors."""
        layout, type_ = self.layout(node.operands[0]), _type(node.operands[0])
        if layout is None or type_ is None or type_.rank - 1 not in layout.rest(type_.rank):
            return None
        others = node.operands[1:]
        alone = all(value is None or ((own := _type(value)) is not None and own.rank <= 2) for value in others)
        matrix = _type(others[0])
        return Form((layout, *[KEEP] * len(others)), layout) if alone and matrix and matrix.rank == 2 else None

    def _norm(self, node: Node) -> Form | None:
        layout, type_ = self.layout(node.operands[0]), _type(node.operands[0])
        if layout is None or type_ is None:
            return None
        inner = range(type_.rank - len(node.attr("normalized_shape")), type_.rank)
        return Form((layout, *[KEEP] * (len(node.operands) - 1)), layout) if _are(inner, layout, type_.rank) else None

    def _embedding(self, node: Node) -> Form | None:
        layout = self.layout(node.operands[1])
        return None if layout is None else Form((KEEP, layout), layout)

    def _reshape(self, node: Node) -> Form | None:
        """Rows stay in front; their two axes may become one, or one becomes two."""
        layout, result = self.layout(node.operands[0]), _type(node.results[0])
        if layout is None or result is None or {layout.batch, layout.length} not in ({0}, {0, 1}):
            return None
        batch_first = layout.batch_first if layout.merged else layout.batch == 0
        apart = Layout(0, 1) if batch_first else Layout(1, 0)
        together = Layout(0, 0, batch_first)
        outer = (self.batch, self.length) if batch_first else (self.length, self.batch)
        for new, count in ((apart, 2), (together, 1)):
            dims = outer if count == 2 else (self.batch * self.length,)
            if len(result.shape) >= count and shapes_known_equal(result.shape[:count], dims):
                return Form((layout,), new, {"shape": (-1, *result.shape[count:])}, "reshape")
        return None

    def _permute(self, node: Node) -> Form | None:
        layout, order = self.layout(node.operands[0]), permutation(node)
        if layout is None or order is None:
            return None
        new = layout._replace(batch=order.index(layout.batch), length=order.index(layout.length))
        rest = layout.rest(len(order))
        dims = tuple(1 + rest.index(order[axis]) for axis in new.rest(len(order)))
        return Form((layout,), new, {"dims": (0, *dims)}, "permute")

    def _along(self, node: Node) -> Form | None:
        """Operators along axes that are not those of the positions, which a reduction removes."""
        given = [v for v in node.operands if v is not None]
        layouts = {self.layout(value) for value in given}
        layout = layouts.pop() if len(layouts) == 1 else None
        type_ = _type(given[0]) if given else None
        dim = node.attributes.get("dim")
        if layout is None or type_ is None or dim is None:
            return None
        axes = [axis % type_.rank for axis in ([dim] if isinstance(dim, int) else dim)]
        if not axes or not _are(axes, layout, type_.rank):
            return None
        rest = layout.rest(type_.rank)
        changed = [1 + rest.index(axis) for axis in axes]
        removed = axes if node.op.base in _REDUCING and not node.attributes.get("keepdim", False) else []
        batch, length = (axis - sum(gone < axis for gone in removed) for axis in layout[:2])
        changes = {"dim": changed[0] if isinstance(dim, int) else tuple(changed)}
        return Form((layout,) * len(node.operands), layout._replace(batch=batch, length=length), changes)

    def _elementwise(self, node: Node) -> Form | None:
        result = _type(node.results[0])
        assert result is not None
        known = {
            self.layouts[v].shifted(result.rank - _rank(v))
            for v in node.operands
            if v is not None and v in self.layouts
        }
        layout = next(iter(known), ROWS)
        if len(known) > 1 or not self._fits(result.shape, layout):
            return None
        roles = [self._role(value, result, layout) for value in node.operands]
        if None in roles or not any(isinstance(role, Layout) for role in roles):
            return None
        return Form(tuple(role for role in roles if role is not None), layout)

    def _role(self, value: Value | None, result: TensorType, layout: Layout) -> Role | None:
        """The role of an operand of an elementwise operator whose result has a layout; None if it has none."""
        type_ = _type(value)
        if value is None or type_ is None:
            return KEEP
        own = layout.shifted(type_.rank - result.rank)
        present = [axis for axis in dict.fromkeys(own[:2]) if axis >= 0]
        wide = [axis for axis in present if type_.shape[axis] != 1]
        if not wide:
            return FLAT if present else KEEP
        if min(own[:2]) >= 0 and self._fits(type_.shape, own) and (value in self.layouts or not own.merged):
            return own
        return None if layout.merged else SPREAD


def _type(value: Value | None) -> TensorType | None:
    return value.type if value is not None and isinstance(value.type, TensorType) else None


def _rank(value: Value) -> int:
    assert isinstance(value.type, TensorType)
    return value.type.rank


def _are(axes: Collection[int], layout: Layout, rank: int) -> bool:
    """Whether some axes are none of positions."""
    return set(axes) <= set(layout.rest(rank))


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
    operands = [v for v, role in zip(node.operands, forms.found[node].roles) if isinstance(role, Layout)]
    producers = [value.producer for value in operands if value is not None]
    return [producer for producer in producers if producer is not None and producer in forms.found]


def _fed(node: Node, value: Value, forms: Forms) -> bool:
    """Whether a node has a form in which it reads rows of the value."""
    form = forms.found.get(node)
    return form is not None and any(v is value and isinstance(r, Layout) for v, r in zip(node.operands, form.roles))
