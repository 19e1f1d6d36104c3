"""Rewriting a graph into the smaller one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphopt.analysis.channels import ChannelAnalysis
from graphopt.ir import Graph, Node
from graphopt.passes.pruning.rewrite.editor import Editor
from graphopt.passes.pruning.rewrite.plan import Constants, Norms, Plan, Refused, Selection, plan_pruning
from graphopt.passes.pruning.rewrite.table import treatment
from graphopt.rewrite import Listener, Rewriter


@dataclass
class PruneReport:
    """What was pruned.

    selection: the channels that went, by group. refused: those that were selected and stay, and why.
    kept: for each name of a parameter or buffer that lost slots, the indices that stay, by dim.
    """

    selection: dict[str, np.ndarray]
    refused: list[Refused]
    kept: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        """True if anything went."""
        return bool(self.selection)


def prune_graph(
    graph: Graph,
    analysis: ChannelAnalysis,
    selection: Selection,
    *,
    constants: Constants = "zero",
    norms: Norms = "rescale",
    listeners: Sequence[Listener] = (),
    rule: str = "prune-channels",
) -> PruneReport:
    """Remove channels from `graph`, in place. The result computes what the masked model does, to rounding.

    analysis: of this graph, before any change to it. selection: for each group's name, a bool a channel, True for those
    that go. constants, norms: see `plan_pruning`. listeners: told of every mutation. rule: the name in the provenance
    of new nodes.

    Each stored tensor is sliced once, so that the peak of memory is that of both graphs and the slices of one tensor.
    Linear in nodes.

    >>> from graphopt.ops import parse
    >>> graph = parse('''input %x: f32[N, 16]
    ... parameter %w: f32[8, 16]
    ... parameter %v: f32[4, 8]
    ... %y = aten.linear(%x, %w)
    ... %z = aten.relu(%y)
    ... %o = aten.linear(%z, %v)
    ... return %o''')
    >>> report = prune_graph(graph, ChannelAnalysis(graph), {"w": np.arange(8) >= 3})
    >>> graph.constants["w"].type, graph.constants["v"].type
    (f32[3, 16], f32[4, 3])
    >>> report.kept["w"]
    {0: array([0, 1, 2])}
    """
    plan = plan_pruning(graph, analysis, selection, constants=constants, norms=norms)
    return apply_plan(graph, plan, listeners=listeners, rule=rule)


def apply_plan(
    graph: Graph, plan: Plan, *, listeners: Sequence[Listener] = (), rule: str = "prune-channels"
) -> PruneReport:
    """Rewrite the graph that a plan was made for, in place. See `prune_graph`."""
    report = PruneReport(plan.selection, plan.refused, kept_slots(graph, plan))
    if not plan.selection:
        return report
    editor = Editor(plan.scope, Rewriter(graph, listeners))
    old = [node for node in graph.nodes if _follow(node, editor, rule)]
    _redirect(graph.terminator, editor)
    for node in reversed(old):
        editor.rewriter.erase(node)
    editor.rewriter.succeed_constants(
        {old: new for old, new in editor.successors.items() if old.constant is not None and old is not new}
    )
    return report


def _follow(node: Node, editor: Editor, rule: str) -> bool:
    """Make a node again if it loses slots; else only redirect its operands. True if it was made again."""
    if not editor.scope.touches(node):
        _redirect(node, editor)
        return False
    with editor.rewriter.at(node, rule):
        editor.succeed(node, treatment(node).rebuild(node, editor))
    return True


def _redirect(node: Node, editor: Editor) -> None:
    for index, value in enumerate(node.operands):
        successor = None if value is None else editor.successors.get(value)
        if successor is not None and successor is not value:
            editor.rewriter.set_operand(node, index, successor)


def kept_slots(graph: Graph, plan: Plan) -> dict[str, dict[int, np.ndarray]]:
    """The indices that stay, by name and dim, of the parameters and buffers that lose some."""
    found: dict[str, dict[int, np.ndarray]] = {}
    for value in graph.constants.values():
        kept: Mapping[int, np.ndarray | None] = {a: plan.scope.kept(value, a) for a in plan.scope.axes(value)}
        assert value.constant is not None
        if kept:
            for name in value.constant.names or (value.name,):
                found[name] = {axis: slots for axis, slots in kept.items() if slots is not None}
    return found
