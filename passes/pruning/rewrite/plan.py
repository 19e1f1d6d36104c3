"""What can really go: a selection without the channels that something cannot do without."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from graphopt.analysis.channels import ChannelAnalysis, Removal, Role
from graphopt.ir import Graph, Node, Value
from graphopt.passes.pruning.rewrite import treatments as _  # noqa: F401  (fills the table)
from graphopt.passes.pruning.rewrite.dead import unknown
from graphopt.passes.pruning.rewrite.scope import Refusal, Scope
from graphopt.passes.pruning.rewrite.table import treatment

Selection = Mapping[str, np.ndarray]
Constants = Literal["zero", "keep"]
Norms = Literal["rescale", "refuse"]

ROUNDS = 8
"""Rounds after which a group of which channels are refused is left alone as a whole: so the search ends."""


@dataclass(frozen=True)
class Refused:
    """Channels of a group that stay though they were selected.

    channels: their indices. reason, node: why, and where that was found.
    """

    group: str
    channels: np.ndarray
    reason: str
    node: Node

    def __str__(self) -> str:
        count = "1 channel stays" if len(self.channels) == 1 else f"{len(self.channels)} channels stay"
        return f"{self.group}: {count}: {self.reason} ({self.node.op.name}, {self.node.location})"


@dataclass
class Plan:
    """A pruning that keeps its word.

    selection: what goes, by group. refused: what was selected and stays, and why.
    """

    selection: dict[str, np.ndarray]
    scope: Scope
    refused: list[Refused] = field(default_factory=list)

    @property
    def removal(self) -> Removal:
        """What goes and stays in every value."""
        return self.scope.removal


def plan_pruning(
    graph: Graph,
    analysis: ChannelAnalysis,
    selection: Selection,
    *,
    constants: Constants = "zero",
    norms: Norms = "rescale",
    zeroed: Collection[tuple[Value, int]] | None = None,
) -> Plan:
    """Take from a selection what cannot go, until all that is left can.

    The masked model has zeros in every parameter slice that makes a removed channel. What that leaves in the channel is
    a constant c, derived operator by operator; a sum over the channel takes Σ W·c into its bias. A channel is refused
    where c is not constant or does not fold. Refusing one may make others refusable, so this repeats.

    constants: "zero" zeroes weights, scales and shifts; "keep" leaves shifts (biases) as they are, and folds constants
        also where zero padding makes them wrong at the border.
    norms: whether norms over removed channels are rescaled to the statistics of the full width, or refuse them.
    zeroed: the axes of parameters that are zero in what goes, if they are not to be those of the masked model: with
        what is zero already, the pruned graph equals the original.

    Cost: linear in nodes and slots for each round.
    """
    wanted = {name: np.array(chosen, dtype=bool) for name, chosen in selection.items() if np.any(chosen)}
    if zeroed is None:
        zeroed = zeroed_axes(analysis, shifts=constants == "zero")
    owners = _Owners(analysis)
    refused: list[Refused] = []
    round_ = 0
    while True:
        scope = Scope(analysis.removed(wanted), zeroed, border=constants == "keep", rescale=norms == "rescale")
        found = [blame for refusal in look(graph, scope) for blame in owners.blame(refusal, scope.removal)]
        if not found:
            return Plan(wanted, scope, refused)
        for refusal in found:
            chosen = wanted[refusal.group]
            fresh = refusal.channels[chosen[refusal.channels]]
            if round_ >= ROUNDS:
                fresh = np.flatnonzero(chosen)
            if len(fresh):
                refused.append(Refused(refusal.group, fresh, refusal.reason, refusal.node))
                chosen[fresh] = False
        wanted = {name: chosen for name, chosen in wanted.items() if chosen.any()}
        round_ += 1


def zeroed_axes(analysis: ChannelAnalysis, *, shifts: bool = True) -> Collection[tuple[Value, int]]:
    """The axes of parameters along which the masked model is zero where channels go."""
    return {
        (member.constant, member.dim)
        for group in analysis.groups
        for member in group.members
        if member.role.zeroed and (shifts or member.role is not Role.SHIFT)
    }


def look(graph: Graph, scope: Scope) -> list[Refusal]:
    """Derive what every value holds in the slots that go, and collect what nodes cannot do without."""
    refusals: list[Refusal] = []
    for node in graph:
        treats = treatment(node)
        operands = [None if v is None else scope.dead(v) for v in node.operands]
        touched = scope.touches(node)
        if touched or not node.op.operand_params or any(d is not None and d.anything for d in operands):
            results = treats.dead(node, operands, scope)
        else:
            results = [unknown(result) for result in node.results]
        scope.numbers.update(zip(node.results, results, strict=True))
        if touched:
            refusals += treats.refusals(node, scope)
    return [*refusals, *scope.settled()]


class _Owners:
    """From slots of values to channels of groups."""

    def __init__(self, analysis: ChannelAnalysis) -> None:
        self._names = [group.name for group in analysis.groups]
        count = 1 + max((int(group.atoms.max()) for group in analysis.groups), default=0)
        self._group = np.full(count, -1)
        self._channel = np.full(count, -1)
        for number, group in enumerate(analysis.groups):
            self._group[group.atoms] = number
            self._channel[group.atoms] = np.arange(group.size)

    def blame(self, refusal: Refusal, removal: Removal) -> list[Refused]:
        """The channels whose removal takes the slots away."""
        atoms = _atoms(removal, refusal)
        numbers = self._group[atoms]
        return [
            Refused(self._names[n], self._channel[atoms[numbers == n]], refusal.reason, refusal.node)
            for n in np.unique(numbers[numbers >= 0])
        ]


def _atoms(removal: Removal, refusal: Refusal) -> np.ndarray:
    """The atoms whose removal takes the slots away."""
    analysis = removal.analysis
    factors = analysis.tracker.values[refusal.value][refusal.axis]
    sizes: list[Any] = [factor.size for factor in factors]
    places = np.unravel_index(refusal.slots, sizes)
    found = [
        analysis.resolve(factor.atoms)[place].ravel()
        for factor, place in zip(factors, places)
        if factor.atoms is not None
    ]
    atoms = np.unique(np.concatenate(found))
    return atoms[removal.removed_atoms[atoms]]
