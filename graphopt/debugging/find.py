"""Finding the nodes that a person means, by name, operator, module or source line, and what became of them."""

from __future__ import annotations

from collections.abc import Iterable

from graphopt.debugging.places import source_line
from graphopt.debugging.runs import Run
from graphopt.errors import unknown_name
from graphopt.ir import Graph, Node, Value, walk
from graphopt.passmanager import Alignment


def find_nodes(graph: Graph, text: str) -> list[Node]:
    """The nodes that `text` names: `%y` or `y` (a result), `aten.conv2d` or `conv2d` (an operator), `layer1.0` (a
    module, with all in it) or `model.py:12` (a source line); the first of these that names any.

    >>> from graphopt.ops import parse
    >>> graph = parse('''input %x: f32[2]
    ... %y = aten.neg(%x) @ "net/model.py":12 "block.act"
    ... return %y''')
    >>> [find_nodes(graph, text) == [graph.nodes[0]] for text in ("%y", "neg", "block", "model.py:12", "z")]
    [True, True, True, True, False]
    """
    nodes = list(walk(graph))
    for test in (_is_result, _is_operator, _is_module, _is_line):
        found = [node for node in nodes if test(node, text)]
        if found:
            return found
    return []


def unknown_node(graphs: Iterable[Graph], text: str) -> Exception:
    """The error for a text that names no node; it suggests near names."""
    known = {name: None for graph in graphs for node in walk(graph) for name in _names(node)}
    hint = "A node is named by its result, its operator, its module or its source line (file.py:12)."
    return unknown_name("node", text, known, hint)


class Search:
    """The nodes of a name in the graph after some steps of a run, and what became of those that bore it before.

    nodes: in the graph after step `steps`: those of that name, and those that stand for one of that name in the last
    graph before that has any. fates: what became of each that was replaced or is gone.

    Raises:
        UnknownNameError: there never was such a node; the message suggests near names.
    """

    def __init__(self, run: Run, steps: int, text: str) -> None:
        self.run = run
        self.steps = steps
        self.fates: list[str] = []
        graphs = run.graphs[: steps + 1]
        self._found = dict.fromkeys(find_nodes(graphs[-1], text))
        for index, graph in enumerate(graphs[:-1]):
            earlier = find_nodes(graph, text)
            for node in earlier:
                self._follow(node, index)
            if earlier:
                break
        if not self._found and not self.fates:
            raise unknown_node(graphs, text)

    @property
    def nodes(self) -> list[Node]:
        """What was found."""
        return list(self._found)

    def _follow(self, node: Node, start: int) -> None:
        for value in node.results:
            now = value
            for step in self.run.provenance.steps[start : self.steps]:
                after = step.forward(now)
                self._note(node, now, after, step)
                if after is None:
                    break
                now = after
            else:
                if now.producer is not None:
                    self._found[now.producer] = None

    def _note(self, node: Node, now: Value, after: Value | None, step: Alignment) -> None:
        application = step.replaced_by(now)
        place = f"step {step.number} ({step.pass_.name if step.pass_ is not None else ''})"
        if application is not None:
            fate = f"{node!r} was replaced in {place} by {application}"
        elif after is None:
            fate = f"{node!r} is gone since {place}"
        else:
            return
        if fate not in self.fates:
            self.fates.append(fate)


def _is_result(node: Node, text: str) -> bool:
    return any(value.name and value.name == text.removeprefix("%") for value in node.results)


def _is_operator(node: Node, text: str) -> bool:
    return text in (node.op.name, node.op.base, node.op.base.partition(".")[2])


def _is_module(node: Node, text: str) -> bool:
    scope = node.location.scope
    return scope == text or scope.startswith(f"{text}.")


def _is_line(node: Node, text: str) -> bool:
    place = source_line(node.location)
    return place == text or place.endswith(f"/{text}")


def _names(node: Node) -> list[str]:
    found = [value.name for value in node.results if value.name]
    return [*found, node.op.base, *([node.location.scope] if node.location.scope else [])]
