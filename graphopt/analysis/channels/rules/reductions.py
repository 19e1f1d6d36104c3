"""Reductions: sums and means may lose slots that hold zero; what compares or orders slots may not."""

from __future__ import annotations

import numpy as np

from graphopt.analysis.channels.axes import Axis, State, axis_state, is_tracked, not_zero, with_state
from graphopt.analysis.channels.rules.elementwise import couple
from graphopt.analysis.channels.rules.joining import take
from graphopt.analysis.channels.rules.table import rule
from graphopt.analysis.channels.tracker import Role, Tracker
from graphopt.ir import Node, TensorType, Value

EXTREMA = ("amax", "amin", "max", "min")
SUMS = ("sum", "mean", "linalg_vector_norm", "norm", "nansum")


@rule(
    "sum mean linalg_vector_norm norm amax amin max min any all prod var std var_mean std_mean logsumexp median argmax"
)
@rule("argmin count_nonzero nansum")
def reduce(t: Tracker, node: Node) -> None:
    """Some dims are reduced; the others pass through."""
    x = next(t.operands())
    if len(list(t.operands())) > 1:  # max.other, min.other
        couple(t, node, list(t.operands()))
        return
    name = node.op.base.removeprefix("aten.")
    dims = reduced_dims(node, len(x.shape))
    keepdim = node.arguments().get("keepdim", False) is True
    own = t.axes(x)
    for dim in dims:
        _reduce_dim(t, node, name, x, dim)
    for index, result in enumerate(node.results):
        if not isinstance(result.type, TensorType):
            continue
        axes: list[Axis] = []
        for dim, axis in enumerate(own):
            if dim in dims:
                if keepdim:
                    axes.append(())
                continue
            axes.append(with_state(axis, _left(axis, name)))
        t.set(axes, index)


def _left(axis: Axis, name: str) -> State:
    """What a dim that stays holds. A sum of constants depends on how many there are, which only sizes know."""
    state = axis_state(axis)
    if state is State.ZERO:
        return State.ZERO if name in (*SUMS, *EXTREMA) else State.VARYING
    return state if name in ("mean", *EXTREMA) else state.mixed


def reduced_dims(node: Node, rank: int) -> set[int]:
    """The dims that a reduction reduces."""
    dims = node.arguments().get("dim")
    if dims is None or dims == ():
        return set(range(rank))
    return {d % rank for d in (dims if isinstance(dims, tuple) else (dims,))} if rank else set()


def _reduce_dim(t: Tracker, node: Node, name: str, x: Value, dim: int) -> None:
    axis = t.axes(x)[dim]
    if not is_tracked(axis):
        return
    if name not in SUMS or not _is_summable_norm(node, name):
        t.freeze(axis, f"{name} over it")
    elif t.is_constant(x) and t.is_parameter(axis):
        t.play(axis, Role.NORMALIZED)  # zeros add nothing
    elif t.is_constant(x) and any(f.sources for f in axis):
        t.freeze(axis, f"{name} of a stored tensor over it")
    else:
        t.freeze(not_zero(axis), f"{name} over it: its removed slots would not be zero{t.origin()}")
    if name == "mean":
        t.care("mean", x, dim)


def _is_summable_norm(node: Node, name: str) -> bool:
    """Zeros don't count in a norm of positive finite order."""
    if name not in ("norm", "linalg_vector_norm"):
        return True
    arguments = node.arguments()
    order = arguments.get("ord", arguments.get("p", 2))
    return order is None or (isinstance(order, int | float) and 0 < order < float("inf"))


@rule("softmax _softmax log_softmax _log_softmax _safe_softmax softmin")
def softmax(t: Tracker, node: Node) -> None:
    """The slots of one dim share a total: none of them may go. Along the others constant stays constant."""
    along(t, node, "softmax over it")


@rule("cumsum cumprod cummax cummin sort topk kthvalue diff")
def scan(t: Tracker, node: Node) -> None:
    """Operators along one dim, whose slots are ordered; of zeros they make zeros."""
    along(t, node, f"{node.op.base.removeprefix('aten.')} along it", keeps_zero=True)


def along(t: Tracker, node: Node, text: str, *, keeps_zero: bool = False) -> None:
    """Freeze the dim that an operator runs along; the others pass through."""
    x = next(t.operands())
    own = t.axes(x)
    if not own:
        for index in range(len(node.results)):
            t.opaque_result(index, text)
        return
    dim = (node.arguments().get("dim", -1)) % len(own)
    if any(len(r.type.shape) != len(own) for r in node.results if isinstance(r.type, TensorType)):
        t.freeze_all(x, text)
        for index in range(len(node.results)):
            t.opaque_result(index, text)
        return
    t.freeze(own[dim], text)

    def state(axis: Axis, index: int) -> State:
        if keeps_zero:
            return State.ZERO if index == 0 and axis_state(axis) is State.ZERO else State.VARYING
        constant = isinstance(x.shape[dim], int) and axis_state(axis) <= State.CONSTANT
        return State.CONSTANT if constant else State.VARYING

    for index, result in enumerate(node.results):
        assert isinstance(result.type, TensorType)
        t.set(
            [
                t.opaque(result.type.shape[d], text) if d == dim else with_state(axis, state(axis, index))
                for d, axis in enumerate(own)
            ],
            index,
        )


@rule("glu")
def glu(t: Tracker, node: Node) -> None:
    """a · sigmoid(b) of the halves of a dim."""
    x = next(t.operands())
    own = list(t.axes(x))
    dim = (node.arguments().get("dim", -1)) % len(own)
    size = x.shape[dim]
    if not isinstance(size, int) or not is_tracked(own[dim]):
        t.freeze(own[dim], "glu of a dim of symbolic size")
        own[dim] = t.opaque(node.result.shape[dim], "glu")
        t.set(own)
        return
    half = size // 2
    first = take(t, own[dim], np.arange(half), "glu")
    second = take(t, own[dim], np.arange(half, size), "glu")
    own[dim] = with_state(t.equate(first, second, "gate"), axis_state(first))
    t.set(own)
