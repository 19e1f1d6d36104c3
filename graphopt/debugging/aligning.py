"""Which nodes and values of one graph correspond to which of another.

Where a graph came from the other by passes whose history was kept, provenance says it. Else nodes correspond in order:
those of the same operator, shapes, module and source line, as a longest common subsequence; between these, what
is left over of the same place pairs up as "changed".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher

from graphopt.ir import Graph, Node, Value, types_known_equal
from graphopt.passmanager import Provenance


@dataclass
class Correspondence:
    """Nodes and values of two graphs, side by side. removed, added: nodes of the first and the second alone."""

    nodes: list[tuple[Node, Node]] = field(default_factory=list)
    values: list[tuple[Value, Value]] = field(default_factory=list)
    removed: list[Node] = field(default_factory=list)
    added: list[Node] = field(default_factory=list)


def align(a: Graph, b: Graph, history: Provenance | None = None) -> Correspondence:
    """Align two graphs.

    history: of the run that made `b` from a graph; it is used if that graph consists of the same nodes as `a`.

    >>> from graphopt.ops import parse
    >>> a = parse('''input %x: f32[2]
    ... %y = aten.neg(%x)
    ... %z = aten.relu(%y)
    ... return %z''')
    >>> b = parse('''input %x: f32[2]
    ... %z = aten.relu(%x)
    ... return %z''')
    >>> found = align(a, b)
    >>> [(old.op.name, new.op.name) for old, new in found.nodes], [node.op.name for node in found.removed]
    ([('aten.relu', 'aten.relu')], ['aten.neg'])
    """
    values = _by_history(a, b, history) if history is not None and history.steps else None
    if values is None:
        pairs = _by_order(list(a), list(b))
        values = [pair for old, new in pairs for pair in zip(old.results, new.results)]
    else:
        pairs = _producers(values)
    values = [(old, new) for old, new in values if _comparable(old, new)]
    known = set(values)
    values += [pair for pair in zip(a.returned, b.returned) if pair not in known and _comparable(*pair)]
    olds, news = {old for old, _ in pairs}, {new for _, new in pairs}
    return Correspondence(
        pairs, values, [node for node in a if node not in olds], [node for node in b if node not in news]
    )


def _by_history(a: Graph, b: Graph, history: Provenance) -> list[tuple[Value, Value]] | None:
    graphs = history.graphs
    if graphs[-1] is not b or [_kind(n) for n in graphs[0]] != [_kind(n) for n in a]:
        return None
    own = {r: s for one, other in zip(graphs[0], a) for r, s in zip(one.results, other.results)}
    own.update(zip(graphs[0].inputs, a.inputs))
    aligned = history.align(0, len(history.steps))
    return [(own[old], new) for old, new in aligned if old in own and _is_outer(new, b)]


def _is_outer(value: Value, graph: Graph) -> bool:
    return value.producer is None or value.producer.graph is graph


def _producers(values: Iterable[tuple[Value, Value]]) -> list[tuple[Node, Node]]:
    """The nodes that make values that correspond, each once."""
    found: dict[Node, Node] = {}
    taken: set[Node] = set()
    for old, new in ((a.producer, b.producer) for a, b in values):
        if old is not None and new is not None and old not in found and new not in taken:
            found[old] = new
            taken.add(new)
    return list(found.items())


def _by_order(a: Sequence[Node], b: Sequence[Node]) -> list[tuple[Node, Node]]:
    pairs: list[tuple[Node, Node]] = []
    for tag, start, end, other, other_end in edits(list(map(_kind, a)), list(map(_kind, b))):
        if tag == "equal":
            pairs += zip(a[start:end], b[other:other_end])
        elif tag == "replace":
            pairs += _by_place(a[start:end], b[other:other_end])
    return pairs


def edits(a: Sequence[Hashable], b: Sequence[Hashable]) -> list[tuple[str, int, int, int, int]]:
    """The opcodes of difflib that turn `a` into `b`; what both begin and end with costs linear time.

    >>> edits("abcd", "abxd")
    [('equal', 0, 2, 0, 2), ('replace', 2, 3, 2, 3), ('equal', 3, 4, 3, 4)]
    """
    most = min(len(a), len(b))
    head = next((i for i in range(most) if a[i] != b[i]), most)
    tail = next((i for i in range(most - head) if a[-1 - i] != b[-1 - i]), most - head)
    matcher = SequenceMatcher(None, a[head : len(a) - tail], b[head : len(b) - tail], autojunk=False)
    found = [("equal", 0, head, 0, head)] if head else []
    found += [(tag, i + head, j + head, k + head, n + head) for tag, i, j, k, n in matcher.get_opcodes()]
    return [*found, *([("equal", len(a) - tail, len(a), len(b) - tail, len(b))] if tail else [])]


def _by_place(a: Sequence[Node], b: Sequence[Node]) -> list[tuple[Node, Node]]:
    """Pair nodes of one place in order: those of the same operator first."""
    pairs: dict[Node, Node] = {}
    left = dict.fromkeys(b)
    for key in (_operator_and_place, _place):
        waiting: dict[Hashable, deque[Node]] = {}
        for node in left:
            waiting.setdefault(key(node), deque()).append(node)
        for old in a:
            queue = waiting.get(key(old)) if old not in pairs else None
            if queue:
                pairs[old] = queue.popleft()
                del left[pairs[old]]
    return [(old, pairs[old]) for old in a if old in pairs]


def _kind(node: Node) -> Hashable:
    return node.op.name, tuple(repr(_shape(r)) for r in node.results), _place(node)


def _operator_and_place(node: Node) -> Hashable:
    return node.op.base, _place(node)


def _place(node: Node) -> Hashable:
    return node.location.scope, node.location.file, node.location.line


def _comparable(a: Value, b: Value) -> bool:
    return a.type == b.type or types_known_equal(a.type, b.type) or _shape(a) == _shape(b)


def _shape(value: Value) -> object:
    return getattr(value.type, "shape", value.type)
