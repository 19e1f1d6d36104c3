"""Memory of a run as PyTorch's CPU allocator counts it: an oracle that knows nothing of liveness or of views.

Two peaks: of what is there when a node has ended, operands and results; and with what kernels take and give back
meanwhile, such as weights in another layout.

The profiler records every allocation and every free, with address and size. Each allocation belongs to the device of
the node in whose kernel it happens; a free gives it back there, whenever that is. What was there before the run is
added: weights on their devices, inputs until the last kernel that is seen to get a tensor in their storage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile, record_function

from graphopt.analysis import Interpreter
from graphopt.analysis.placement import node_device, type_device
from graphopt.ir import Graph, Node

PREFIX = "device "


class _Marked(Interpreter):
    """Marks the kernel of each node with its device, and notes which kernel gets a storage last."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.calls = 0
        self.last: dict[int, int] = {}

    def _call(self, node: Node, kernel: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
        for tensor in _tensors([*args, *kwargs.values()]):
            self.last[tensor.untyped_storage().data_ptr()] = self.calls
        self.calls += 1
        with record_function(f"{PREFIX}{node_device(node) or 'cpu'}"):
            return kernel(*args, **kwargs)


def _tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def allocator_peaks(graph: Graph, inputs: Sequence[Any]) -> tuple[dict[str, int], dict[str, int]]:
    """The most bytes on each device in a run on flat inputs: at the ends of nodes, and ever."""
    interpreter = _Marked(graph)
    outputs = interpreter.run(*inputs)  # what is made at the first run only
    kept = {tensor.untyped_storage().data_ptr() for tensor in _tensors(outputs)}
    del outputs
    now, ends = _before(graph, inputs, interpreter, kept)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, record_shapes=True) as profiler:
        interpreter.run(*inputs)
    at_ends, ever, calls = dict(now), dict(now), 0
    held: dict[int, tuple[str, int]] = {}
    assert profiler.profiler is not None
    tree = profiler.profiler.kineto_results.experimental_event_tree()
    for _, device, address, size in sorted(_allocations(tree, "cpu")):
        if not size:  # the end of a node
            at_ends = {place: max(at_ends.get(place, 0), count) for place, count in now.items()}
            for place, given in ends.get(calls, ()):
                now[place] -= given
            calls += 1
        elif size > 0:
            held[address] = device, size
            now[device] = now.get(device, 0) + size
            ever[device] = max(ever.get(device, 0), now[device])
        elif address in held:
            place, given = held.pop(address)
            now[place] -= given
    return at_ends, ever


def _allocations(events: Any, device: str) -> Iterator[tuple[int, str, int, int]]:
    """Time, device, address and size (negative for a free) of what happens in some events; without a size, the end of
    a node."""
    for event in events:
        marked = event.name.startswith(PREFIX)
        inner = event.name[len(PREFIX) :] if marked else device
        if event.tag == _EventType.Allocation:
            yield event.start_time_ns, inner, event.extra_fields.ptr, event.extra_fields.alloc_size
        yield from _allocations(event.children, inner)
        if marked:
            yield event.end_time_ns, inner, 0, 0


def _before(
    graph: Graph, inputs: Sequence[Any], interpreter: _Marked, kept: set[int]
) -> tuple[dict[str, int], dict[int, list[tuple[str, int]]]]:
    """Bytes by device before the run, and which inputs end after which kernel."""
    now: dict[str, int] = {}
    ends: dict[int, list[tuple[str, int]]] = {}
    for value in graph.constants.values():
        if value.num_uses and value.constant is not None:
            device = type_device(value.type) or "cpu"
            now[device] = now.get(device, 0) + value.constant.tensor.nbytes
    for value, tensor in zip(graph.inputs, inputs):
        if isinstance(tensor, torch.Tensor) and value.num_uses:
            device, address = type_device(value.type) or "cpu", tensor.untyped_storage().data_ptr()
            now[device] = now.get(device, 0) + tensor.nbytes
            if address in interpreter.last and address not in kept:
                ends.setdefault(interpreter.last[address], []).append((device, tensor.nbytes))
    return now, ends
