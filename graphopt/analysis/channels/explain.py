"""Why channels are tied together, or can't be removed: in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from graphopt.analysis.channels.model import FrozenDim, Group
from graphopt.errors import unknown_name
from graphopt.ir import Node

if TYPE_CHECKING:
    from graphopt.analysis.channels.analysis import ChannelAnalysis


def explain(analysis: ChannelAnalysis, name: str) -> str:
    """Say what a group or a parameter is tied to and by which nodes, and what of it can't be removed.

    Raises:
        UnknownNameError: neither a group nor a parameter of that name.
    """
    groups = [g for g in analysis.groups if g.name == name or any(m.name == name for m in g.members)]
    frozen = [f for f in analysis.frozen if f.name == name]
    if not groups and not frozen:
        known = {g.name for g in analysis.groups} | {m.name for g in analysis.groups for m in g.members}
        raise unknown_name("group of channels or parameter", name, sorted(known | {f.name for f in analysis.frozen}))
    lines = [line for group in groups for line in _group_lines(analysis, group)]
    return "\n".join([*lines, *map(_frozen_line, frozen)])


def _group_lines(analysis: ChannelAnalysis, group: Group) -> Iterator[str]:
    yield f"{group.name}: {group.size} channels that compete"
    for member in group.members:
        slots = int((member.channels >= 0).sum())
        yield f"  {member.role.value:<10} {member.name} dim {member.dim}: {slots} of {len(member.channels)} slots"
    ties = dict.fromkeys((text, _place(node)) for text, node in _ties(analysis, group))
    for text, place in ties:
        yield f"  tied by {text}, {place}"
    for need in dict.fromkeys((need.kind, _place(need.node)) for need in group.needs):
        yield f"  counted by {need[0]}, {need[1]}"


def _ties(analysis: ChannelAnalysis, group: Group) -> Iterator[tuple[str, Node | None]]:
    inside = np.zeros(analysis.tracker.atoms.count, bool)
    inside[group.atoms] = True
    for coupling in analysis.tracker.couplings:
        if inside[analysis.resolve(coupling.atoms)].any():
            yield coupling.text, coupling.node


def _frozen_line(frozen: FrozenDim) -> str:
    text = f"{frozen.name} dim {frozen.dim}: {frozen.slots} of {frozen.size} slots must stay: {frozen.reason}"
    return text if frozen.node is None else f"{text}, {_place(frozen.node)}"


def _place(node: Node | None) -> str:
    if node is None:
        return "the graph's own inputs and outputs"
    return f"{node.op.name} at {node.location}"
