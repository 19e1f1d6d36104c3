"""From what is asked to what goes: names, scores, shares, budgets and refusals come together here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.analysis import bind_sizes
from graphopt.analysis.channels import ChannelAnalysis, Group
from graphopt.errors import GraphOptError, InputError
from graphopt.ir import Graph
from graphopt.passes.pruning.budget import Found, Unreachable, askable, for_size, for_speed
from graphopt.passes.pruning.criteria import (
    Batch,
    Criterion,
    Evidence,
    Objective,
    checked,
    get_criterion,
    get_normalization,
    read_batches,
)
from graphopt.passes.pruning.latency import Stopwatch
from graphopt.passes.pruning.names import by_pattern, matching, of_type
from graphopt.passes.pruning.report import Refusal
from graphopt.passes.pruning.rewrite.plan import Plan as Pruning
from graphopt.passes.pruning.rewrite.plan import Refused, plan_pruning
from graphopt.passes.pruning.rewrite.prune import apply_plan
from graphopt.passes.pruning.selection import Candidate, Plan, Selection
from graphopt.passes.pruning.size import Costs
from graphopt.passmanager import PassContext
from graphopt.targets import Engine, get_engine

if TYPE_CHECKING:
    from graphopt.passes.prune_channels import PruneChannels

ROUNDS = 6
"""How often channels are chosen anew because some that were chosen cannot go."""


@dataclass
class Choice:
    """What goes. pruning: what the rewrite is to do. found: the share that meets the budget, if there is one.

    scores: of each group that took part, as the ranking saw them. refused: what does not go, and why.
    """

    pruning: Pruning
    scores: dict[str, np.ndarray]
    found: Found | None = None
    refused: list[Refusal] = field(default_factory=list)


class Chooser:
    """Chooses the channels of a graph that go, as a `PruneChannels` asks."""

    def __init__(self, asked: PruneChannels, graph: Graph, context: PassContext) -> None:
        self.asked = asked
        self.graph = graph
        self.context = context
        self.analysis = ChannelAnalysis(graph)
        self.refused: list[Refusal] = []

    @cached_property
    def sizes(self) -> dict[str, int]:
        """The sizes of symbols on the sample inputs."""
        return bind_sizes(self.graph.inputs, self.context.samples[0]) if self.context.samples else {}

    @cached_property
    def costs(self) -> Costs:
        """Multiply-adds and parameters of pruned graphs."""
        return Costs(self.graph, self.analysis, self.sizes)

    @cached_property
    def evidence(self) -> Evidence:
        """The caller's data and loss."""
        has_data = self.context.calibration is not None or bool(self.context.samples)
        objective = None if self.asked.loss is None else Objective(self.asked.loss)
        return Evidence(self.analysis, self._batches if has_data else None, objective)

    def choose(self) -> Choice:
        """Return what goes.

        Raises:
            GraphOptError: what is asked cannot be had; the message says why, and what can.
        """
        groups = self._taking_part()
        by_hand = self._by_hand(groups)
        free = [group for group in groups if group.name not in by_hand]
        scores = self._scores(free)
        scored = [group for group in free if group.name in scores]
        choice = self._settled(scored, scores, by_hand)
        choice.refused = self.refused
        return choice

    def candidates(self, scores: Mapping[str, np.ndarray], kept: Mapping[str, np.ndarray]) -> list[Candidate]:
        """The groups that have scores. kept: channels that must stay."""
        limits = self.asked.limits(self.context.target)
        return [
            Candidate(
                group,
                scores[group.name],
                limits,
                kept.get(group.name),
                max(self.asked.widths.get(group.name, group.size) - group.size, 0),
            )
            for group in self.analysis.groups
            if group.name in scores
        ]

    # Who takes part

    def _taking_part(self) -> list[Group]:
        """The groups that are not ignored; what is frozen or ignored is noted."""
        groups = self.analysis.groups
        self.refused += [
            Refusal(f.name, f.reason, f.slots, "" if f.node is None else str(f.node.location))
            for f in self.analysis.frozen
        ]
        ignored: dict[str, str] = {}
        for pattern in self.asked.ignore:
            ignored.update((group.name, f"ignored as {pattern!r}") for group in matching(self.graph, groups, pattern))
        for kind in self.asked.ignore_types:
            ignored.update((group.name, f"ignored as {kind}") for group in of_type(self.graph, groups, kind))
        self.refused += [Refusal(g.name, ignored[g.name], g.size) for g in groups if g.name in ignored]
        return [group for group in groups if group.name not in ignored]

    def _by_hand(self, groups: Sequence[Group]) -> Selection:
        """The channels that the caller names."""
        found: Selection = {}
        for pattern, channels in self.asked.channels.items():
            named = [g for g in groups if g.name == pattern] or matching(self.graph, groups, pattern)
            if not named:
                raise GraphOptError(f"channels names {pattern!r}, whose outputs cannot be pruned (or are ignored)")
            for group in named:
                found[group.name] = _chosen(group, channels)
        return found

    def _scores(self, groups: Sequence[Group]) -> dict[str, np.ndarray]:
        criterion = get_criterion(self.asked.criterion, seed=self.asked.seed)
        self._require(criterion)
        if not groups:
            return {}
        scores = checked(criterion.scores(groups, self.evidence), groups, criterion.name)
        missing = [group for group in groups if group.name not in scores]
        if len(missing) == len(groups):
            raise GraphOptError(
                f"criterion {criterion.name!r} can judge none of the {len(groups)} groups of this graph"
            )
        self.refused += [Refusal(g.name, f"criterion {criterion.name!r} cannot judge it", g.size) for g in missing]
        normalize = get_normalization(self.asked.normalize)
        return {name: normalize(found) for name, found in scores.items()}

    def _require(self, criterion: Criterion) -> None:
        if criterion.needs == "nothing" and not self.asked.sweep:
            return
        what = f"criterion {criterion.name!r}" if criterion.needs != "nothing" else "the sweep"
        if self.context.calibration is None and not self.context.samples:
            raise InputError(f"{what} needs data to run the model on; give calibration batches or example inputs")
        if criterion.needs == "loss" and self.asked.loss is None:
            raise InputError(f"{what} needs a loss; give loss=f(outputs), loss=f(outputs, targets), or the name of one")

    def _batches(self) -> list[Batch]:
        if self.context.calibration is not None:
            return read_batches(self.graph, self.context.calibration, self.asked.batches)
        return [
            Batch(list(inputs), tuple(inputs), labelled=False) for inputs in self.context.samples[: self.asked.batches]
        ]

    # How much goes

    def _settled(self, groups: Sequence[Group], scores: dict[str, np.ndarray], by_hand: Selection) -> Choice:
        """Choose; where chosen channels cannot go, choose others in their place."""
        asked = self.asked
        fixed = by_pattern(self.graph, groups, asked.ratios, "ratios")
        kept: dict[str, np.ndarray] = {}
        refused: list[Refused] = []
        for round_ in range(ROUNDS):
            plan = Plan(self.candidates(scores, kept), asked.scope, fixed)
            found = self._share(plan, by_hand, refused)
            share = asked.share if found is None else found.share
            pruning = self._prunable({**plan.select(share), **by_hand})
            self.refused += _refusals(pruning)
            refused += pruning.refused
            if not pruning.refused or asked.speedup is not None or round_ == ROUNDS - 1:
                break  # a measured speed-up is that of what could go
            for one in (r for r in pruning.refused if r.group in scores):
                stay = kept.setdefault(one.group, np.zeros(len(scores[one.group]), dtype=bool))
                stay[one.channels] = True
                if one.group not in pruning.selection:
                    stay[:] = True  # nothing that was asked for can go: the others are not better
        self.refused += [_held(c) for c in plan.held(share) if c.group.name not in {r.name for r in self.refused}]
        return Choice(pruning, scores, self._checked(found, pruning, refused))

    def _checked(self, found: Found | None, pruning: Pruning, refused: Sequence[Refused]) -> Found | None:
        """What a budget of size came to, refusals included.

        Raises:
            Unreachable: because of them it is not met.
        """
        for name in ("macs", "parameters"):
            target = getattr(self.asked, name)
            if found is not None and target is not None:
                given = getattr(self.costs.size(pruning.selection), name) / getattr(self.costs.size({}), name)
                if given > target:
                    best = f"the best found is {name}={askable(given)}"
                    raise Unreachable(f"{name}={target:g} cannot be reached: {best}{_because(refused)}")
                return Found(found.share, given)
        return found

    def _share(self, plan: Plan, by_hand: Selection, refused: Sequence[Refused]) -> Found | None:
        asked = self.asked
        if not plan.candidates and not by_hand and asked.budget not in (None, "ratio"):
            why = "".join(f"; {one.name}: {one.reason}" for one in self.refused[:2])
            raise Unreachable(f"{asked.asked} cannot be reached: there are no channels to prune{why}")
        for name in ("macs", "parameters"):
            target = getattr(asked, name)
            if target is not None:
                try:
                    return for_size(plan, self.costs, name, target, by_hand)
                except Unreachable as error:
                    raise Unreachable(f"{error}{_because(refused)}") from None
        if asked.speedup is None:
            return None
        watch = Stopwatch(self._engine(), self.graph, self.context.samples[0] if self.context.samples else None)
        return for_speed(plan, self.costs, asked.speedup, lambda chosen: self._speedup(watch, chosen), by_hand)

    def _engine(self) -> Engine | None:
        return self.context.engine if self.asked.engine is None else get_engine(self.asked.engine)

    def _speedup(self, watch: Stopwatch, selection: Selection) -> float:
        values: dict[Any, Any] = {}
        copy = self.graph.clone(values)
        # The copy is analysed anew: an analysis speaks of the values of its own graph.
        analysis = ChannelAnalysis(copy)
        plan = plan_pruning(copy, analysis, selection, constants=self.asked.constants, norms=self.asked.norms)
        apply_plan(copy, plan)
        return watch.speedup(copy)

    def _prunable(self, selection: Selection) -> Pruning:
        return plan_pruning(
            self.graph, self.analysis, selection, constants=self.asked.constants, norms=self.asked.norms
        )


def _chosen(group: Group, channels: Sequence[int]) -> np.ndarray:
    """The channels that the caller names, as a mask.

    Raises:
        GraphOptError: a channel that there is not, or all of them.
    """
    wrong = [c for c in channels if not 0 <= c < group.size]
    if wrong:
        raise GraphOptError(f"group {group.name!r} has channels 0 to {group.size - 1}, got {wrong[0]!r}")
    gone = np.zeros(group.size, dtype=bool)
    gone[list(channels)] = True
    for axis in group.axes:
        if gone[axis.channels].all():
            raise GraphOptError(
                f"group {group.name!r} would vanish: the channels to remove are all that dim {axis.dim} of "
                f"{axis.value.name!r} has; leave at least one of {', '.join(map(str, axis.channels[:8].tolist()))}"
            )
    return gone


def _held(candidate: Candidate) -> Refusal:
    """Why a group keeps all its channels."""
    limits = candidate.limits
    said = [f"{name}={n}" for name, n in (("min_width", limits.min_width), ("round_to", limits.round_to)) if n > 1]
    reason = f"{' and '.join(said)} leave{'s' if len(said) == 1 else ''} it whole" if said else "every dim needs a slot"
    return Refusal(candidate.group.name, reason, candidate.group.size)


def _because(refused: Sequence[Refused]) -> str:
    return f"; some channels cannot go: {refused[0]}" if refused else ""


def _refusals(pruning: Pruning) -> list[Refusal]:
    return [
        Refusal(one.group, one.reason, len(one.channels), f"{one.node.op.name}, {one.node.location}")
        for one in pruning.refused
    ]
