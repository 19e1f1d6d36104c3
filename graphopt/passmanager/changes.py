"""What a pass changed, as lines of the text form: a diff that costs O(nodes), and text only for what differs.

A general diff of two texts is quadratic at worst. The alignment of a step knows which node became which, so that only
the nodes that the step made, changed or removed are printed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from graphopt.ir import Graph, Node, Value, walk
from graphopt.ir.printer import attribute_text, printed_attributes
from graphopt.passmanager.provenance import Alignment

LIMIT = 400
"""The most lines that are kept for one pass."""

CONTEXT = 1
"""How many unchanged lines are shown around a change."""

Line = tuple[str, Node, "_Names"]


def changed_lines(step: Alignment, limit: int = LIMIT) -> list[str]:
    """Return the stored tensors and the nodes that differ before and after a step, in order, each line with its sign
    (`-`, `+`, or a space for context). `…` stands for unchanged lines that are left out, and for those beyond `limit`.

    >>> from graphopt.ops import parse
    >>> from graphopt.passmanager import PassManager, Provenance
    >>> graph = parse('''input %x: f32[2]
    ... %a = aten.neg(%x)
    ... %b = aten.neg(%a)
    ... %c = aten.relu(%b)
    ... return %c''')
    >>> history = Provenance()
    >>> _ = PassManager("canonicalize", instruments=[history]).run(graph)
    >>> print(*changed_lines(history.steps[0]), sep="\\n")
    - %a: f32[2] = aten.neg(%x)
    - %b: f32[2] = aten.neg(%a)
    - %c: f32[2] = aten.relu(%b)
    + %c: f32[2] = aten.relu(%x)
    """
    lines = _constants(step)
    gap: list[Line] = []
    followed = CONTEXT
    for sign, node, names in _merged(step):
        if sign == " ":
            if followed < CONTEXT:
                lines.append(names.line(" ", node))
                followed += 1
            else:
                gap.append((sign, node, names))
            continue
        if len(lines) >= limit:
            return [*lines, "…"]
        if len(gap) > CONTEXT:
            lines.append("…")
        lines += [other.line(" ", unchanged) for _, unchanged, other in gap[-CONTEXT:]]
        gap, followed = [], 0
        lines.append(names.line(sign, node))
    return [*lines, "…"] if lines and gap else lines


def _constants(step: Alignment) -> list[str]:
    """The stored tensors that one of the graphs has, and the other has not."""
    old, new = step.before.constants, step.after.constants
    gone = [("-", value) for name, value in old.items() if name not in new]
    come = [("+", value) for name, value in new.items() if name not in old]
    return [f"{sign} {v.constant.kind.value} {v!r}" for sign, v in gone + come if v.constant is not None]


def _merged(step: Alignment) -> Iterator[Line]:
    """Every node of both graphs with its sign; those that are in both come once, in the order of the graph after."""
    old_names, new_names = _Names(step.before), _Names(step.after)
    sources = {node: step.source(node) for node in walk(step.after)}
    kept = {source for source in sources.values() if source is not None}
    rest = deque(walk(step.before))

    def removed() -> Iterator[Line]:
        """What was removed ahead of the next node that was kept."""
        while rest and rest[0] not in kept:
            node = rest.popleft()
            if node.results:
                yield "-", node, old_names

    for node, source in sources.items():
        yield from removed()
        if source is None:
            yield "+" if node.results else " ", node, new_names
            continue
        while source in kept:  # unless it moved backwards, and was passed before
            yield from removed()
            kept.discard(rest.popleft())
        if step.is_modified(node) and old_names.line("", source) != new_names.line("", node):
            yield "-", source, old_names
            yield "+", node, new_names
        else:
            yield " ", node, new_names
    yield from removed()


class _Names:
    """Names of values for a few lines: their own, or else the position of the node that made them."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._numbers: dict[Node, int] | None = None

    def line(self, sign: str, node: Node) -> str:
        """The text of a node behind a sign, with the rules that made it."""
        results = ", ".join([f"{self._name(r)}: {r.type!r}" for r in node.results])
        operands = ", ".join(["none" if v is None else self._name(v) for v in node._operands])
        text = f"{results} = {node.op.name}({operands})" if results else f"{node.op.name}({operands})"
        attributes = printed_attributes(node)
        if attributes:
            text += " {" + ", ".join([f"{k}={attribute_text(v)}" for k, v in attributes.items()]) + "}"
        return f"{sign} {text}" + "".join(f" <- {rule}" for rule in node.location.rules)

    def _name(self, value: Value) -> str:
        if value.name or value.producer is None:
            return f"%{value.name or '?'}"
        if self._numbers is None:
            self._numbers = {node: number for number, node in enumerate(walk(self.graph))}
        suffix = f".{value.index}" if len(value.producer.results) > 1 else ""
        return f"%{self._numbers[value.producer]}{suffix}"
