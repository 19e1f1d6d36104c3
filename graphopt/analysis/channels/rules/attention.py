"""Scaled dot-product attention: heads are a batch, the width of queries and keys is contracted."""

from __future__ import annotations

from graphopt.analysis.channels.axes import Axis, Factor, State, axis_state, is_tracked, with_state
from graphopt.analysis.channels.rules.table import rule
from graphopt.analysis.channels.tracker import Tracker
from graphopt.ir import Node


@rule("scaled_dot_product_attention")
def attention(t: Tracker, node: Node) -> None:
    """[…, H, L, E], […, H, S, E], […, H, S, V] → […, H, L, V]."""
    arguments = node.arguments()
    query, key, value, mask = (arguments[n] for n in ("query", "key", "value", "attn_mask"))
    q, k, v = t.axes(query), t.axes(key), t.axes(value)
    text = "attention"
    if axis_state(q[-1]) is not State.ZERO and axis_state(k[-1]) is not State.ZERO:
        t.freeze(q[-1], "attention: removed slots of queries and keys would not be zero")
    width = t.equate(q[-1], k[-1], "queries meet keys")
    if is_tracked(width) and arguments.get("scale") is None:
        t.care("attention", query, len(q) - 1)
    for axis in (q[-2], k[-2], v[-2]):
        t.freeze(axis, "attention over it")
    batch: list[Axis] = []
    grouped = bool(arguments.get("enable_gqa")) and query.shape[-3] != key.shape[-3]
    rank = max(len(q), len(k), len(v)) - 2
    for place in range(rank):
        parts = [a[place - rank - 2] for a in (q, k, v) if len(a) - 2 >= rank - place]
        if grouped and place == rank - 1:
            batch.append(_grouped_heads(t, q[-3], k[-3], v[-3], query.shape[-3], key.shape[-3]))
            continue
        axis: Axis = ()
        for part in parts:
            axis = t.equate(axis, part, f"heads of {text}") if axis and part else axis or part
        value_axis = v[place - rank - 2] if len(v) - 2 >= rank - place else ()
        zero = value_axis and axis_state(value_axis) is State.ZERO
        batch.append(with_state(axis, State.ZERO if zero else State.VARYING))
    if mask is not None:
        _couple_mask(t, t.axes(mask), batch)
    rows = t.opaque(node.result.shape[-2], "attention over it")
    columns = with_state(v[-1], State.ZERO if axis_state(v[-1]) is State.ZERO else State.VARYING)
    t.set([*batch, rows, columns])


def _grouped_heads(t: Tracker, q: Axis, k: Axis, v: Axis, heads: int, groups: int) -> Axis:
    """Each head of keys and values serves heads // groups heads of queries, which go only with it."""
    shared = t.equate(k, v, "heads of keys and values") if k and v else k or v
    repeated = (Factor(heads // groups, None, t.reason("query heads that share keys and values")),)
    axis = t.equate(q, (*shared, *repeated), "grouped-query attention")
    return with_state(axis, State.ZERO if axis_state(v) is State.ZERO else State.VARYING)


def _couple_mask(t: Tracker, mask: tuple[Axis, ...], batch: list[Axis]) -> None:
    for axis in mask[-2:]:
        t.freeze(axis, "attention over it")
    lead = mask[:-2]
    for place, axis in enumerate(lead):
        own = batch[place - len(lead)]
        if axis and own:
            t.equate(own, axis, "mask of attention")
        elif axis:
            t.freeze(axis, "mask that widens a batch")
