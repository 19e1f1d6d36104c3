"""Watching what runs on a simulated device, operator by operator."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch._ops import HigherOrderOperator
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from graphopt.backends.devices.clocks import Clock
from graphopt.backends.devices.driver import Function, PlacementError
from graphopt.backends.devices.ledger import Entry, Ledger

_thread = threading.local()


class Watching(TorchDispatchMode):
    """Holds each operator that runs in this thread to a device, and notes where its results are.

    clock: of the lane that runs. node: the node that runs, in words.
    """

    supports_higher_order_operators = True

    def __init__(self, ledger: Ledger, device: str, clock: Clock) -> None:
        super().__init__()
        self.ledger, self.device, self.clock = ledger, device, clock
        self.node = ""

    def __enter__(self) -> Watching:
        _thread.watching = self
        super().__enter__()
        return self

    @staticmethod
    def current() -> Watching:
        """What watches this thread."""
        found: Watching = _thread.watching
        return found

    @staticmethod
    @contextmanager
    def paused() -> Iterator[None]:
        """Let what a driver does by itself pass."""
        with _disable_current_modes():
            yield

    def check_read(self, tensor: torch.Tensor) -> Entry | None:
        """Hold a tensor to what the lane has waited for; return where it is.

        Raises:
            PlacementError: another lane writes it, and this one has not waited.
        """
        entry = self.ledger.find(tensor)
        if entry is not None and entry.writer is not None and not self.clock.sees(entry.writer):
            raise PlacementError(
                f"{self.node or 'a copy'} on {self.device} reads {_shown(tensor)}, which another queue writes, without "
                "waiting for it"
            )
        return entry

    def check(self, values: Any, operator: str) -> None:
        """Hold operands to the device.

        Raises:
            PlacementError: one of them is elsewhere, or not there yet.
        """
        for tensor in pytree.tree_leaves(values):
            if isinstance(tensor, torch.Tensor):
                entry = self.check_read(tensor)
                if entry is not None and entry.device != self.device and tensor.dim():
                    raise PlacementError(
                        f"{self.node or operator} runs on {self.device}, and its operand {_shown(tensor)} is on "
                        f"{entry.device} ({operator}); a graphopt.copy is missing"
                    )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.check((args, kwargs), str(func))
        nested = isinstance(func, HigherOrderOperator)
        result = self._run_regions(func, args) if nested else func(*args, **kwargs)
        for tensor in pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.ledger.enter(tensor, self.device, self.clock.stamp())
        self.ledger.measure(inside=True)
        return result

    def _run_regions(self, operator: HigherOrderOperator, args: Any) -> Any:
        """Run what control flow says, and watch it."""
        with self:
            if operator.name() == "cond":
                predicate, yes, no, operands = args
                return (yes if bool(predicate) else no)(*operands)
            go_on, body, carried, captured = args
            while bool(go_on(*carried, *captured)):
                carried = body(*carried, *captured)
            return tuple(carried)


class _NodeByNode(torch.fx.Interpreter):
    """Runs a module, and says which node runs."""

    def run_node(self, n: torch.fx.Node) -> Any:
        watching = Watching.current()
        where = n.meta.get("location")
        watching.node = f"%{n.name}" + (f" (from {where})" if where is not None else "")
        result = super().run_node(n)
        watching.ledger.measure()
        watching.node = ""
        return result


def watched_call(function: Function, given: list[Any]) -> list[Any]:
    """Run a function; of a module, one node after another."""
    if not isinstance(function, torch.fx.GraphModule):
        return list(function(given))
    interpreter = _NodeByNode(function)
    results: Sequence[Any] = interpreter.run(given, enable_io_processing=False)
    return list(results)


def _shown(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
