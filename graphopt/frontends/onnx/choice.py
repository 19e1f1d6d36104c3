"""Branches of an If that give tensors of different rank, as PyTorch's `squeeze` of a size that is not known exports.

No type covers both, and what comes after is often valid for one of them alone (a recurrent layer takes three dims). So
the rest of the graph is read on trial after each branch. If the file is invalid after one, the other is taken; where
sizes at run time choose the branch that makes the file invalid, the reshape in the other fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from graphopt.errors import GraphOptError
from graphopt.frontends.onnx.application import Declined, NeedsValue
from graphopt.frontends.onnx.scopes import new_scope
from graphopt.ir import Value
from graphopt.ir.types import TensorType

if TYPE_CHECKING:
    import onnx

    from graphopt.frontends.onnx.reader import Reader

MOST = 16
"""How many choices are made on trial in one file."""


class RanksDiffer(Declined):
    """The branches of an If give tensors of different rank, and which is taken is not known."""


def same_ranks(one: Sequence[Value], other: Sequence[Value]) -> bool:
    """True if the outputs of two branches have the same ranks."""
    pairs = [(v.type, w.type) for v, w in zip(one, other)]
    return all(isinstance(t, TensorType) and isinstance(o, TensorType) and t.rank == o.rank for t, o in pairs)


def only_valid_branch(reader: Reader, protos: Sequence[onnx.NodeProto]) -> bool | None:
    """Return the value of the condition of an If, the first of `protos`, that alone leaves the rest valid.

    Return None if both do, or neither, or this is a trial itself.
    """
    if reader.on_trial or reader.budget.choices >= MOST:
        return None
    reader.budget.choices += 1
    valid = [guess for guess in (True, False) if _is_valid(reader, protos, guess)]
    return valid[0] if len(valid) == 1 else None


def _is_valid(reader: Reader, protos: Sequence[onnx.NodeProto], guess: bool) -> bool:
    """Read nodes on trial, and take back what was read."""
    mark, names, location = reader.mark(), reader.names, reader.builder.location
    reader.names, reader.on_trial = new_scope(names), True
    reader.guesses[key(protos[0])] = guess
    try:
        reader.nodes(protos)
    except GraphOptError as error:
        return _needs_value(error)  # what it is missing is no fault of the branch
    else:
        return True
    finally:
        reader.undo(mark)
        reader.names, reader.on_trial, reader.builder.location = names, False, location
        del reader.guesses[key(protos[0])]


def key(node: onnx.NodeProto) -> str:
    """What a node is known by: the first of its outputs that has a name."""
    for name in node.output:
        if name:
            return name
    return ""


def _needs_value(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, NeedsValue):
        error = error.__cause__
    return error is not None
