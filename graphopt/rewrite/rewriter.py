"""The rewriter: the only way to mutate a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from graphopt.errors import GraphOptError
from graphopt.ir import (
    UNKNOWN,
    Constant,
    ConstantKind,
    DType,
    Graph,
    Location,
    Node,
    Op,
    TensorType,
    Type,
    Value,
    bind,
    from_torch,
    infer_node,
    infer_types,
)
from graphopt.ir.types import on_device
from graphopt.ops import get_op
from graphopt.rewrite.listener import Listener


class Rewriter:
    """Creates, changes and removes nodes, keeps result types true, and tells listeners.

    Nodes are inserted before the current anchor (the terminator unless `at` says otherwise) and take its location,
    with the current rule's name added to its provenance.

    >>> from graphopt.ops import parse
    >>> g = parse('''input %x: f32[2]
    ... %y = aten.neg(%x)
    ... %z = aten.neg(%y)
    ... return %z''')
    >>> rewriter = Rewriter(g)
    >>> first, second = g.nodes
    >>> rewriter.replace(second, [first.operands[0]])
    >>> rewriter.erase(first)
    >>> print(g)
    graph main {
      input %x: f32[2]
      return %x
    }
    """

    def __init__(self, graph: Graph, listeners: Sequence[Listener] = ()) -> None:
        self.graph = graph
        self._on_inserted = _hearing("inserted", listeners)
        self._on_removed = _hearing("removed", listeners)
        self._on_modified = _hearing("modified", listeners)
        self._on_replaced = _hearing("replaced", listeners)
        self._on_value_replaced = _hearing("value_replaced", listeners)
        self.changed = False
        self._anchor: Node = graph.terminator
        self._location: Location = UNKNOWN
        self._rule = ""

    @contextmanager
    def at(self, node: Node, rule: str = "") -> Iterator[Rewriter]:
        """Insert before `node`, with its location, in the name of `rule`."""
        saved = self._anchor, self._location, self._rule
        self.stand_at(node, rule)
        try:
            yield self
        finally:
            self._anchor, self._location, self._rule = saved

    def stand_at(self, node: Node, rule: str = "") -> None:
        """Insert before `node` from now on, with its location, in the name of `rule`."""
        self._anchor, self._location, self._rule = node, node.location, rule

    # Creation

    def create(
        self, op: str | Op, /, *args: Any, regions: tuple[Graph, ...] = (), name: str = "", **kwargs: Any
    ) -> Node:
        """Insert a node, called as the operator's schema says: `create("aten.conv2d", x, w, b, stride=2)`.

        Raises:
            UnknownNameError: no such operator or argument.
            TypeInferenceError: the operands don't fit.
        """
        op_object = get_op(op) if isinstance(op, str) else op
        operands, attributes = bind(op_object, args, kwargs)
        types = infer_types(op_object, operands, attributes, regions)
        location = self._location.via(self._rule)
        node = Node(op_object, operands, attributes, types, regions=regions, location=location, names=(name,))
        return self.insert(node)

    def rebuild(self, node: Node, operands: Sequence[Value | None], *, op: Op | None = None, **changes: Any) -> Node:
        """Insert a node with the attributes and regions of `node`, on other operands. Its results take their names from
        those that they replace.

        op: another operator with the same attributes. changes: attributes that change, in normal form.

        Raises:
            TypeInferenceError: the operands don't fit.
        """
        attributes = node.attributes.updated(**changes) if changes else node.attributes
        op = op or node.op
        types = infer_types(op, operands, attributes, node.regions)
        location = node.location.via(self._rule)
        return self.insert(Node(op, operands, attributes, types, regions=node.regions, location=location))

    def insert(self, node: Node) -> Node:
        """Insert a node that was built by hand before the anchor."""
        self.graph.insert_before(node, self._anchor)
        self.changed = True
        for hear in self._on_inserted:
            hear(node)
        return node

    def constant(
        self,
        tensor: torch.Tensor,
        name: str = "constant",
        kind: ConstantKind = ConstantKind.CONSTANT,
        *,
        names: tuple[str, ...] = (),
        requires_grad: bool = False,
        persistent: bool = True,
        device: str = "cpu",
        kept: Mapping[int, np.ndarray[Any, Any]] | None = None,
        dtype: DType | None = None,
    ) -> Value:
        """Store a tensor and return its value. `names` are its qualified names if it stands for a parameter.

        persistent, kept: see `Constant`. dtype: the element type, where PyTorch has none like it (`DType.storage`).
        """
        tensor = tensor.detach()
        type_ = TensorType(dtype or from_torch(tensor.dtype), tuple(tensor.shape), device)
        version = -1 if tensor.is_inference() else tensor._version
        constant = Constant(tensor, kind, names, requires_grad, persistent, version, kept or {})
        self.changed = True
        return self.graph.add_constant(name, type_, constant)

    def constant_like(
        self,
        original: Value,
        tensor: torch.Tensor,
        kept: Mapping[int, np.ndarray[Any, Any]] | None = None,
        *,
        succeeds: bool = False,
    ) -> Value:
        """Store `tensor` in the role of `original` (same kind, names and trainability), as when a weight is folded.

        kept: if `tensor` is a slice of `original`, the indices that it keeps, by dim. They add to those that `original`
        itself keeps of the model's tensor, so that an old checkpoint can be sliced like the graph.

        Where `original` keeps other uses, both claim the names; the one that is unused in the end is dropped.

        succeeds: all uses of `original` are to follow (see `succeed_constants`), so the names go along.
        """
        constant = original.constant
        if constant is None:
            raise GraphOptError(f"%{original.name} is not a constant")
        return self.constant(
            tensor,
            original.name,
            constant.kind,
            names=constant.names if succeeds or original.num_uses <= 1 else (),
            requires_grad=constant.requires_grad,
            persistent=constant.persistent,
            device=original.type.device,  # type: ignore[union-attr]
            kept=_composed(constant.kept, kept or {}),
        )

    # Change

    def replace(self, node: Node, values: Sequence[Value]) -> None:
        """Make every use of the node's results a use of `values`, then remove the node."""
        if len(values) != len(node.results):
            raise GraphOptError(f"{node.op.name} has {len(node.results)} results, got {len(values)} replacements")
        for hear in self._on_replaced:
            hear(node, values)
        for old, new in zip(node.results, values):
            self.replace_value(old, new)
        self.erase(node)

    def replace_value(self, old: Value, new: Value) -> None:
        """Make every use of `old` a use of `new`, which claims to be equal to it. The types of the users follow."""
        if old is new:
            return
        for hear in self._on_value_replaced:
            hear(old, new)
        if not new.name and new.producer is not None:
            new.name = old.name
        same_type = old.type == new.type
        for node, index in tuple(old._uses):
            node.set_operand(index, new)
            self._modified(node, retype=not same_type)

    def set_operand(self, node: Node, index: int, value: Value | None) -> None:
        """Replace one operand."""
        old = node.operands[index]
        if old is value:
            return
        node.set_operand(index, value)
        self._modified(node, retype=old is None or value is None or old.type != value.type)

    def set_attributes(self, node: Node, **changes: Any) -> None:
        """Change attributes; result types follow."""
        node.attributes = node.attributes.updated(**changes)
        node.location = node.location.via(self._rule)
        self._modified(node, retype=True)

    def place(self, node: Node, operands: Sequence[Value | None], device: str) -> None:
        """Let a node run on a device, on operands that are there. Users do not follow: each is placed in its turn."""
        for index, operand in enumerate(operands):
            node.set_operand(index, operand)
        if _takes_device(node):
            node.attributes = node.attributes.updated(device=device)
        for result in node.results:
            result.type = on_device(result.type, device)
        self._modified(node, retype=False)

    def erase(self, node: Node) -> None:
        """Remove a node whose results are unused."""
        for hear in self._on_removed:
            hear(node)
        self.graph.erase(node)
        self.changed = True

    def move_before(self, node: Node, anchor: Node) -> None:
        """Move a node before `anchor`. The caller sees to it that its operands are defined there."""
        self.graph.move_before(node, anchor)
        self._modified(node, retype=False)

    def drop_constant(self, value: Value) -> None:
        """Remove an unused constant."""
        if value.num_uses:
            raise GraphOptError(f"constant {value.name!r} still has {value.num_uses} uses")
        del self.graph.constants[value.name]
        self.changed = True

    def succeed_constants(self, successors: Mapping[Value, Value]) -> None:
        """Drop constants that have lost all uses; another takes the name and the place of each. O(constants)."""
        unused = {old: new for old, new in successors.items() if not old.num_uses}
        stay = dict(self.graph.constants)
        for new in unused.values():
            del stay[new.name]
        self.graph.constants.clear()
        for name, value in stay.items():
            heir = unused.get(value, value)
            heir.name = name
            self.graph.constants[name] = heir

    def _modified(self, node: Node, *, retype: bool) -> None:
        self.changed = True
        for hear in self._on_modified:
            hear(node)
        if retype and node is not self.graph.terminator and node.op.infer is not None:
            self._retype(node)

    def _retype(self, node: Node) -> None:
        """Bring result types up to date and follow what changed downstream."""
        pending = [node]
        while pending:
            current = pending.pop()
            if current is self.graph.terminator or current.op.infer is None:
                continue
            for result, type_ in zip(current.results, infer_node(current)):
                if result.type != type_:
                    result.type = type_
                    for user in result.users:
                        for hear in self._on_modified:
                            hear(user)
                        pending.append(user)


def _hearing(event: str, listeners: Sequence[Listener]) -> list[Callable[..., None]]:
    """The methods for an event, of those listeners that have one of their own: the others need not be called."""
    return [getattr(one, event) for one in listeners if getattr(type(one), event) is not getattr(Listener, event)]


def _takes_device(node: Node) -> bool:
    """True if an attribute says where results are made: it does already, or there is no operand to tell."""
    if node.attributes.get("device") is not None:
        return True
    told = any(isinstance(operand.type, TensorType) for operand in node.inputs)
    return not told and any(param.name == "device" for param in node.op.attribute_params)


def _composed(
    first: Mapping[int, np.ndarray[Any, Any]], then: Mapping[int, np.ndarray[Any, Any]]
) -> dict[int, np.ndarray[Any, Any]]:
    """The indices of a slice of a slice."""
    composed = dict(first)
    for dim, indices in then.items():
        composed[dim] = first[dim][indices] if dim in first else np.asarray(indices)
    return composed


def result_types(op: str, *args: Any, **kwargs: Any) -> tuple[Type, ...]:
    """Return the types that `create` would give, without creating anything."""
    op_object = get_op(op)
    operands, attributes = bind(op_object, args, kwargs)
    return infer_types(op_object, operands, attributes)
