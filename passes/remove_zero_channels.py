"""Remove channels that hold a constant whatever the input, and channels that nothing reads.

    a row of zeros       y_k = 0 · x + b_k = b_k, and what is elementwise behind it: a constant c, which the next layer
                         takes into its bias as W[:, k] · c; where zero padding would make it vary, the channel stays
    a scale of zero      γ_k = 0: y_k = β_k, the same
    columns of zeros     W[:, k] = 0 in every layer that reads the channel, and nothing between mixes channels

Pruning of weights leaves such rows and columns, and `torch.nn.utils.prune.ln_structured` makes them. Reassociating:
nothing but zeros goes. Removing some channels may leave others unread, so this repeats until nothing is found.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np

from graphopt.analysis.channels import ChannelAnalysis, Group, Member, Role
from graphopt.errors import GraphOptError
from graphopt.ir import Graph, Node, Trait, Value
from graphopt.passes.pruning.rewrite import Plan, apply_plan, plan_pruning
from graphopt.passes.weight_pruning.layers import READING
from graphopt.passmanager import Pass, PassContext, PassResult
from graphopt.rewrite import Contract

Selection = dict[str, np.ndarray]

_NAMES = """
batch_norm dropout feature_dropout cat flatten reshape view permute transpose unsqueeze squeeze contiguous clone
max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
adaptive_avg_pool3d upsample_nearest2d upsample_bilinear2d constant_pad_nd
"""
_BY_CHANNEL = frozenset(f"aten.{name}" for name in _NAMES.split())
"""Operators that never let one channel see another, besides the elementwise ones."""


@dataclass(frozen=True)
class RemoveZeroChannels(Pass):
    """Remove channels that are constant or unread, and everything that hangs on them."""

    contract = Contract.REASSOCIATING
    conflicts = frozenset({"quantized"})

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Rewrite `graph` in place."""
        changed, gone, reasons = False, 0, dict[str, None]()
        while True:
            found = 0
            for plan in self._plans(graph):
                report = apply_plan(graph, plan, listeners=context.listeners, rule=self.name)
                found += sum(int(chosen.sum()) for chosen in report.selection.values())
                reasons |= dict.fromkeys(
                    f"{one.group}: {len(one.channels)} stay: {one.reason}" for one in report.refused
                )
            if not found:
                break
            changed, gone = True, gone + found
        notes = [f"{gone} channels were constant or unread"] if gone else []
        return PassResult(changed, notes=[*notes, *reasons])

    def _plans(self, graph: Graph) -> Iterator[Plan]:
        """What may go, each plan for the graph as the one before left it."""
        analysis = ChannelAnalysis(graph)
        chosen = _leave_one(analysis, {group.name: _constant(group) for group in analysis.groups})
        if chosen:
            yield plan_pruning(graph, analysis, chosen, zeroed=_zero_axes(analysis, chosen))
            analysis = ChannelAnalysis(graph)
        chosen = _leave_one(analysis, {group.name: _unread(group) for group in analysis.groups})
        chosen = {name: mask for name, mask in chosen.items() if _stays_apart(analysis, name, mask)}
        if chosen:
            yield plan_pruning(graph, analysis, chosen)


# Which channels


def _constant(group: Group) -> np.ndarray:
    """Channels whose rows are all zero, or whose scales are."""
    found = np.zeros(group.size, dtype=bool)
    for role in (Role.OUT, Role.SCALE):
        members = [m for m in group.members if m.role is role and _is_stored(m)]
        if members:
            found |= np.logical_and.reduce([_zero_channels(m, group.size) for m in members])
    return found


def _unread(group: Group) -> np.ndarray:
    """Channels whose columns are all zero."""
    members = [m for m in group.members if m.role is Role.IN and _is_stored(m)]
    if not members or any(m.role is Role.NORMALIZED for m in group.members):  # a norm reads whatever it is taken over
        return np.zeros(group.size, dtype=bool)
    return np.logical_and.reduce([_zero_channels(m, group.size) for m in members])


def _is_stored(member: Member) -> bool:
    constant = member.constant.constant
    return constant is not None and constant.tensor.is_floating_point() and not constant.tensor.is_meta


def _zero_channels(member: Member, size: int) -> np.ndarray:
    """Bools by channel: True where all slices of the member are zero."""
    live = np.zeros(size, dtype=bool)
    slots = member.channels[~_zero_slots(member.constant, member.dim)]
    live[slots[slots >= 0]] = True
    return ~live


def _zero_slots(value: Value, dim: int) -> np.ndarray:
    constant = value.constant
    assert constant is not None
    moved = constant.tensor.detach().movedim(dim, 0)
    zero: np.ndarray = (moved.reshape(moved.shape[0], -1) == 0).all(1).cpu().numpy()
    return zero


def _leave_one(analysis: ChannelAnalysis, selection: Selection) -> Selection:
    """No axis may be emptied: the first of its channels stays."""
    for group in analysis.groups:
        chosen = selection[group.name]
        for axis in group.axes:
            if chosen[axis.channels].all():
                chosen[axis.channels[0]] = False
    found = {name: mask for name, mask in selection.items() if mask.any()}
    return found if _leaves_all(analysis, found) else _one_by_one(analysis, found)


def _leaves_all(analysis: ChannelAnalysis, selection: Selection) -> bool:
    try:
        analysis.removed(selection)
    except GraphOptError:  # a dim that carries channels of several groups would be emptied
        return False
    return True


def _one_by_one(analysis: ChannelAnalysis, selection: Selection) -> Selection:
    """As many groups as leave something of every dim."""
    chosen: Selection = {}
    for name, mask in selection.items():
        if _leaves_all(analysis, {**chosen, name: mask}):
            chosen[name] = mask
    return chosen


def _zero_axes(analysis: ChannelAnalysis, selection: Selection) -> Collection[tuple[Value, int]]:
    """The axes of stored tensors that really are zero in all that goes."""
    removal = analysis.removed(selection)
    found = set()
    for group in analysis.groups:
        for member in group.members:
            kept = removal.kept.get((member.constant, member.dim))
            if kept is not None and member.role.zeroed and _is_stored(member):
                zero = _zero_slots(member.constant, member.dim)
                zero[kept] = True
                if zero.all():
                    found.add((member.constant, member.dim))
    return found


def _stays_apart(analysis: ChannelAnalysis, name: str, chosen: np.ndarray) -> bool:
    """True if no node lets another channel see these: what reads them multiplies them by zero."""
    removal = analysis.removed({name: chosen})
    carrying = {value for value in removal.shapes if value.constant is None}
    return all(_is_harmless(node, carrying) for node in analysis.graph if any(v in carrying for v in node.inputs))


def _is_harmless(node: Node, carrying: set[Value]) -> bool:
    if node.op.base in READING:
        return node.operands[0] in carrying or node.results[0] in carrying
    return node.op.has(Trait.ELEMENTWISE) or node.op.base in _BY_CHANNEL
