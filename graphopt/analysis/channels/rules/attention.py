"""Scaled dot-product attention: heads are a batch, the width of queries and keys is contracted."""

from __future__ import annotations

from graphopt.analysis.channels.axes import Axis, Factor, zero_if_any, zero_or_varying
from graphopt.analysis.channels.rules.linear import contract_activations
from graphopt.analysis.channels.rules.table import rule
from graphopt.analysis.channels.tracker import Tracker
from graphopt.ir import Node


@rule("scaled_dot_product_attention")
def attention(t: Tracker, node: Node) -> None:
    """[…, H, L, E], […, H, S, E], […, H, S, V] → […, H, L, V]."""
    arguments = node.arguments()
    query, key, value, mask = (arguments[n] for n in ("query", "key", "value", "attn_mask"))
    q, k, v = t.axes(query), t.axes(key), t.axes(value)
    contract_activations(t, "attention", q[-1], k[-1])
    if arguments.get("scale") is None:
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
        axis = ()
        for part in parts:
            axis = t.equate(axis, part, "heads of attention") if axis and part else axis or part
        values = v[place - rank - 2] if len(v) - 2 >= rank - place else ()
        batch.append(zero_if_any(axis, [values] if values else []))
    if mask is not None:
        _couple_mask(t, t.axes(mask), batch)
    rows = t.opaque(node.result.shape[-2], "attention over it")
    t.set([*batch, rows, zero_or_varying(v[-1])])


def _grouped_heads(t: Tracker, q: Axis, k: Axis, v: Axis, heads: int, groups: int) -> Axis:
    """Each head of keys and values serves heads // groups heads of queries, which go only with it."""
    shared = t.equate(k, v, "heads of keys and values") if k and v else k or v
    repeated = (Factor(heads // groups, None, t.reason("query heads that share keys and values")),)
    axis = t.equate(q, (*shared, *repeated), "grouped-query attention")
    return zero_if_any(axis, [(*zero_or_varying(v), *repeated)] if v else [])


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
