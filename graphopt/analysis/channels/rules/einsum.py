"""einsum: equal letters are coupled; letters that the result lacks are summed over."""

from __future__ import annotations

from graphopt.analysis.channels.axes import Axis, State, axis_state, zero_if_any
from graphopt.analysis.channels.rules.embedding import freeze_operands
from graphopt.analysis.channels.rules.table import rule
from graphopt.analysis.channels.tracker import Role, Tracker
from graphopt.ir import Node, Value


@rule("einsum")
def einsum(t: Tracker, node: Node) -> None:
    """Products of several tensors, by letters."""
    operands = list(t.operands())
    labels = _labels(node.attr("equation"), [len(v.shape) for v in operands])
    if labels is None or any(len(set(part)) < len(part) for part in labels):
        freeze_operands(t, node, "einsum with a diagonal")
        return
    *inputs, output = labels
    found: dict[str, Axis] = {}
    for letter in dict.fromkeys(letter for part in inputs for letter in part):
        places = [(v, t.axes(v)[part.index(letter)]) for v, part in zip(operands, inputs) if letter in part]
        if letter not in output:
            _check_sum(t, places, len(operands))
        axis: Axis = ()
        for _, other in places:
            axis = t.equate(axis, other, "einsum") if axis and other else axis or other
        found[letter] = zero_if_any(axis, [a for _, a in places if a])
    t.set([found[letter] for letter in output])


def _check_sum(t: Tracker, places: list[tuple[Value, Axis]], operands: int) -> None:
    """A dim that is summed over: one side holds zeros, or a constant that meets a stored tensor."""
    activations = [axis for v, axis in places if not t.is_constant(v)]
    weights = [axis for v, axis in places if t.is_constant(v)]
    if not activations:
        activations, weights = weights[:1], weights[1:]
        t.play(activations[0], Role.OUT)
    for axis in weights:
        t.play(axis, Role.IN)
    worst = min(map(axis_state, activations))
    folds = bool(weights) and operands == 2 and worst is State.CONSTANT
    if worst is not State.ZERO and not folds:
        for axis in activations:
            t.freeze(axis, f"einsum: its removed slots would not be zero{t.origin()}")


def _labels(equation: str, ranks: list[int]) -> list[str] | None:
    """The letters of each operand and of the result, an ellipsis spelled out; None for what has no clear reading."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    parts = left.split(",")
    if len(parts) != len(ranks):
        return None
    free = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" if c not in equation]
    widest = max(rank - len(part) + 3 if "..." in part else 0 for part, rank in zip(parts, ranks))
    dots = "".join(free[:widest])
    if len(dots) < widest:
        return None
    spelled = []
    for part, rank in zip(parts, ranks):
        width = rank - len(part) + 3
        spelled.append(part.replace("...", dots[widest - width :]) if "..." in part else part)
    if not arrow:
        letters = "".join(spelled)
        right = dots + "".join(sorted(c for c in set(letters) - set(dots) if letters.count(c) == 1))
    return [*spelled, right.replace("...", dots)]
