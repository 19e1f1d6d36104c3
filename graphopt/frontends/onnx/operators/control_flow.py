"""If, Loop and Scan: inlined where the condition is known, unrolled where the number of rounds is, else regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from graphopt.frontends.onnx.application import Application, Declined, tensor_type, translates
from graphopt.frontends.onnx.choice import RanksDiffer, key, same_ranks
from graphopt.frontends.onnx.entries import Entry, Known, known
from graphopt.frontends.onnx.scopes import Captures, InPlace, Region, TooLong
from graphopt.ir import Attributes, DType, Graph, TensorType, Value, infer_types, types_known_equal
from graphopt.ops import registry

if TYPE_CHECKING:
    import onnx


@translates("If")
def if_(a: Application) -> list[Entry]:
    """The branch that a known condition chooses, read in place; else `higher_order.cond`, of tensors alone."""
    branches = {"then": a.attr("then_branch"), "otherwise": a.attr("else_branch")}
    decided = a.reader.guesses.get(key(a.node), truth(a, 0))
    if decided is not None:
        return InPlace(a.reader, branches["then" if decided else "otherwise"]).read(())
    captures = Captures()
    regions = [Region(a.reader, proto, name, captures) for name, proto in branches.items()]
    for region in regions:
        outputs = region.read(())
        region.graph.set_outputs([tensor_of(region, entry) for entry in outputs])
    if not same_ranks(*[region.graph.outputs for region in regions]):
        raise RanksDiffer("its branches give tensors of different rank")
    for region in regions:
        region.complete(0)
    return _control_flow(a, "higher_order.cond", [a[0], *captures.values], [region.graph for region in regions])


@translates("Loop")
def loop(a: Application) -> list[Entry]:
    """Rounds in place where their number, and that the condition holds, are known; else `higher_order.while_loop`, for
    values whose types stay the same, and without results of each round."""
    mark = a.reader.mark()
    try:
        return _unrolled(a)
    except (_Unknown, TooLong):
        a.reader.undo(mark)
    return _while_loop(a)


class _Unknown(Exception):
    """Whether there is another round is not known, or there are too many."""


def _unrolled(a: Application) -> list[Entry]:
    body = a.attr("body")
    most = _trip_count(a)
    going = True if not a.has(1) else truth(a, 1)
    if going is None or (most is None and not a.has(1)):
        raise _Unknown
    carried: list[Entry] = list(a.inputs[2:])
    rounds: list[list[Entry]] = []
    in_place = InPlace(a.reader, body)
    if most is not None and most * in_place.size > a.reader.budget.unrolled:
        raise _Unknown
    while going and (most is None or len(rounds) < most):
        a.reader.budget.unroll(in_place.size)
        condition = a.constant_bool(True)
        again, *outputs = in_place.read([known(len(rounds)), condition, *carried])
        carried, rounds = outputs[: len(carried)], [*rounds, outputs[len(carried) :]]
        going = truth_of(again)
        if going is None:
            raise _Unknown
    scanned = len(a.node.output) - len(carried)
    if scanned and not rounds:
        raise _Unknown  # the types of the results are those of a round
    return [*carried, *[stacked(a, [outputs[i] for outputs in rounds], 0) for i in range(scanned)]]


def _trip_count(a: Application) -> int | None:
    """The greatest number of rounds; None if there is no bound.

    Raises:
        _Unknown: there is one, which is not known.
    """
    if not a.has(0):
        return None
    found = a.contents(0)
    if found is None or not found.is_static:
        raise _Unknown
    return int(found.flat[0])  # type: ignore[arg-type]


def _while_loop(a: Application) -> list[Entry]:
    """Carried are the number of the round, the condition and the values; invariant are the bound and what is captured.

    condition: number < bound and condition
    """
    body: onnx.GraphProto = a.attr("body")
    count = len(a.inputs) - 2
    if len(body.output) != 1 + count:
        raise Declined("a loop that collects results of each round, whose number is not known")
    start = [a.constant_of(0, DType.I64), a.get(1) or a.constant_bool(True), *[a[i] for i in range(2, len(a.inputs))]]
    start[1] = a.reshape(start[1], ())
    bound = a.reshape(a[0], ()) if a.has(0) else None
    types = [tensor_type(value) for value in start]
    captures = Captures()
    if bound is not None:
        captures.values[bound] = None
    step = Region(a.reader, body, "body", captures)
    outputs = step.read([types[0], *types[1:]])
    values = [tensor_of(step, entry) for entry in outputs]
    inner = step.reader.application()
    values[0] = inner.reshape(values[0], ())
    following = inner.emit("aten.add.Scalar", step.graph.inputs[0], 1)
    step.graph.set_outputs([following, *values])
    for name, before, after in zip(a.node.input[2:], types[2:], values[1:]):
        if not types_known_equal(before, after.type):
            raise Declined(f"a loop in which {name!r} goes from {before!r} to {after.type!r}")
    step.complete(len(start))
    condition = _condition(a, types, captures, bound)
    results = _control_flow(a, "higher_order.while_loop", [*start, *captures.values], [condition, step.graph])
    return results[2:]


def _condition(a: Application, types: Sequence[TensorType], captures: Captures, bound: Value | None) -> Graph:
    graph = Graph("condition")
    names = ["number", "going", *[f"carried_{i}" for i in range(len(types) - 2)]]
    number, going, *_ = [graph.add_input(name, type_) for name, type_ in zip(names, types)]
    captured = [graph.add_input(f"captured_{i}", value.type) for i, value in enumerate(captures.values)]
    if bound is not None:
        inner = a.reader.inside(graph, {}).application()
        limit = captured[list(captures.values).index(bound)]
        going = inner.emit("aten.logical_and", going, inner.emit("aten.lt.Tensor", number, limit))
    graph.set_outputs([going])
    return graph


@translates("Scan")
def scan(a: Application) -> list[Entry]:
    """Rounds in place, one for each of as many elements as are known."""
    if a.version < 9:
        return _scan_of_batches(a)
    body: onnx.GraphProto = a.attr("body")
    count = a.attr("num_scan_inputs")
    states, scanned = list(a.inputs[: len(a.inputs) - count]), list(a.inputs[len(a.inputs) - count :])
    axes, backwards = a.attr("scan_input_axes") or [0] * count, a.attr("scan_input_directions") or [0] * count
    values = [a.value(entry) for entry in scanned]
    states, rounds = _rounds(a, InPlace(a.reader, body), states, values, axes, backwards)
    results = len(a.node.output) - len(states)
    out_axes = a.attr("scan_output_axes") or [0] * results
    reverse = a.attr("scan_output_directions") or [0] * results
    collected = [
        stacked(a, [outputs[i] for outputs in (rounds[::-1] if reverse[i] else rounds)], out_axes[i])
        for i in range(results)
    ]
    return [*states, *collected]


def _scan_of_batches(a: Application) -> list[Entry]:
    """In opset 8, states and elements have the batch as their first dim: a scan for each entry of it, stacked."""
    if a.has(0):
        raise Declined("a Scan over batches of different lengths")
    count = a.attr("num_scan_inputs")
    values = [a[i] for i in range(1, len(a.inputs))]
    batch = tensor_type(values[-1]).shape[0]
    if not isinstance(batch, int) or not batch:
        raise Declined("a Scan over batches of a size that is not known, or zero")
    in_place, found = InPlace(a.reader, a.attr("body")), []
    for number in range(batch):
        entries = [a.emit("aten.select.int", value, 0, number) for value in values]
        states, scanned = entries[: len(entries) - count], entries[len(entries) - count :]
        last, rounds = _rounds(a, in_place, states, scanned, [0] * count, a.attr("directions") or [0] * count)
        found.append([*last, *[stacked(a, items, 0) for items in zip(*rounds)]])
    return [stacked(a, items, 0) for items in zip(*found)]


def _rounds(
    a: Application,
    body: InPlace,
    states: Sequence[Entry],
    scanned: Sequence[Value],
    axes: Sequence[int],
    backwards: Sequence[int],
) -> tuple[list[Entry], list[list[Entry]]]:
    """The final states, and what each round gives."""
    lengths = {tensor_type(value).shape[axis] for value, axis in zip(scanned, axes)}
    length = next(iter(lengths))
    if not isinstance(length, int) or len(lengths) > 1 or not length:
        raise Declined("a Scan over a length that is not known, or zero")
    a.reader.budget.unroll(length * body.size)
    states, rounds = list(states), []
    for number in range(length):
        places = [length - 1 - number if back else number for back in backwards]
        elements = [a.emit("aten.select.int", v, axis, place) for v, axis, place in zip(scanned, axes, places)]
        outputs = body.read([*states, *elements])
        states = outputs[: len(states)]
        rounds.append(outputs[len(states) :])
    return states, rounds


# What is common to them


def truth(a: Application, index: int) -> bool | None:
    """Whether an operand is true; None if it is not known before the model runs."""
    return truth_of(a.inputs[index])


def truth_of(entry: Entry) -> bool | None:
    """Whether an entry is true; None if it is not known before the model runs."""
    if isinstance(entry, Known) and entry.is_static:
        return bool(entry.flat[0])
    if isinstance(entry, Value) and entry.constant is not None and entry.constant.tensor.numel() == 1:
        return bool(entry.constant.tensor.item())
    return None


def stacked(a: Application, items: Sequence[Entry], axis: int) -> Value:
    """The results of all rounds as one tensor, along a new dim."""
    return a.emit("aten.stack", [a.value(item) for item in items], axis)


def tensor_of(region: Region, entry: Entry) -> Value:
    """An output of a region, which must be a tensor."""
    value = region.reader.as_value(entry)
    if value is None or not isinstance(value.type, TensorType):
        raise Declined("a branch or loop that returns something else than tensors")
    return value


def _control_flow(a: Application, name: str, operands: Sequence[Value], regions: Sequence[Graph]) -> list[Entry]:
    if any(tensor_type(value).dtype is DType.STRING for value in operands):
        raise Declined("a branch or loop that uses strings")
    op = registry.get(name)
    types = infer_types(op, operands, Attributes(), tuple(regions))
    return list(a.builder.append(op, operands, Attributes(), types, regions=tuple(regions)))
