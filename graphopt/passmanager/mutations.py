"""Looking into a pass that applies no rules: the mutation of the graph after which it was bad.

Such a pass cannot be told to leave a rewrite out, but it can be halted: listeners hear each mutation, and one that
raises stops the pass there. A graph is whole where a node has just been inserted, or is about to be replaced or
removed; these places are numbered. What lies between two of them (an attribute that is set, an operand that is
replaced) is one unit, which is told by the nodes that it changed.

The answer is sound if the graph stays bad once it is bad. A pass may also do a thing in two halves (scale a weight
here, undo it there); so later places are tried, too, and if the graph is good again at one of them, only the pass is
named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from graphopt.ir import Node, Value
from graphopt.passmanager.reruns import Halt, Rerun, Reruns
from graphopt.rewrite import Listener

HALVES = "its mutations make up for each other, so none of them can be blamed alone"


@dataclass(frozen=True)
class Mutation:
    """The mutation that did harm, as text; what is known besides; the nodes of the graph before that it touched."""

    node: str
    location: str
    note: str
    roots: tuple[Node, ...]


@dataclass
class _Unit:
    """What happened from one place to the next: the event at its start, and nodes that changed in place."""

    event: str = ""
    node: Node | None = None
    text: str = ""
    modified: dict[Node, str] = field(default_factory=dict)


class _Places(Listener):
    """Counts places, and halts the pass at the one after `limit`."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.units = [_Unit()]

    def _place(self, event: str, node: Node) -> None:
        if self.limit is not None and len(self.units) > self.limit:
            raise Halt
        self.units.append(_Unit(event, node, f"{node!r}"))

    def inserted(self, node: Node) -> None:
        self._place("inserted", node)

    def replaced(self, node: Node, values: Sequence[Value]) -> None:
        self._place("replaced", node)

    def removed(self, node: Node) -> None:
        self._place("removed", node)

    def modified(self, node: Node) -> None:
        self.units[-1].modified.setdefault(node, repr(node))


def first_bad_mutation(reruns: Reruns, is_bad: Callable[[Rerun], bool]) -> tuple[Mutation | None, int]:
    """Return the mutation after which the graph of a pass is bad (None if no listener heard of it), and how many there
    are. Costs at most 2·log₂(mutations) + 1 runs.
    """
    places = _Places()
    whole = reruns.run(listeners=[places])
    units = places.units
    if len(units) == 1 and not units[0].modified:
        return None, 0

    def bad_at(place: int) -> bool:
        return is_bad(reruns.run(listeners=[_Places(place)]))

    low, high = -1, len(units) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if bad_at(middle) else (middle, high)
    step = 1
    while high + step < len(units) - 1:
        if not bad_at(high + step):
            return Mutation("", "", HALVES, ()), len(units)
        step *= 2
    return _mutation(units, high, whole), len(units)


def _mutation(units: Sequence[_Unit], number: int, whole: Rerun) -> Mutation | None:
    """What is known of a unit; None if it did nothing that could do harm, so that the harm was done past the graph."""
    unit = units[number]
    if unit.event != "replaced" and not unit.modified:
        return None
    in_place = unit.event != "replaced"
    nodes = list(unit.modified) if in_place or unit.node is None else [unit.node]
    text = unit.modified[nodes[0]] if in_place else unit.text
    others = len(nodes) - 1
    if others:
        text += f" and {others} other node{'s' if others > 1 else ''}"
    known = {image: value for value, image in whole.images.items()}
    sources = [known[r].producer for node in nodes for r in node.results if r in known]
    what = "changed in place" if in_place else "replaced"
    note = f"the pass applies no rules; this was {what} by its change {number + 1} of {len(units)}"
    return Mutation(text, str(nodes[0].location), note, tuple(n for n in sources if n is not None))
