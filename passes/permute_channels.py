"""Let channels change places, so that scattered zeros gather into blocks.

    W₂ act(W₁ x + b) = (W₂ Πᵀ) act(Π W₁ x + Π b)        Π a permutation, act elementwise

Rows of W₁ that have their zeros at the same columns become neighbours; what hangs on these channels, biases, scales of
norms, columns of W₂, changes places with them. No operator is added, and stored tensors keep their shapes. The numbers
are the same but for the order in which W₂ sums: reassociating.

A group of channels is permuted only if nothing but elementwise operators, norms by channel, pooling and layers lies
between, and if blocks then hold fewer numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from graphopt.analysis.channels import ChannelAnalysis, Group, Member, Role
from graphopt.errors import GraphOptError, requested
from graphopt.ir import Graph, Node, Trait, Value
from graphopt.ops.sparse import HEIGHTS
from graphopt.passes.sparse.clustering import Live, Order, gathered, stored
from graphopt.passes.support.constants import drop_unused, take_name
from graphopt.passes.weight_pruning.layers import READING
from graphopt.passmanager import Pass, PassContext, PassResult
from graphopt.rewrite import Contract, Rewriter

_NAMES = """
batch_norm dropout feature_dropout flatten reshape view permute transpose unsqueeze squeeze contiguous clone
max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
adaptive_avg_pool3d upsample_nearest2d upsample_bilinear2d constant_pad_nd
"""
_EQUIVARIANT = frozenset(f"aten.{name}" for name in _NAMES.split())
"""Operators that treat channels alike wherever they stand, besides the elementwise ones."""


@dataclass(frozen=True)
class PermuteChannels(Pass):
    """Gather scattered zeros into blocks of rows by permuting channels, with all that hangs on them.

    height: rows of a block. gain: how many times fewer numbers blocks are to hold then, at least.
    """

    contract = Contract.REASSOCIATING
    conflicts = frozenset({"quantized"})

    height: int = 8
    gain: float = 1.25

    def __post_init__(self) -> None:
        with requested():
            if self.height not in HEIGHTS[1:]:
                raise GraphOptError(f"blocks have {', '.join(map(str, HEIGHTS[1:]))} rows, not {self.height}")
            if not self.gain > 1:
                raise GraphOptError(f"gain is above 1, got {self.gain}")

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Rewrite `graph` in place."""
        analysis = ChannelAnalysis(graph)
        orders: dict[Value, dict[int, Order]] = {}
        notes = []
        for group in analysis.groups:
            live = _live_rows(group)
            if live is None:
                continue
            reason = _refusal(analysis, group, graph)
            if reason is None:
                before, order = stored(live, self.height), gathered(live, self.height)
                after = stored(live[order], self.height)
                if before < self.gain * after:
                    reason = f"its zeros don't gather: blocks would hold {after} numbers, {before} as it is"
            if reason is not None:
                notes.append(f"{group.name}: channels stay where they are: {reason}")
                continue
            notes.append(f"{group.name}: {before} → {after} numbers in blocks of {self.height} rows")
            for member in group.members:
                orders.setdefault(member.constant, {})[member.dim] = _slots(member, order)
        rewriter = Rewriter(graph, context.listeners)
        for value, by_dim in orders.items():
            _permute(rewriter, value, by_dim)
        return PassResult(rewriter.changed, notes=notes)


def _live_rows(group: Group) -> Live | None:
    """Where the rows that make each channel are not zero; None if no weight makes them, or none of it is zero."""
    parts = []
    for member in group.members:
        constant = member.constant.constant
        if member.role is not Role.OUT or len(member.constant.shape) < 2 or constant is None or constant.tensor.is_meta:
            continue
        rows = (constant.tensor.detach().movedim(member.dim, 0) != 0).flatten(1).cpu().numpy()
        if len(rows) == group.size and not rows.all():
            parts.append(rows[np.argsort(member.channels, kind="stable")])
    return np.concatenate(parts, 1) if parts else None


def _refusal(analysis: ChannelAnalysis, group: Group, graph: Graph) -> str | None:
    """Why channels may not change places."""
    if any(not _even(member, group.size) for member in group.members):
        return "a stored tensor does not have all of them"
    first = np.zeros(group.size, bool)
    first[0] = True
    try:
        shapes = analysis.removed({group.name: first}).shapes
    except GraphOptError:
        return "they are part of something else"
    carrying = {value for value in shapes if value.constant is None}
    if not all(_has_all(analysis, value, group) for value in carrying):
        return "some values have a part of them, or others beside them"
    if any(value in carrying for value in (*graph.inputs, *graph.outputs)):
        return "they go in or out"
    members = {member.constant for member in group.members}
    for node in graph:
        if any(value in carrying for value in (*node.inputs, *node.results)) and not _equivariant(node, carrying):
            return f"{node.op.name} tells them apart"
        if node.regions or any(v in members and v.name in graph.mutations for v in node.inputs):
            return "they are written to, or read in a branch"
    return None


def _has_all(analysis: ChannelAnalysis, value: Value, group: Group) -> bool:
    """Whether a dim that carries channels of a group carries all of them, and nothing else."""
    for axis in analysis.tracker.values[value]:
        for factor in axis:
            atoms = np.zeros(0, np.int64) if factor.atoms is None else np.unique(analysis.resolve(factor.atoms))
            own = np.isin(atoms, group.atoms)
            if own.any() and (int(own.sum()) != group.size or (atoms[~own] != 0).any()):
                return False
    return True


def _even(member: Member, size: int) -> bool:
    """Whether a dim has each channel, and each as often."""
    counts = np.bincount(member.channels[member.channels >= 0], minlength=size)
    return bool((member.channels >= 0).all() and (counts == counts[0]).all() and counts[0])


def _equivariant(node: Node, carrying: set[Value]) -> bool:
    if node.op.base in READING:
        groups = node.attributes.get("groups", 1)
        weight = node.operands[1]
        depthwise = weight is not None and groups == weight.shape[0] and weight.shape[1] == 1
        return groups == 1 or (depthwise and node.operands[0] in carrying)
    return node.op.has(Trait.ELEMENTWISE) or node.op.base in _EQUIVARIANT


def _slots(member: Member, order: Order) -> Order:
    """Which slot each slot's numbers come from: the r-th of channel order[c] goes where the r-th of channel c is."""
    by_channel = np.argsort(member.channels, kind="stable").reshape(len(order), -1)
    found = np.empty(len(member.channels), np.int64)
    found[by_channel] = by_channel[order]
    return found


def _permute(rewriter: Rewriter, value: Value, orders: Mapping[int, Order]) -> None:
    assert value.constant is not None
    tensor = value.constant.tensor.detach()
    for dim, order in orders.items():
        tensor = tensor.index_select(dim, torch.from_numpy(order).to(tensor.device))
    new = rewriter.constant_like(value, tensor, dict(orders), succeeds=True)
    name = value.name
    rewriter.replace_value(value, new)
    drop_unused(rewriter, value)
    take_name(rewriter, new, name)
