"""Comparing two models: structure by aligned nodes, numbers by aligned values."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graphopt.debugging.aligning import Correspondence, align
from graphopt.debugging.attribute import output_names
from graphopt.debugging.deviation import Deviation, Tolerance, deviation, ulp_of
from graphopt.debugging.difference import Difference, NodeDifference, ValueDifference
from graphopt.debugging.places import source_line
from graphopt.debugging.reference import Reference
from graphopt.debugging.subjects import Subject, subject
from graphopt.ir import Graph, Node, Value
from graphopt.passmanager.samples import synthesize

Pair = tuple[str | None, str | None]


def diff(
    a: Any,
    b: Any = None,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    targets: Pair = (None, None),
    engines: Pair = (None, None),
    names: tuple[str, str] = ("", ""),
    tolerance: float | None = None,
    **options: Any,
) -> Difference:
    """Say what sets two models apart: which nodes, which stored tensors, and where their numbers first diverge.

    a, b: each a `CompiledModel`, a `Graph`, or what `graphopt.compile` takes. Two `.onnx` files are compared as they
        are, in ONNX Runtime with its optimizations off, unless a target or engine is given; with anything else an
        ONNX file is compared by its graph. Without `b`, `a` is compared with itself, for two targets or in two engines.
    args, kwargs: inputs for the numbers. Without any, graphs of floating-point inputs get made-up ones.
    targets: for each side, a target to compile the model for first, with `options`; None leaves it as it is.
    engines: for each side, what runs it (`"interpreter"`, `"eager"`, `"onnxruntime{optimization=off}"`); None takes the
        engine that the model was compiled for, and the interpreter for what was not compiled.
    tolerance: the largest deviation relative to a value's scale; by default what rounding may do (see `Tolerance`).

    Values correspond by provenance where a model was compiled from the other here (or with
    `instruments=[Provenance()]`), else by operator, module and source line, in order.

    Raises:
        GraphOptError: a side that cannot be traced, compiled or run.

    >>> from graphopt.ops import parse
    >>> import torch
    >>> one, two = (parse(f'''input %x: f32[2]
    ... %y = aten.{op}(%x) @ "net.py":3
    ... %z = aten.exp(%y) @ "net.py":4
    ... return %z''') for op in ("relu", "neg"))
    >>> found = diff(one, two, [torch.tensor([1.0, -1.0])])
    >>> [(node.kind, node.what) for node in found.nodes], found.first.b
    ([('changed', 'aten.relu → aten.neg')], '%y = aten.neg(%x)')
    """
    b = a if b is None else b
    if _is_onnx(a) and _is_onnx(b) and not any((*targets, *engines)):
        from graphopt.debugging.onnx_files import diff_onnx

        return diff_onnx(Path(a), Path(b), args, kwargs, tolerance=tolerance)
    sides = [
        subject(model, args or (), kwargs or {}, name=name, target=target, engine=engine, **options)
        for model, name, target, engine in zip((a, b), names, targets, engines)
    ]
    return _compare(sides[0], sides[1], args, kwargs or {}, Tolerance(tolerance))


def _is_onnx(side: Any) -> bool:
    return isinstance(side, str | os.PathLike) and Path(side).suffix == ".onnx"


def _compare(
    a: Subject, b: Subject, args: Sequence[Any] | None, kwargs: Mapping[str, Any], tolerance: Tolerance
) -> Difference:
    found = Difference(a.label, b.label)
    aligned = align(a.graph, b.graph, b.history)
    if aligned.nodes and a.history is not None and b.history is None:
        aligned = _turned(align(b.graph, a.graph, a.history))
    _add_structure(found, a.graph, b.graph, aligned)
    inputs = _inputs(a, b, args, kwargs)
    if inputs is None:
        found.notes.append("numbers are not compared: there are no inputs; give args")
    else:
        _add_tensors(found, a.graph, b.graph)
        _add_numbers(found, a, b, aligned, inputs, tolerance)
    return found


def _turned(aligned: Correspondence) -> Correspondence:
    nodes = [(old, new) for new, old in aligned.nodes]
    values = [(old, new) for new, old in aligned.values]
    return Correspondence(nodes, values, aligned.added, aligned.removed)


def _inputs(
    a: Subject, b: Subject, args: Sequence[Any] | None, kwargs: Mapping[str, Any]
) -> tuple[list[Any], list[Any]] | None:
    if args is None and not kwargs:
        made = synthesize(a.graph)
        return None if made is None else (list(made), list(made))
    inputs = a.flatten(args or (), kwargs)
    # A graph without a signature takes the flat inputs.
    return inputs, inputs if b.graph.signature is None else b.flatten(args or (), kwargs)


def _add_structure(found: Difference, a: Graph, b: Graph, aligned: Correspondence) -> None:
    counts = [Counter(node.op.base for node in graph) for graph in (a, b)]
    found.ops = {op: (counts[0][op], counts[1][op]) for op in sorted({*counts[0], *counts[1]})}
    found.ops = {op: pair for op, pair in found.ops.items() if pair[0] != pair[1]}
    order = {node: float(index) for index, node in enumerate(b)}
    rows: list[tuple[float, NodeDifference]] = []
    last = -1.0
    partner = dict(aligned.nodes)
    for node in a:
        if node in partner:
            last = order[partner[node]]
        else:
            rows.append((last + 0.5, _difference("removed", node, None)))
    rows += [(order[node], _difference("added", None, node)) for node in aligned.added]
    for old, new in aligned.nodes:
        what = _change(old, new)
        if what:
            rows.append((order[new], _difference("changed", old, new, what)))
    found.nodes = [row for _, row in sorted(rows, key=lambda row: row[0])]
    found.same = len(aligned.nodes) - sum(row.kind == "changed" for row in found.nodes)


def _change(old: Node, new: Node) -> str:
    if old.op is not new.op:
        return f"{old.op.name} → {new.op.name}"
    names = dict.fromkeys([*old.attributes, *new.attributes])
    changes = [
        f"{name}: {old.attributes.get(name)!r} → {new.attributes.get(name)!r}"
        for name in names
        if old.attributes.get(name) != new.attributes.get(name)
    ]
    types = [f"{r.type!r} → {s.type!r}" for r, s in zip(old.results, new.results) if repr(r.type) != repr(s.type)]
    return ", ".join([*changes, *types])


def _difference(kind: str, old: Node | None, new: Node | None, what: str = "") -> NodeDifference:
    node = new if new is not None else old
    assert node is not None
    location = node.location
    texts = ["" if one is None else repr(one) for one in (old, new)]
    return NodeDifference(kind, texts[0], texts[1], what, source_line(location), location.scope)


def _add_tensors(found: Difference, a: Graph, b: Graph) -> None:
    """Stored tensors that share a qualified name and differ; not judged, for folding changes them on purpose."""
    old, new = (_by_name(graph) for graph in (a, b))
    for name in old:
        if name not in new or old[name] is new[name]:
            continue
        far = deviation(new[name], old[name])
        if not far.is_exact:
            found.tensors.append(ValueDifference(name, name, "", "", far, None, ok=True))


def _by_name(graph: Graph) -> dict[str, Any]:
    constants = [v.constant for v in graph.constants.values() if v.constant is not None]
    return {name: constant.tensor.detach() for constant in constants for name in constant.names}


def _add_numbers(
    found: Difference,
    a: Subject,
    b: Subject,
    aligned: Correspondence,
    inputs: tuple[list[Any], list[Any]],
    tolerance: Tolerance,
) -> None:
    (old, old_outputs), (new, new_outputs) = a.run(inputs[0]), b.run(inputs[1])
    own = _Own(a.graph, b.graph, inputs)
    order = {node: index for index, node in enumerate(b.graph)}

    def position(pair: tuple[Value, Value]) -> int:
        return order[pair[1].producer] if pair[1].producer is not None else -1

    for x, y in sorted(aligned.values, key=position):
        if x in old and y in new and not (x.producer is None and y.producer is None):
            found.values.append(_value_difference(x, y, old[x], new[y], own.value(x, y), tolerance))
    names = output_names(a.graph)
    for index, (x, y) in enumerate(zip(old_outputs, new_outputs)):
        far, rounding = deviation(y, x), own.output(index)
        title = f"%{names[index]}" if index < len(names) else f"output {index}"
        ok = tolerance.holds(far, rounding, ulp_of(y))
        found.outputs.append(ValueDifference(title, title, "", "", far, rounding, ok))
    if len(old_outputs) != len(new_outputs):
        found.notes.append(f"the first returns {len(old_outputs)} values, the second {len(new_outputs)}")


class _Own:
    """The rounding errors of both sides: each against itself in float64; the larger counts."""

    def __init__(self, a: Graph, b: Graph, inputs: tuple[list[Any], list[Any]]) -> None:
        self.a = Reference(a, inputs[0])
        self.b = self.a if a is b else Reference(b, inputs[1])

    def value(self, x: Value, y: Value) -> Deviation | None:
        """Of a pair of values; None if one of the two is not known."""
        return _larger(self.a.own(x), self.b.own(y))

    def output(self, index: int) -> Deviation | None:
        """Of an output."""
        return _larger(self.a.own_outputs[index], self.b.own_outputs[index])


def _larger(a: Deviation | None, b: Deviation | None) -> Deviation | None:
    return None if a is None or b is None else max(a, b, key=lambda d: d.max_abs)


def _value_difference(
    x: Value, y: Value, old: Any, new: Any, own: Deviation | None, tolerance: Tolerance
) -> ValueDifference:
    node = y.producer or x.producer
    assert node is not None
    location = node.location
    far = deviation(new, old)
    ok = tolerance.holds(far, own, ulp_of(new))
    return ValueDifference(_text(x), _text(y), source_line(location), location.scope, far, own, ok)


def _text(value: Value) -> str:
    return repr(value.producer) if value.producer is not None else f"%{value.name}"
