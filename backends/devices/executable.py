"""Running the steps of a placed graph: a thread for each device and each link, so that they overlap."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from graphopt.analysis import bind_sizes
from graphopt.analysis.bindings import bind_fresh
from graphopt.backends.devices.driver import Driver
from graphopt.backends.devices.prepare import Prepared, Stored
from graphopt.backends.devices.queues import Event, Failure, Queue
from graphopt.backends.devices.recorded import Recorded
from graphopt.backends.devices.steps import Compute, Step, Transfer
from graphopt.backends.devices.stores import Store
from graphopt.ir import Graph, Value


class PlacedExecutable:
    """A placed graph, loaded. Runs are one after another; within a run devices and links overlap.

    Values are freed at their last use. The buffers that the graph updates live on the first device, from run to run.
    """

    def __init__(
        self,
        graph: Graph,
        home: str,
        driver: Driver,
        steps: Sequence[Step],
        functions: Mapping[int, Prepared],
        stores: Mapping[str, Store],
        pace: Sequence[tuple[int, ...]],
        record: frozenset[str],
    ) -> None:
        self.graph, self.home, self.driver, self.steps = graph, home, driver, steps
        self._functions, self._stores = functions, stores
        self._queues: dict[tuple[str, str], Queue] = {}
        self._fetching = {d: Queue(driver, driver.link(home, d), f"weights of {d}") for d in stores}
        self._by_step = [self._queue(step) for step in steps]
        self._waits = _dependencies(steps, pace)
        self._windows = _windows(steps, stores)
        self._readers = _readers(graph, steps)
        self._recorded = self._record(record)
        self._lock = threading.Lock()
        self.state = {
            name: driver.store(_tensor(graph.constants[name]), home)
            for name in graph.mutations
            if name in graph.constants
        }
        self._returned_constants = {v: driver.store(_tensor(v), home) for v in graph.returned if _is_plain(v, graph)}

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """Run on flat inputs in graph order; return the flat outputs. A mutated input is written to in place.

        Raises:
            PlacementError: on simulated devices, an operator on another device than its operands.
        """
        with self._lock, torch.no_grad():
            run = _Run(self, inputs)
            run.start()
            return run.finish()

    def _queue(self, step: Step) -> Queue:
        key = (step.source, step.device) if isinstance(step, Transfer) else (step.device, "")
        if key not in self._queues:
            link = isinstance(step, Transfer)
            lane = self.driver.link(*key) if link else self.driver.lane(key[0])
            self._queues[key] = Queue(self.driver, lane, " to ".join(filter(None, key)))
        return self._queues[key]

    def _record(self, devices: frozenset[str]) -> dict[int, Recorded]:
        found = {}
        for number, prepared in self._functions.items():
            device = self.steps[number].device
            if prepared.static and device in devices:
                stored = self._stores[device].tensors(prepared.stored, {})
                found[number] = Recorded(self.driver, prepared.function, self._by_step[number].lane, stored)
        return found


class _Run:
    """One run. values: what is alive, with how many steps are still to read it."""

    def __init__(self, owner: PlacedExecutable, inputs: Sequence[Any]) -> None:
        graph, driver = owner.graph, owner.driver
        self.owner, self.inputs, self.failure = owner, inputs, Failure()
        self.sizes = bind_sizes(graph.inputs, inputs)
        self.values: dict[Value, Any] = dict(owner._returned_constants)
        for value, given in zip(graph.inputs, inputs):
            if value.num_uses:
                self.values[value] = driver.enter(given, owner.home) if isinstance(given, torch.Tensor) else given
        for name, tensor in owner.state.items():
            self.values[graph.constants[name]] = tensor
        self.left = dict(owner._readers)
        self.brought: dict[int, dict[Stored, torch.Tensor]] = {}
        self.events: list[Event] = []
        self._lock = threading.Lock()

    def start(self) -> None:
        """Give every step to its queue."""
        owner = self.owner
        for number, step in enumerate(owner.steps):
            waits = [self.events[i] for i in owner._waits[number]]
            before = owner._windows.get(number)
            if before is not None:
                behind = [] if before < 0 else [self.events[before]]
                waits.append(self._submit(owner._fetching[step.device], partial(self._bring, number, step), behind))
            work: Callable[[], None]
            if isinstance(step, Transfer):
                work = partial(self._copy, number, step)
            else:
                work = partial(self._compute, number, step)
            self.events.append(self._submit(owner._by_step[number], work, waits))

    def finish(self) -> list[Any]:
        """Wait for all steps; return the outputs, and write back what the graph updates.

        Raises:
            Exception: what a step raised.
        """
        owner, graph = self.owner, self.owner.graph
        for event in self.events:
            event.reach()
        for queue in owner._queues.values():
            owner.driver.finish(queue.lane)
        if self.failure.error is not None:
            raise self.failure.error
        outputs = [self.values[value] for value in graph.returned]
        for name, new in zip(graph.mutations, outputs[len(graph.outputs) :]):
            if name in owner.state:
                owner.state[name] = owner.driver.store(new, owner.home)
            else:
                index = next(i for i, value in enumerate(graph.inputs) if value.name == name)
                self.inputs[index].copy_(new)
        return [owner.driver.leave(v) if isinstance(v, torch.Tensor) else v for v in outputs[: len(graph.outputs)]]

    def _submit(self, queue: Queue, work: Callable[[], None], waits: Sequence[Event]) -> Event:
        return queue.submit(work, waits, self.failure)

    def _bring(self, number: int, step: Step) -> None:
        self.brought[number] = self.owner._stores[step.device].bring(number)

    def _copy(self, number: int, step: Transfer) -> None:
        self._keep(step.given, self.owner.driver.copy(self._take(step.taken), step.device))

    def _compute(self, number: int, step: Compute) -> None:
        owner = self.owner
        prepared, lane = owner._functions[number], owner._by_step[number].lane
        given = [self._take(value) for value in step.taken] + [self.sizes[s.name] for s in step.symbols]
        if number in owner._recorded:
            results = owner._recorded[number](given)
        else:
            given += owner._stores[step.device].tensors(prepared.stored, self.brought.pop(number, {}))
            call = owner.driver.opaque if prepared.opaque else owner.driver.call
            results = call(prepared.function, given, lane)
        for value, result in zip(step.given, results):
            bind_fresh(self.sizes, value.type, result)
            self._keep(value, result)

    def _take(self, value: Value) -> Any:
        """A value that a step reads; the last one takes it away."""
        with self._lock:
            self.left[value] -= 1
            return self.values[value] if self.left[value] else self.values.pop(value)

    def _keep(self, value: Value, result: Any) -> None:
        with self._lock:
            if self.left.get(value):
                self.values[value] = result


def _readers(graph: Graph, steps: Sequence[Step]) -> dict[Value, int]:
    """How many steps read each value; being returned is one more."""
    found: dict[Value, int] = {}
    for step in steps:
        for value in (step.taken,) if isinstance(step, Transfer) else step.taken:
            found[value] = found.get(value, 0) + 1
    for value in dict.fromkeys(graph.returned):
        found[value] = found.get(value, 0) + 1
    return found


def _dependencies(steps: Sequence[Step], pace: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The steps that each one waits for: those that make what it reads, and those that it is paced by."""
    maker: dict[Value, int] = {}
    shows: dict[str, int] = {}
    found = []
    for number, step in enumerate(steps):
        taken = (step.taken,) if isinstance(step, Transfer) else step.taken
        needed = {maker[value] for value in taken if value in maker}
        if isinstance(step, Compute):
            needed |= {shows[symbol.name] for symbol in step.symbols if symbol.name in shows}
        found.append(tuple(sorted(needed | set(pace[number]))))
        for value in (step.given,) if isinstance(step, Transfer) else step.given:
            maker[value] = number
            for symbol in getattr(value.type, "symbols", ()):
                shows.setdefault(symbol.name, number)
    return found


def _windows(steps: Sequence[Step], stores: Mapping[str, Store]) -> dict[int, int]:
    """For each step whose weights are brought: the step behind which there is room for them, -1 for none.

    That is the last but one of those on its device, so that weights come while one step runs.
    """
    found: dict[int, int] = {}
    for device, store in stores.items():
        own = [n for n, step in enumerate(steps) if isinstance(step, Compute) and step.device == device]
        for position, number in enumerate(own):
            if number in store.streamed:
                found[number] = own[position - 2] if position >= 2 else -1
    return found


def _tensor(value: Value) -> torch.Tensor:
    assert value.constant is not None
    return value.constant.tensor.detach()


def _is_plain(value: Value, graph: Graph) -> bool:
    """Whether a value is a stored tensor that the graph does not update."""
    return value.constant is not None and value.name not in graph.mutations
