"""Running a pass again on copies of a graph, with fewer rule applications or mutations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from graphopt.ir import Graph, Node, Value
from graphopt.passmanager.base import Pass, PassResult
from graphopt.passmanager.context import PassContext
from graphopt.passmanager.guard import Touched
from graphopt.passmanager.instruments import ApplicationLimit
from graphopt.passmanager.provenance import Tracker
from graphopt.rewrite import Listener


class Halt(BaseException):
    """Stops a pass in its tracks; no pass catches it by accident."""


@dataclass
class Rerun:
    """What a pass did when it was run again.

    graph: as the pass left it. images: the values of the graph before → their images in it. tracker: followed them.
    result: what the pass returned; None if it raised (`error`) or was halted.
    applications: how many were let through. denied, denied_node: the first that was not: rule, node, location.
    """

    graph: Graph
    images: dict[Value, Value]
    touched: Touched
    tracker: Tracker
    result: PassResult | None = None
    error: Exception | None = None
    applications: int = 0
    denied: tuple[str, str, str] | None = None
    denied_node: Node | None = None


@dataclass
class Reruns:
    """A pass and the graph that it is run on, again and again. `runs` counts."""

    pass_: Pass
    before: Graph
    context: PassContext
    runs: int = field(default=0, init=False)

    def run(self, limit: int | None = None, listeners: Sequence[Listener] = ()) -> Rerun:
        """Run the pass on a copy of the graph with at most `limit` rule applications (None: all).

        listeners: further ones; one that raises `Halt` ends the run.
        """
        self.runs += 1
        images: dict[Value, Value] = {}
        graph, touched, gate = self.before.clone(images), Touched(), ApplicationLimit(limit)
        tracker = Tracker(images)
        rerun = Rerun(graph, images, touched, tracker)
        context = replace(
            self.context,
            gate=lambda rule, node: gate.allow(rule, node) and tracker.allow(rule, node),
            listeners=[touched, tracker, *listeners],
            properties=set(self.context.properties),
        )
        try:
            rerun.result = self.pass_.run(graph, context)
        except Halt:
            pass
        except Exception as error:  # whatever a pass raises is what its rerun found
            rerun.error = error
        rerun.applications, rerun.denied, rerun.denied_node = gate.count, gate.denied, gate.denied_node
        return rerun
