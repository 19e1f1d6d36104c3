"""CUDA devices, and the host beside them, by `torch.cuda`. Nothing but driver calls stands here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any

import torch

from graphopt.backends.devices.driver import Function, Lane, Launch
from graphopt.targets import Device

_INT8_SINCE, _FP8_SINCE, _SPARSE_SINCE, _COMPILER_SINCE = (7, 5), (8, 9), (8, 0), (7, 0)
"""The compute capabilities from which on there are such kernels."""
_WARM_UPS = 3


class CudaDriver:
    """Devices of the kinds `cpu` and `cuda`. `gpu:1` is the CUDA device of number 1.

    On the CPU a lane is its thread, and marks are None.
    """

    def __init__(self, devices: Sequence[Device]) -> None:
        self._devices = {device.name: _torch_device(device) for device in devices}

    def where(self, device: str) -> str:
        """By kind and number."""
        return str(self._devices[device])

    def lane(self, device: str) -> Lane:
        """A stream."""
        where = self._devices[device]
        return Lane(device, torch.cuda.Stream(where) if where.type == "cuda" else None)

    def link(self, source: str, sink: str) -> Lane:
        """A stream of the sink, or of the source where the sink is the host."""
        return self.lane(source if self._devices[sink].type == "cpu" else sink)

    def on(self, lane: Lane) -> AbstractContextManager[Any]:
        """The current stream."""
        return nullcontext() if lane.native is None else torch.cuda.stream(lane.native)

    def record(self, lane: Lane) -> Any:
        """An event in the stream."""
        return None if lane.native is None else lane.native.record_event()

    def wait(self, lane: Lane, mark: Any) -> None:
        """Let the stream wait; the host's own thread waits by itself."""
        if mark is not None and lane.native is None:
            mark.synchronize()
        elif mark is not None:
            lane.native.wait_event(mark)

    def finish(self, lane: Lane) -> None:
        """Synchronize the stream."""
        if lane.native is not None:
            lane.native.synchronize()

    def store(self, tensor: torch.Tensor, device: str) -> torch.Tensor:
        """Move a weight."""
        return tensor.to(self._devices[device])

    def pinned(self, tensor: torch.Tensor) -> torch.Tensor:
        """Page-locked memory."""
        return tensor.pin_memory() if tensor.device.type == "cpu" else tensor

    def enter(self, tensor: torch.Tensor, device: str) -> torch.Tensor:
        """Nothing happens to a tensor of the caller's, but it must be complete."""
        if tensor.is_cuda:
            torch.cuda.current_stream(tensor.device).synchronize()
        return tensor

    def leave(self, tensor: torch.Tensor) -> torch.Tensor:
        """An ordinary tensor, that autograd takes."""
        return tensor.clone() if tensor.is_inference() else tensor

    def copy(self, tensor: torch.Tensor, device: str) -> torch.Tensor:
        """A transfer in the current stream. The allocator must not reuse the source before it is done."""
        where = self._devices[device]
        if where.type == "cpu" and tensor.is_cuda:
            moved = torch.empty_like(tensor, device=where, pin_memory=True).copy_(tensor, non_blocking=True)
        elif where.type == "cpu":
            moved = tensor
        else:
            moved = (tensor if tensor.is_cuda or tensor.is_pinned() else tensor.pin_memory()).to(
                where, non_blocking=True
            )
        for side in (tensor, moved):
            if side.is_cuda:
                side.record_stream(torch.cuda.current_stream(side.device))
        return moved

    def call(self, function: Function, given: list[Any], lane: Lane) -> list[Any]:
        """Launch in the lane's stream, for which the allocator keeps what is read."""
        if lane.native is not None:
            for tensor in given:
                if isinstance(tensor, torch.Tensor) and tensor.is_cuda:
                    tensor.record_stream(lane.native)
                del tensor
        return list(function(given))

    opaque = call

    def capture(self, function: Launch, lane: Lane) -> tuple[Callable[[], None], Sequence[torch.Tensor]]:
        """A CUDA graph of the launches, after warm-up runs that let libraries choose their kernels."""
        for _ in range(_WARM_UPS):
            function()
        lane.native.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=lane.native, capture_error_mode="thread_local"):
            results = function()
        return graph.replay, results

    def semi_structured(self, weight: torch.Tensor) -> torch.Tensor:
        """Compressed values and their positions."""
        return torch.sparse.to_sparse_semi_structured(weight)

    def has(self, kernel: str, device: str) -> bool:
        """By compute capability."""
        where = self._devices[device]
        if where.type != "cuda":
            return False
        capability = torch.cuda.get_device_capability(where)
        since = {"int8": _INT8_SINCE, "fp8": _FP8_SINCE, "semi-structured": _SPARSE_SINCE}
        if kernel == "inductor":
            return capability >= _COMPILER_SINCE and find_spec("triton") is not None
        return kernel == "graphs" or capability >= since[kernel]

    def peaks(self) -> dict[str, int]:
        """What the allocator counted."""
        found = {}
        for name, where in self._devices.items():
            if where.type == "cuda":
                found[name] = torch.cuda.max_memory_allocated(where)
                torch.cuda.reset_peak_memory_stats(where)
        return found


def _torch_device(device: Device) -> torch.device:
    index = device.name.partition(":")[2]
    return torch.device(f"cuda:{index or 0}" if device.kind == "cuda" else "cpu")
