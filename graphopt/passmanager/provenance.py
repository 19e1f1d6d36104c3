"""Which value of a graph is which value of another: followed through clones and through what rules replace.

A pass works on a clone of a graph, so each value starts out as the image of one. From there a listener follows it:

    v → its image in the draft → what replaced that → what replaced that …

A value that stands in place of another claims to be equal to it, for that is what replacing means. `Alignment` holds
the pairs of one step, `Provenance` those of a whole run:

    final value → values of the original graph        final node → (step, rule, application) …, original node, line

Applications are counted from 1 within a step, as `bisect` counts them; steps from 1 among those that were kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from graphopt.ir import Graph, Location, Node, Value, types_known_equal
from graphopt.passmanager.base import Pass
from graphopt.passmanager.instruments import BaseInstrument
from graphopt.passmanager.pipeline import Pipeline
from graphopt.rewrite import Listener


class Application(NamedTuple):
    """One application of a rule: rule `rule` at `root`, the `number`th of its step (from 1).

    operands, location: those of the root when the rule was applied; a root that was replaced has lost them since.
    """

    number: int
    rule: str
    root: Node
    operands: tuple[Value | None, ...]
    location: Location

    @property
    def node(self) -> str:
        """The root, as text: `%b = aten.relu(%a)`."""
        results = ", ".join(_name(value) for value in self.root.results)
        operands = ", ".join("none" if value is None else _name(value) for value in self.operands)
        return f"{results} = {self.root.op.name}({operands})" if results else f"{self.root.op.name}({operands})"

    def __str__(self) -> str:
        return f"rule {self.rule!r}, application {self.number}, at {self.node}\n  from {self.location}"


class Tracker(Listener):
    """Follows the values of a draft while a pass rewrites it. Costs a dictionary entry an event.

    images: the values of the graph before → their images in the draft, as `Graph.clone` records them. A tracker may
    see a draft that an earlier pass left as it was.
    """

    def __init__(self, images: dict[Value, Value]) -> None:
        self.images = images
        self.applications: list[Application] = []
        self.became: dict[Value, Value] = {}
        self.replaced_in: dict[Value, int] = {}
        self.made_in: dict[Node, int] = {}
        self.modified_in: dict[Node, int] = {}
        self.graphs: set[Graph | None] = set()

    def allow(self, rule: str, node: Node) -> bool:
        """A gate that counts: rule `rule` is about to be applied to `node`."""
        number = len(self.applications) + 1
        self.applications.append(Application(number, rule, node, tuple(node._operands), node.location))
        return True

    def inserted(self, node: Node) -> None:
        self.made_in[node] = len(self.applications)
        self.graphs.add(node.graph)

    def modified(self, node: Node) -> None:
        self.modified_in[node] = len(self.applications)
        self.graphs.add(node.graph)

    def removed(self, node: Node) -> None:
        self.graphs.add(node.graph)

    def value_replaced(self, old: Value, new: Value) -> None:
        self.became.pop(new, None)  # it is in use again: there are no cycles
        self.became[old] = new
        self.replaced_in[old] = len(self.applications)

    def resolve(self, value: Value) -> Value:
        """What stands in place of a value of the draft now: itself, or what replaced it, and so on."""
        became = self.became
        while (new := became.get(value)) is not None:
            value = new
        return value


class Alignment:
    """Which value of the graph after a step corresponds to which value of the graph before.

    number: of the step, from 1 among those that were kept. pass_: the pass that made it; None for a mere copy.
    applications: the rule applications of the step, in order.

    >>> from graphopt.ops import parse
    >>> from graphopt.passmanager import PassManager, rewrite
    >>> from graphopt.rewrite import aten, var
    >>> x = var("x")
    >>> @rewrite(aten.neg(aten.neg(x)))
    ... def twice(x):
    ...     return x
    >>> graph = parse('''input %x: f32[2]
    ... %a = aten.neg(%x)
    ... %b = aten.neg(%a)
    ... %c = aten.relu(%b)
    ... return %c''')
    >>> history = Provenance()
    >>> result, _ = PassManager([twice], instruments=[history]).run(graph)
    >>> step = history.steps[0]
    >>> [(old.name, new.name) for old, new in step.pairs()]
    [('x', 'x'), ('b', 'x'), ('c', 'c')]
    >>> step.replaced_by(graph.nodes[1].result).node
    '%b = aten.neg(%a)'
    """

    def __init__(self, before: Graph, after: Graph, tracker: Tracker, pass_: Pass | None = None) -> None:
        self.before = before
        self.after = after
        self.pass_ = pass_
        self.number = 0
        self.applications: Sequence[Application] = tracker.applications
        self._tracker = tracker
        self._sources: dict[Value, Value] | None = None
        self._backward: dict[Value, list[Value]] | None = None

    def forward(self, value: Value) -> Value | None:
        """The value after that stands for a value before; None if it is gone, or has another type."""
        image = self._tracker.images.get(value)
        if image is None:
            return None
        now = self._tracker.resolve(image)
        if now.type is not value.type and now.type != value.type and not types_known_equal(now.type, value.type):
            return None
        return now if self._is_alive(now) else None

    def backward(self, value: Value) -> tuple[Value, ...]:
        """The values before that a value after stands for, in order; none if the step made it."""
        if self._backward is None:
            self._backward = {}
            for old, new in self.pairs():
                self._backward.setdefault(new, []).append(old)
        return tuple(self._backward.get(value, ()))

    def pairs(self) -> Iterator[tuple[Value, Value]]:
        """`(value before, value after)`, in the order of the graph before; values of regions behind their node."""
        for value in _values(self.before):
            now = self.forward(value)
            if now is not None:
                yield value, now

    def replaced_by(self, value: Value) -> Application | None:
        """The application that replaced a value of the graph before (the last, of several); None if none did."""
        image, last = self._tracker.images.get(value), 0
        while image is not None and image in self._tracker.became:
            last = self._tracker.replaced_in[image]
            image = self._tracker.became[image]
        return self._application(last)

    def is_replaced(self, value: Value) -> bool:
        """True if another value stands for this value of the graph before."""
        return self._tracker.images.get(value) in self._tracker.became

    def made_by(self, node: Node) -> Application | None:
        """The application that made a node of the graph after, if the step did and a rule made it."""
        return self._application(self._tracker.made_in.get(node, 0))

    def is_made(self, node: Node) -> bool:
        """True for a node of the graph after that the step made."""
        return node in self._tracker.made_in

    def is_modified(self, node: Node) -> bool:
        """True for a node of the graph after that the step touched: gave it another operand or attribute."""
        return node in self._tracker.modified_in

    def image(self, node: Node) -> Node | None:
        """The node after that is the image of a node before, if it is still there."""
        value = self._tracker.images.get(node.results[0]) if node.results else None
        image = value.producer if value is not None else None
        return image if image is not None and image.graph is not None else None

    def is_touched(self, node: Node) -> bool:
        """True if a node after was given another operand or attribute, or something in its regions was."""
        return node in self._tracker.modified_in or bool(node.regions)

    def modified_by(self, node: Node) -> Application | None:
        """The last application that touched a node of the graph after: gave it another operand or attribute."""
        return self._application(self._tracker.modified_in.get(node, 0))

    def source(self, node: Node) -> Node | None:
        """The node before that a node after is the image of; None for one that the step made."""
        if not node.results:
            return None
        if self._sources is None:
            self._sources = {image: value for value, image in self._tracker.images.items()}
        before = self._sources.get(node.results[0])
        return None if before is None else before.producer

    def roots(self, node: Node) -> tuple[tuple[Application, ...], Node | None]:
        """The applications that led to a node of the graph after, oldest first, and the node before where they began
        (None if it began with a node that no rule made)."""
        source = self.source(node)
        if source is not None:
            application = self.modified_by(node) if self.is_changed_in_place(source, node) else None
            return (() if application is None else (application,)), source
        found: list[Application] = []
        while source is None and (application := self.made_by(node)) is not None:
            found.append(application)
            node = application.root
            source = self.source(node)
        return tuple(reversed(found)), source

    def is_changed_in_place(self, source: Node, node: Node) -> bool:
        """True if a node after does something else than the node before that it is the image of: another operator or
        attributes, changes in its regions, or an operand that is not what stands for the old one."""
        if node.op is not source.op or node.attributes != source.attributes:
            return True
        if len(node._operands) != len(source._operands) or any(map(self._is_touched, node.regions)):
            return True
        return any(
            new is not (None if old is None else self.forward(old))
            for old, new in zip(source._operands, node._operands)
        )

    def _is_touched(self, region: Graph) -> bool:
        return region in self._tracker.graphs or any(self._is_touched(r) for node in region for r in node.regions)

    def _application(self, number: int) -> Application | None:
        return self.applications[number - 1] if number else None

    def _is_alive(self, value: Value) -> bool:
        if value.producer is not None:
            return value.producer.graph is not None
        return value.constant is None or self.after.constants.get(value.name) is value or value.num_uses > 0


@dataclass(frozen=True, slots=True)
class Event:
    """A step of a node's history: step `step` ran `pass_`, whose application `number` of `rule` made or changed it.

    number: 0, and an empty rule, where the pass applies no rules. node, location: what the rule was applied to.
    """

    step: int
    pass_: str
    rule: str
    number: int
    node: str
    location: Location

    def __str__(self) -> str:
        rule = f"rule {self.rule!r}, application {self.number}, at {self.node}" if self.number else "no rule"
        return f"step {self.step}, pass {self.pass_!r}, {rule}"


@dataclass(frozen=True, slots=True)
class History:
    """Where a node came from: the model's source line, the node of the original graph, and what happened to it since,
    oldest first. original: None for a node that a pass made from nothing."""

    location: Location
    original: Node | None
    events: tuple[Event, ...]

    def __str__(self) -> str:
        lines = [str(Location(self.location.file, self.location.line, self.location.scope))]
        lines += [repr(self.original)] if self.original is not None else []
        return "\n  → ".join([*lines, *map(str, self.events)])


class Provenance(BaseInstrument):
    """An instrument that keeps the alignment of each step of a run. It keeps the graphs between them, too.

    steps: an `Alignment` for each pass that changed the graph and was kept, in order.

    >>> from graphopt.ops import parse
    >>> from graphopt.passmanager import PassManager
    >>> graph = parse('''input %x: f32[2]
    ... %a = aten.neg(%x) @ "model.py":3
    ... %b = aten.neg(%a) @ "model.py":4
    ... %c = aten.relu(%b) @ "model.py":5
    ... %d = aten.add.Tensor(%c, %c) @ "model.py":6
    ... return %d''')
    >>> history = Provenance()
    >>> result, _ = PassManager("canonicalize", instruments=[history]).run(graph)
    >>> print(history.history(result.nodes[-1]))
    model.py:6
      → %d = aten.add.Tensor(%c, %c)
    >>> [value.name for value in history.origin(result.inputs[0])]
    ['x', 'b']
    """

    def __init__(self) -> None:
        self.steps: list[Alignment] = []

    def start(self, pipeline: Pipeline, graph: Graph) -> None:
        self.steps = []

    def add(self, step: Alignment) -> None:
        """A step was kept."""
        step.number = len(self.steps) + 1
        self.steps.append(step)

    @property
    def graphs(self) -> list[Graph]:
        """The original graph, and the graph after each step."""
        return [self.steps[0].before, *(step.after for step in self.steps)] if self.steps else []

    def origin(self, value: Value, step: int | None = None) -> tuple[Value, ...]:
        """The values of the original graph that a value of the graph after a step (by default, the last) stands for."""
        return self._follow([value], reversed(self.steps[:step]), Alignment.backward)

    def image(self, value: Value, step: int | None = None) -> Value | None:
        """The value of the graph after a step (by default, the last) that stands for a value of the original graph."""
        now: Value | None = value
        for alignment in self.steps[:step]:
            now = None if now is None else alignment.forward(now)
        return now

    def align(self, a: int, b: int) -> list[tuple[Value, Value]]:
        """Pairs of values of the graphs after steps `a` and `b` (0 is the original graph), in the order of the first.

        Raises:
            IndexError: there is no such step.
        """
        if not 0 <= a <= b <= len(self.steps):
            raise IndexError(f"steps run from 0 to {len(self.steps)}, got {a} and {b}")
        if a == b:
            return [(value, value) for value in _values(self.graphs[a])] if self.steps else []
        current = list(self.steps[a].pairs())
        for alignment in self.steps[a + 1 : b]:
            moved = ((old, alignment.forward(new)) for old, new in current)
            current = [(old, new) for old, new in moved if new is not None]
        return current

    def history(self, node: Node, step: int | None = None) -> History:
        """What led to a node of the graph after a step (by default, the last)."""
        events: list[Event] = []
        current: Node | None = node
        for alignment in reversed(self.steps[:step]):
            assert current is not None
            applications, source = alignment.roots(current)
            name = alignment.pass_.name if alignment.pass_ is not None else ""
            events += [
                Event(alignment.number, name, a.rule, a.number, a.node, a.location) for a in reversed(applications)
            ]
            if not applications and (source is None or alignment.is_changed_in_place(source, current)):
                events.append(Event(alignment.number, name, "", 0, "", current.location))
            current = source
            if current is None:
                break
        return History(node.location, current, tuple(reversed(events)))

    @staticmethod
    def _follow(
        values: Sequence[Value],
        steps: Iterable[Alignment],
        move: Callable[[Alignment, Value], tuple[Value, ...]],
    ) -> tuple[Value, ...]:
        for step in steps:
            values = [source for value in values for source in move(step, value)]
        return tuple(values)


def _values(graph: Graph) -> Iterator[Value]:
    """Inputs, constants, and the results of nodes in order; those of regions behind their node."""
    yield from graph.inputs
    yield from graph.constants.values()
    for node in graph:
        yield from node.results
        for region in node.regions:
            yield from _values(region)


def _name(value: Value) -> str:
    return f"%{value.name or '?'}"
