"""What the manager watches while a pass runs: touched nodes, the caller's tensors, the graph's interface."""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from graphopt.ir import Graph, Node, TensorType, Type, Value, types_known_equal, verify, verify_nodes, walk
from graphopt.ir.storage import byte_view
from graphopt.ir.types import types_compatible
from graphopt.ops.traits import HOLDS_NUMBERS
from graphopt.rewrite import Listener

BACKUP_LIMIT = 1 << 30
"""Weights of at most this many bytes are copied before a validated run, so that overwriting them can be undone."""


class Touched(Listener):
    """Collects the nodes that a pass inserts or modifies."""

    def __init__(self) -> None:
        self.nodes: dict[Node, None] = {}
        self.removals = 0
        self._new: set[Node] = set()

    def inserted(self, node: Node) -> None:
        self.nodes[node] = None
        self._new.add(node)

    def modified(self, node: Node) -> None:
        self.nodes[node] = None

    def removed(self, node: Node) -> None:
        self.nodes.pop(node, None)
        # What the pass itself made does not count: a rule that declines late takes back what it built.
        if node in self._new:
            self._new.discard(node)
        else:
            self.removals += 1

    @property
    def any(self) -> bool:
        """True if anything was seen."""
        return bool(self.nodes) or self.removals > 0

    def described(self) -> str:
        """Name the first node, where it came from, and how many others there are."""
        if not self.nodes:
            return f"the graph: it removed {self.removals} nodes"
        first = next(iter(self.nodes))
        others = len(self.nodes) - 1
        return f"{first!r} (from {first.location})" + (f" and {others} other nodes" if others else "")


def verify_touched(graph: Graph, touched: Touched) -> None:
    """Verify the nodes that a pass touched; everything, if it touched nothing that a listener saw.

    Raises:
        VerificationError: see `graphopt.ir.verify`.
    """
    if not touched.any:
        verify(graph)
        return
    verify_nodes(graph, touched.nodes)
    inner = dict.fromkeys(n.graph for n in touched.nodes if n.graph is not None and n.graph is not graph)
    for region in inner:
        verify(region)


def interface_difference(before: Graph, after: Graph) -> str | None:
    """Return how the interface (inputs, outputs, what is mutated) changed, or None.

    A dim may be named otherwise, but one that was symbolic must not have become a number. A stored tensor that is
    written to may have become smaller, together with what is written.
    """
    if [(v.name, v.type) for v in before.inputs] != [(v.name, v.type) for v in after.inputs]:
        return f"the inputs were {_listed(before.inputs)} and are {_listed(after.inputs)}"
    if before.mutations != after.mutations:
        return f"the graph updated {before.mutations} and updates {after.mutations}"
    if len(before.returned) != len(after.returned):
        return f"the graph returned {len(before.returned)} values and returns {len(after.returned)}"
    for index, (old, new) in enumerate(zip(before.returned, after.returned)):
        target = before.mutations[index - len(before.outputs)] if index >= len(before.outputs) else None
        state = after.constants.get(target) if target is not None else None
        if not _stands_for(old.type if state is None else state.type, new.type):
            return f"output {index} (%{new.name}) was {old.type!r} and is {new.type!r}"
    return None


def _stands_for(old: Type, new: Type) -> bool:
    if types_known_equal(old, new):
        return True
    if not types_compatible(old, new):
        return False
    if isinstance(old, TensorType) and isinstance(new, TensorType):
        return not any(isinstance(b, int) and not isinstance(a, int) for a, b in zip(old.shape, new.shape))
    return True


def _listed(values: Iterable[Value]) -> str:
    return "(" + ", ".join(map(repr, values)) + ")"


class TensorGuard:
    """Notices when a tensor of the caller (a stored tensor or a sample) is written to, and puts it back.

    PyTorch counts writes to a tensor, so asking costs O(tensors). Writes that dodge the counter (through `.data` or
    NumPy) are found by `damaged`, which compares contents. Both restore from copies, where copies were taken.
    """

    def __init__(self, graph: Graph, samples: Iterable[Sequence[Any]], *, backup: bool) -> None:
        self._names: dict[int, str] = {}
        self._tensors: dict[int, torch.Tensor] = {}
        self._versions: dict[int, int] = {}
        self._copies: dict[int, torch.Tensor] = {}
        self.watch(graph)
        for sample in samples:
            for value, given in zip(graph.inputs, sample):
                if isinstance(given, torch.Tensor):
                    self._add(f"sample input {value.name}", given)
        if backup and sum(t.nbytes for t in self._tensors.values()) <= BACKUP_LIMIT:
            self._copies = {key: t.detach().clone() for key, t in self._tensors.items()}

    def watch(self, graph: Graph) -> None:
        """Watch the stored tensors of a graph that are not watched yet."""
        for value in _constants(graph):
            if value.constant is not None:
                self._add(value.name, value.constant.tensor)

    def _add(self, name: str, tensor: torch.Tensor) -> None:
        if id(tensor) not in self._tensors:
            self._names[id(tensor)] = name
            self._tensors[id(tensor)] = tensor
            self._versions[id(tensor)] = _version(tensor)

    def written(self) -> str | None:
        """Return which tensors were written to since the last question, and restore them; None if none was."""
        return self._restore([key for key, t in self._tensors.items() if _version(t) != self._versions[key]])

    def damaged(self) -> str | None:
        """Like `written`, by content. Reads every tensor that was copied."""
        return self._restore([k for k, copy in self._copies.items() if not _same(copy, self._tensors[k])])

    def _restore(self, keys: Sequence[int]) -> str | None:
        if not keys:
            return None
        lost = []
        for key in keys:
            tensor, copy = self._tensors[key], self._copies.get(key)
            if copy is None:
                lost.append(self._names[key])
            else:
                with torch.no_grad():
                    tensor.detach().copy_(copy)
            self._versions[key] = _version(tensor)
        names = ", ".join(repr(self._names[k]) for k in keys[:3]) + (" and others" if len(keys) > 3 else "")
        text = f"wrote to {names} in place"
        return f"{text}; the old values are lost, so load the weights again" if lost else text

    @property
    def recoverable(self) -> bool:
        """True if tensors can be put back."""
        return bool(self._copies) or not self._tensors


def _version(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    flat_a, flat_b = (byte_view(t.detach().contiguous()) for t in (a, b))
    return torch.equal(flat_a, flat_b)


def _constants(graph: Graph) -> Iterable[Value]:
    yield from graph.constants.values()
    for node in walk(graph):
        for region in node.regions:
            yield from region.constants.values()


def new_inexact_constants(before: Graph, after: Graph) -> bool:
    """True if `after` holds a number that was rounded when stored: a floating-point tensor that `before` does not
    store, or an attribute that comes of one; or if it holds one exactly that may have been rounded before."""
    return bool(_new_tensors(before, after) or _new_numbers(before, after) or _new_exact(before, after))


def rounded_values(before: Graph, after: Graph) -> dict[Value, float]:
    """The values of `after` that depend on a number that was rounded when stored, as `new_inexact_constants` finds
    them, with the ulp of that rounding. Costs O(nodes)."""
    tensors, numbers, exact = _new_tensors(before, after), _new_numbers(before, after), _new_exact(before, after)
    found = {value: torch.finfo(value.constant.tensor.dtype).eps for value in tensors if value.constant is not None}
    for node in after:
        unit = max([found.get(value, 0.0) for value in node.inputs], default=0.0)
        inner = [n for region in node.regions for n in walk(region)]
        if any(n.op.base in exact or not numbers.isdisjoint(_node_numbers(n)) for n in (node, *inner)):
            unit = max(unit, torch.finfo(torch.float32).eps)
        unit = max([unit, *(found.get(v, 0.0) for region in node.regions for v in region.constants.values())])
        if unit:
            found.update(dict.fromkeys(node.results, unit))
    return found


def _new_tensors(before: Graph, after: Graph) -> list[Value]:
    known = {id(v.constant.tensor) for v in _constants(before) if v.constant is not None}
    return [
        v
        for v in _constants(after)
        if v.constant is not None
        and id(v.constant.tensor) not in known
        and (v.constant.tensor.is_floating_point() or v.constant.tensor.is_complex())
    ]


def _new_numbers(before: Graph, after: Graph) -> set[float]:
    """Attributes that look rounded; none, if `before` holds them all."""
    rounded = {value for node in walk(after) for value in _node_numbers(node) if _looks_rounded(value)}
    return rounded - {value for node in walk(before) for value in _node_numbers(node)} if rounded else set()


def _new_exact(before: Graph, after: Graph) -> set[str]:
    """The operators that hold numbers exactly of which there are more than before."""
    counts = [Counter(n.op.base for n in walk(graph) if n.op.base in HOLDS_NUMBERS) for graph in (before, after)]
    return set(counts[1] - counts[0])


def _node_numbers(node: Node) -> list[float]:
    return [value for value in node.attributes.values() if type(value) is float]


def _looks_rounded(value: float) -> bool:
    """True for a number of more than 12 bits that f32 holds: as a rule it was read from an f32 tensor."""
    if not math.isfinite(value) or math.frexp(value)[0] * 2**12 % 1 == 0:
        return False
    try:
        return struct.unpack("f", struct.pack("f", value))[0] == value
    except OverflowError:
        return False
