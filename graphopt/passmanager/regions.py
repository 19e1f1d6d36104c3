"""Each rewritten region is checked alone: the value that stands in place of another equals it.

An error inside a graph need not reach the outputs: a relu, a mask, a saturation, a product with zero hide it, or many
layers make it small. So every value keeps a sketch in the float64 run that validates a graph anyway (see `sketches`),
and after a pass the sketches of the values that it replaced are compared with those of what stands in their place.
That costs no run.

Where sketches differ, the region is run alone: the graph after the pass, on the *recorded* values of the graph before
wherever the region starts, so that only its own error counts. Then, with v the old value and w the new one,

    |w − v| ≤ 1e-9·scale in float64;  where a constant was rounded, the bound of `bounds.relative_bound`

is held as it is for outputs, and a difference where the original itself jumps by rounding alone is excused.

What makes a claim: a value that replaced another; a stored tensor that replaced another is a claim only if both were
there before (a new weight may be made up for elsewhere). So does a node that a rule was applied to and that it changed
in place, if those who use it were left as they were. What else changes in place claims nothing about values inside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from graphopt.analysis import Interpreter
from graphopt.ir import Graph, Node, Value
from graphopt.ops.effects import has_effect, is_random
from graphopt.passmanager.bounds import FLOAT64_LIMIT, Complaint, float64_complaint, relative_bound
from graphopt.passmanager.compare import distance, is_inexact
from graphopt.passmanager.guard import rounded_values
from graphopt.passmanager.provenance import Alignment, Application
from graphopt.passmanager.runner import Runner
from graphopt.passmanager.sketches import Sketches, differ, sketch
from graphopt.passmanager.stability import jumps

LOOSE_ULPS = 512.0
"""Where a constant was rounded, sketches may differ by this many ulp before the region is run alone."""


@dataclass(frozen=True)
class Claim:
    """`new`, of the graph after, is said to equal `old`, of the graph before.

    application: of the rule that says so; None if the pass applies no rules.
    """

    old: Value
    new: Value
    application: Application | None


@dataclass(frozen=True)
class Region:
    """A region that does not compute what it did.

    message: what is wrong. nodes: the new nodes of the region.
    certain: no other application than that of the claim had a hand in it.
    """

    claim: Claim
    message: str
    nodes: tuple[Node, ...] = field(default=(), repr=False)
    certain: bool = False

    def __str__(self) -> str:
        old, new = self.claim.old, self.claim.new
        return f"{_named(new)} in place of {_named(old)}: {old.type!r} is wrong: {self.message}"


def claims(step: Alignment) -> Iterator[Claim]:
    """What a step says of values inside, in the order of the graph before."""
    for old in step.before.constants.values():
        new = step.forward(old) if step.is_replaced(old) else None
        if new is not None and any(not step.is_replaced(other) for other in step.backward(new)):
            yield Claim(old, new, step.replaced_by(old))
    in_place = _changed_roots(step)
    for node in step.before:
        for old in node.results:
            if not old._uses:
                continue
            if step.is_replaced(old):
                new = step.forward(old)
                if new is not None and not is_random(node):
                    yield Claim(old, new, step.replaced_by(old))
            elif old in in_place and not is_random(node):
                yield Claim(old, *in_place[old])


def _changed_roots(step: Alignment) -> dict[Value, tuple[Value, Application]]:
    """The results of nodes that rules were applied to and changed in place, whose users were left as they were."""
    found: dict[Value, tuple[Value, Application]] = {}
    for application in step.applications:
        root = application.root
        source = step.source(root) if root.graph is step.after else None
        if source is not None and step.is_changed_in_place(source, root) and _users_as_before(step, source, root):
            for old, new in zip(source.results, root.results):
                if step.forward(old) is new:
                    found[old] = new, application
    return found


def _users_as_before(step: Alignment, source: Node, root: Node) -> bool:
    for user in dict.fromkeys(use.node for result in root.results for use in result._uses):
        before = step.before.terminator if user is step.after.terminator else step.source(user)
        if before is None or step.is_changed_in_place(before, user):
            return False
    return True


class RegionCheck:
    """Checks the regions of one step.

    before: sketches of the values of the graph before, in float64 on `inputs`. after: those of the graph after, to be
    filled by a run. Some are there from the start: a node that computes what it did, from values that are what they
    were or claim to be, is not worth another sketch. If a claim is wrong, that is what is found.
    rounded: the pass stored new floating-point constants. excuses: what was let pass, and why.
    """

    def __init__(
        self,
        runner: Runner,
        step: Alignment,
        inputs: Sequence[Any],
        before: Sketches,
        *,
        rounded: bool,
    ) -> None:
        self.runner = runner
        self.step = step
        self.inputs = inputs
        self.before = before
        self.rounded = rounded
        self.excuses: list[str] = []
        self.claims = list(claims(step))
        self.after = self._carried()

    def _carried(self) -> Sketches:
        """The sketches of values that are what they were."""
        step, found = self.step, Sketches()
        trusted = {claim.new for claim in self.claims} | set(step.after.inputs)
        for old in step.before.constants.values():
            new = step.forward(old)
            if new is not None and _same_tensor(old, new):
                trusted.add(new)
        for source in step.before:
            node = step.image(source)
            if node is None or any(v is not None and v not in trusted for v in node._operands):
                continue
            if self._units.get(node.results[0]) or (step.is_touched(node) and step.is_changed_in_place(source, node)):
                continue
            trusted.update(node.results)
            found.update(
                (new, self.before[old]) for old, new in zip(source.results, node.results) if old in self.before
            )
        return found

    def first(self) -> Region | None:
        """The first region, in the order of the graph before, that breaks what it claims; None if none does."""
        for claim in self.claims:
            if self._differ(claim.old, claim.new):
                region = self._region(claim)
                if region is not None:
                    return region
        return None

    # Sketches

    def _differ(self, old: Value, new: Value) -> bool:
        """True if the sketches tell of a difference."""
        before, after = self._sketch(old, self.before), self._sketch(new, self.after)
        if before is None or after is None or not differ(before, after, FLOAT64_LIMIT):
            return False
        unit = self._units.get(new, 0.0)
        return not unit or differ(before, after, LOOSE_ULPS * unit)

    def _sketch(self, value: Value, sketches: Sketches) -> Any:
        """The sketch of a value; None for what was not seen. Those of inputs and stored tensors are made now."""
        if value not in sketches and value.producer is None:
            sketches[value] = sketch(self._wide.constant(value) if value.constant is not None else self._input(value))
        return sketches.get(value)

    def _input(self, value: Value) -> Any:
        graph = self.step.after if value in self.step.after.inputs else self.step.before
        return self._wide.widened(self.inputs[graph.inputs.index(value)])

    @cached_property
    def _units(self) -> Mapping[Value, float]:
        return rounded_values(self.step.before, self.step.after) if self.rounded else {}

    @cached_property
    def _wide(self) -> Interpreter:
        return Interpreter(self.step.after, float64=True, contiguous=True)

    # A region alone

    def _region(self, claim: Claim) -> Region | None:
        """Run the region of a claim alone, if what it starts from is as it was before."""
        starts, nodes = self._extent(claim)
        if any(self._differ(old, new) for old, new in starts):
            return None
        recorded = self._record(claim.old, starts)
        old = recorded[claim.old]
        new = self._alone(claim.new, {after: recorded[before] for before, after in starts if before in recorded})
        complaint = self._complaint(claim, old, new)
        if complaint is None:
            return None
        message = f"run alone on the values before, {complaint.message}{_example(old, new, complaint)}"
        if self._is_rounding(claim, complaint):
            self.excuses.append(f"{_named(claim.old)}: {message}")
            return None
        return Region(claim, message, nodes, self._is_certain(claim, nodes))

    def _extent(self, claim: Claim) -> tuple[list[tuple[Value, Value]], tuple[Node, ...]]:
        """Where the region starts, as pairs of values before and after, and the nodes after up to its end."""
        step, starts = self.step, dict[Value, Value]()
        for old in step.backward(claim.new):
            if old is not claim.old and not step.is_replaced(old) and not _changed(step, old, claim.new):
                return [(old, claim.new)], ()  # it says that two values of the graph before are equal
        nodes: dict[Node, None] = {}
        pending = [claim.new]
        while pending:
            value = pending.pop()
            sources = step.backward(value) if value is not claim.new else ()
            if value.is_input or any(value.constant is not None and _same_tensor(old, value) for old in sources):
                continue
            if sources:
                starts[value] = next((old for old in sources if not step.is_replaced(old)), sources[0])
            elif value.producer is not None and value.producer not in nodes:
                nodes[value.producer] = None
                pending += value.producer.inputs
        return [(old, new) for new, old in starts.items()], tuple(reversed(nodes))

    def _record(self, old: Value, starts: Sequence[tuple[Value, Value]]) -> dict[Value, Any]:
        """The values before: that of the claim, and those that the region starts from and nodes compute."""
        wanted = {old, *(before for before, after in starts if after.producer is not None)}
        found: dict[Value, Any] = {v: self._wide.constant(v) for v in wanted if v.constant is not None}
        self.runner.wide(self.step.before, self.inputs, _keeping(wanted, found))
        return found

    def _alone(self, new: Value, given: Mapping[Value, Any]) -> Any:
        """What the region computes from the given values."""
        if new.constant is not None:
            return self._wide.constant(new)
        if new.is_input:
            return self._input(new)
        found: dict[Value, Any] = {}
        self.runner.given(self.step.after, self.inputs, given, _keeping({new}, found))
        return found[new]

    def _complaint(self, claim: Claim, old: Any, new: Any) -> Complaint | None:
        complaint = float64_complaint(old, new, FLOAT64_LIMIT)
        if complaint is None or not self._units.get(claim.new) or not is_inexact(old):
            return complaint
        found: dict[Value, Any] = {}
        self.runner.work(self.step.before, self.inputs, _keeping({claim.old}, found))
        work = found.get(claim.old, old)
        return float64_complaint(old, new, *relative_bound(work, distance(work, old)))

    def _is_rounding(self, claim: Claim, complaint: Complaint) -> bool:
        if complaint.gap is None or claim.old.producer is None:
            return False
        unit = self._units.get(claim.new) or torch.finfo(torch.float64).eps
        return jumps(self.runner, up_to(self.step.before, claim.old), self.inputs, 0, complaint.gap, unit=unit)

    def _is_certain(self, claim: Claim, nodes: Sequence[Node]) -> bool:
        made = [self.step.made_by(node) for node in nodes]
        return claim.application is not None and all(one is claim.application for one in made)


def up_to(graph: Graph, value: Value) -> Graph:
    """A copy of a graph that returns one value, and computes no more than that takes."""
    images: dict[Value, Value] = {}
    copy = graph.clone(images)
    copy.set_outputs([images[value]])
    for node in reversed(copy):
        if not has_effect(node) and not any(result._uses for result in node.results):
            copy.erase(node)
    return copy


def _keeping(wanted: set[Value], found: dict[Value, Any]) -> Any:
    """An observer that keeps some values."""

    def keep(node: Node, results: Sequence[Any]) -> None:
        found.update((value, result) for value, result in zip(node.results, results) if value in wanted)

    return keep


def _changed(step: Alignment, old: Value, new: Value) -> bool:
    """True if a value is computed otherwise than the one that it is the image of."""
    return (
        old.producer is not None and new.producer is not None and step.is_changed_in_place(old.producer, new.producer)
    )


def _same_tensor(a: Value, b: Value) -> bool:
    return a.constant is not None and b.constant is not None and a.constant.tensor is b.constant.tensor


def _named(value: Value) -> str:
    return f"%{value.name or '?'}"


def _example(old: Any, new: Any, complaint: Complaint) -> str:
    """The element that is farthest off, as it was and is, and how many there are."""
    gap = complaint.gap
    if gap is None or not isinstance(old, torch.Tensor) or gap.numel() != old.numel():
        return ""
    worst = int(gap.argmax())
    place = [int(i) for i in torch.unravel_index(torch.tensor(worst), old.shape)]
    before, after = old.reshape(-1)[worst].item(), new.reshape(-1)[worst].item()
    return f", as {before:.6g} → {after:.6g} at {place}; {int((gap > 0).sum())} of {gap.numel()} elements do"
