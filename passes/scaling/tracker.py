"""Which numbers of a graph may be scaled together, so that the graph computes the same.

Let every value v become t ⊙ v, with positive factors t. A layer takes factors of its input and gives its output others
by its weight:

    y = W x + b,   x' = t_x x,   W'[o, i] = t_y[o] W[o, i] / t_x[i],   b' = t_y b   ⇒   y' = t_y y

and a positively homogeneous operator f(t x) = t f(x) passes them on. So each layer and norm starts factors of its own,
what passes them on ties them, and whatever else reads a value holds its factors at 1. Factors are classes of a
union-find (`Atoms`, where 0 and whatever has a reason stands for 1). The *labels* of a value are an array of them that
broadcasts to its shape, of size 1 along the dims that they do not differ along.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from graphopt.analysis.channels.atoms import Atoms, Ids
from graphopt.ir import DType, Graph, Node, TensorType, Value
from graphopt.rewrite.pattern import Surroundings

_WIDE = (DType.F32, DType.F64)
"""Weights of fewer bits would be rounded anew by so much that nothing is gained."""


@dataclass
class Claim:
    """A stored tensor that takes factors. kind: "layer", "gain" (of a norm), "shift", "table" or "diagonal".

    factors: labels that broadcast to it, and the exponent of their factors, by role ("out" and "in").
    nodes: what reads it so. uses: how many uses that covers.
    """

    kind: str
    factors: dict[str, tuple[Ids, int]]
    nodes: list[Node] = field(default_factory=list)
    uses: int = 0


class Tracker:
    """The labels of values, while a graph is walked. node: where the walk is.

    clips: whether clips pass factors on; `clipped` then holds those that do. refused: labels of what layers read by a
    weight that is also read otherwise.
    """

    def __init__(self, graph: Graph, clips: bool = False) -> None:
        self.graph = graph
        self.clips = clips
        self.clipped: list[Node] = []
        self.atoms = Atoms()
        self.claims: dict[Value, Claim] = {}
        self.refused: dict[Value, Ids] = {}
        self.surroundings = Surroundings(updated=frozenset(graph.mutations))
        self.node: Node = graph.terminator
        self._labels: dict[Value, Ids] = {}
        self._still: dict[int, Ids] = {}

    # Labels

    def labels(self, value: Value) -> Ids:
        """The labels of a value, of its rank."""
        found = self._labels.get(value)
        if found is None:
            what = "it is stored" if value.constant is not None else "it is an input of the model"
            made = value.producer
            found = self.still(value, what if made is None else f"{made.op.base} gives numbers of its own", made)
        return found

    def set(self, value: Value, labels: Ids) -> None:
        """Note the labels of a result, padded to its rank and without the dims along which they are the same."""
        rank = rank_of(value)
        labels = labels.reshape((1,) * (rank - labels.ndim) + labels.shape)
        for dim in range(rank):
            if labels.shape[dim] > 1 and (labels == (first := labels.take([0], dim))).all():
                labels = first
        self._labels[value] = labels

    def still(self, value: Value, why: str, node: Node | None = None) -> Ids:
        """Labels of a value whose factors are 1."""
        reason = self.atoms.reason(why, node)
        if reason not in self._still:
            self._still[reason] = self.atoms.fresh(1)
            self.atoms.freeze(self._still[reason], reason)
        return self._still[reason].reshape((1,) * rank_of(value))

    def fresh(self, *shape: int) -> Ids:
        """Labels that nothing else has yet."""
        return self.atoms.fresh(int(np.prod(shape))).reshape(shape)

    def is_still(self, labels: Ids) -> bool:
        """True if all factors are known to be 1 already."""
        return not self.atoms.free(labels.ravel()).any()

    def freeze(self, labels: Ids, why: str) -> None:
        """Hold factors at 1."""
        self.atoms.freeze(labels.ravel(), self.atoms.reason(why, self.node))

    def equate(self, first: Ids, second: Ids) -> Ids:
        """Let factors be the same, broadcast from the right; return the labels of both."""
        if first is second:
            return first
        a, b = np.broadcast_arrays(first, second)
        why = self.atoms.reason(f"{self.node.op.base} ties it to what keeps its scale", self.node)
        self.atoms.equate(a.ravel(), b.ravel(), why)
        return a

    def uniform(self, labels: Ids, dim: int) -> Ids:
        """Let factors be the same along a dim; return the labels with size 1 there."""
        if labels.shape[dim] == 1:
            return labels
        first = labels.take([0], dim)
        self.equate(labels, first)
        return first

    def along(self, labels: Ids, axis: int) -> Ids:
        """Let factors differ along one dim alone; return them as a vector, of size 1 if they do not differ at all."""
        for dim in range(labels.ndim):
            if dim != axis % labels.ndim:
                labels = self.uniform(labels, dim)
        return labels.reshape(-1)

    # Stored tensors

    def claim(self, value: Value, kind: str, **factors: tuple[Ids, int]) -> None:
        """Let a stored tensor take factors: by role, labels that broadcast to it and an exponent.

        A tensor that several nodes read stays one: their factors are tied.
        """
        own = Claim(kind, factors)
        why = self._unfit(value)
        known = self.claims.setdefault(value, own)
        known.nodes.append(self.node)
        known.uses += 1
        if known is own and why is None:
            return
        if why is None and (known.kind != kind or known.factors.keys() != factors.keys()):
            why = "its weight is read in several ways"
            if "in" in factors:
                self.refused[value] = factors["in"][0]
        for role, (labels, _) in factors.items():
            if why is not None:
                self.freeze(labels, why)
            else:
                self.equate(known.factors[role][0], labels)
        if why is not None:
            for labels, _ in known.factors.values():
                self.freeze(labels, why)

    def shift(self, value: Value | None, labels: Ids) -> None:
        """A summand of a value with these labels: a stored tensor is scaled with it, anything else is tied to it."""
        if value is None:
            return
        if value.constant is None:
            self.equate(self.labels(value), labels)
            return
        rank = rank_of(value)
        while labels.ndim > rank:
            labels = self.uniform(labels, 0)[0]
        labels = labels.reshape((1,) * (rank - labels.ndim) + labels.shape)
        for dim in range(rank):
            if value.shape[dim] == 1:
                labels = self.uniform(labels, dim)
        self.claim(value, "shift", out=(labels, 1))

    def finish(self) -> None:
        """Hold what the graph returns, and stored tensors that are also read in ways that take no factors."""
        self.node = self.graph.terminator
        for value in self.graph.terminator.inputs:
            self.freeze(self.labels(value), "the model returns it")
        for value, claim in self.claims.items():
            if claim.uses < value.num_uses:
                self.node = next((user for user in value.users if user not in claim.nodes), claim.nodes[0])
                for labels, _ in claim.factors.values():
                    self.freeze(labels, f"{value.name} is also read by {self.node.op.base}")

    def _unfit(self, value: Value) -> str | None:
        if value.name in self.graph.mutations:
            return "the model updates its weight"
        assert value.constant is not None
        if value.dtype not in _WIDE:
            return "its weight is not in single or double precision"
        return "its weight has no numbers" if value.constant.tensor.is_meta else None


Rule = Callable[[Tracker, Node], None]
RULES: dict[str, Rule] = {}
"""Rules by the operator's base name without the dialect `aten`."""


def rule(names: str) -> Callable[[Rule], Rule]:
    """Register a function for operators whose names are separated by spaces."""

    def register(function: Rule) -> Rule:
        for name in names.split():
            assert name not in RULES, name
            RULES[name] = function
        return function

    return register


def barrier(t: Tracker, node: Node, why: str = "") -> None:
    """What is not homogeneous, or not known to be: what goes in keeps its scale, and so does what comes out."""
    why = why or f"{node.op.base} does not pass scales on"
    for value in node.inputs:
        if value.constant is None:
            t.freeze(t.labels(value), why)
    for result in node.results:
        t.set(result, t.still(result, why, node))


def track(graph: Graph, clips: bool = False) -> Tracker:
    """Walk a graph."""
    t = Tracker(graph, clips)
    for node in graph:
        t.node = node
        dialect, _, name = node.op.base.partition(".")
        found = RULES.get(name) if dialect == "aten" else None
        (found or barrier)(t, node)
    t.finish()
    return t


def rank_of(value: Value) -> int:
    """The rank of a tensor; 0 for anything else."""
    return value.type.rank if isinstance(value.type, TensorType) else 0
