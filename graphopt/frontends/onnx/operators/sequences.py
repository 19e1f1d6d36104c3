"""Sequences and optionals of known structure: they exist while the file is read, and no node is left of them."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.frontends.onnx.application import Application, Declined, tensor_type, translates
from graphopt.frontends.onnx.entries import Entry, Sequence_, known
from graphopt.frontends.onnx.scopes import InPlace
from graphopt.ir import OptionalType, Value
from graphopt.ops.onnx_dtypes import FROM_ONNX_CODE


@translates("SequenceConstruct")
def sequence_construct(a: Application) -> list[Entry]:
    """A sequence of the operands."""
    return [Sequence_(a.inputs)]


@translates("SequenceEmpty")
def sequence_empty(a: Application) -> list[Entry]:
    """A sequence without elements."""
    return [Sequence_((), FROM_ONNX_CODE[a.attr("dtype", 1)])]


@translates("SequenceLength")
def sequence_length(a: Application) -> Entry:
    """How many elements there are."""
    return known(len(_items(a, 0)))


@translates("SequenceAt")
def sequence_at(a: Application) -> list[Entry]:
    """One element."""
    items = _items(a, 0)
    return [items[_position(a, 1, len(items), len(items) - 1)]]


@translates("SequenceInsert")
def sequence_insert(a: Application) -> list[Entry]:
    """A sequence with one more element, at the end unless a position is given."""
    items = _items(a, 0)
    place = _position(a, 2, len(items), len(items)) if a.has(2) else len(items)
    return [Sequence_((*items[:place], a.inputs[1], *items[place:]))]


@translates("SequenceErase")
def sequence_erase(a: Application) -> list[Entry]:
    """A sequence without one element, the last unless a position is given."""
    items = _items(a, 0)
    place = _position(a, 1, len(items), len(items) - 1) if a.has(1) else len(items) - 1
    return [Sequence_((*items[:place], *items[place + 1 :]), _sequence(a, 0).dtype)]


@translates("SplitToSequence")
def split_to_sequence(a: Application) -> list[Entry]:
    """The parts of a tensor: of the given sizes, or of one size, or of 1, which is then no dim unless `keepdims`."""
    x = a[0]
    axis = a.attr("axis", 0) % tensor_type(x).rank
    total = tensor_type(x).shape[axis]
    if not isinstance(total, int):
        raise Declined("the number of the parts depends on a size that is not known before the model runs")
    if not a.has(1):
        parts = a.emit_all("aten.split_with_sizes", x, [1] * total, axis)
        return [
            Sequence_(parts if a.attr("keepdims", 1) else tuple([a.emit("aten.squeeze.dim", p, axis) for p in parts]))
        ]
    sizes = a.numbers(1)
    if a.type(1).rank == 0:
        size = int(sizes[0])
        sizes = [size] * (total // size) + ([total % size] if total % size else [])
    return [Sequence_(a.emit_all("aten.split_with_sizes", x, sizes, axis))]


@translates("ConcatFromSequence")
def concat_from_sequence(a: Application) -> Value:
    """The elements joined along a dim, or stacked along a new one."""
    items = a.sequence(0)
    if not items:
        raise Declined("the concatenation of no tensors")
    return a.emit("aten.stack" if a.attr("new_axis", 0) else "aten.cat", items, a.attr("axis"))


@translates("SequenceMap")
def sequence_map(a: Application) -> list[Entry]:
    """The body in place for each element; an operand that is a tensor is the same for all."""
    length, in_place = len(_items(a, 0)), InPlace(a.reader, a.attr("body"))
    a.reader.budget.unroll(length * in_place.size)
    rounds = [in_place.read([e.items[i] if isinstance(e, Sequence_) else e for e in a.inputs]) for i in range(length)]
    if not rounds:
        raise Declined("a map over no elements")
    return [Sequence_(tuple(items)) for items in zip(*rounds)]


@translates("Optional")
def optional(a: Application) -> list[Entry]:
    """What it holds; None if it holds nothing."""
    return [a.inputs[0] if a.has(0) else None]


@translates("OptionalHasElement")
def optional_has_element(a: Application) -> Entry:
    """True if there is something."""
    _require_known(a)
    return a.constant_bool(a.has(0))


@translates("OptionalGetElement")
def optional_get_element(a: Application) -> list[Entry]:
    """What there is."""
    _require_known(a)
    if not a.has(0):
        raise Declined("the element of an optional that is absent")
    return [a.inputs[0]]


def _require_known(a: Application) -> None:
    entry = a.inputs[0] if a.inputs else None
    if isinstance(entry, Value) and isinstance(entry.type, OptionalType):
        raise Declined("whether the optional holds something is not known before the model runs")


def _sequence(a: Application, index: int) -> Sequence_:
    entry = a.inputs[index]
    if not isinstance(entry, Sequence_):
        raise Declined(f"the length of the sequence {a.node.input[index]!r} is not known")
    return entry


def _items(a: Application, index: int) -> Sequence[Entry]:
    return _sequence(a, index).items


def _position(a: Application, index: int, count: int, most: int) -> int:
    """An index into a sequence of so many elements, counted from the end if it is negative; `most` is the last that
    there is."""
    place = int(a.numbers(index)[0])
    found = place + count if place < 0 else place
    if not 0 <= found <= most:
        raise Declined(f"position {place} of a sequence of {count} elements")
    return found
