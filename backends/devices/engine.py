"""The engine that runs a graph on the devices of a target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from graphopt.analysis.placement import device_peaks, type_device
from graphopt.analysis.sizes import TypeSizes
from graphopt.backends.devices.cuda import CudaDriver
from graphopt.backends.devices.driver import Driver
from graphopt.backends.devices.executable import PlacedExecutable
from graphopt.backends.devices.pacing import paced
from graphopt.backends.devices.prepare import Prepared, prepared
from graphopt.backends.devices.simulated import SimulatedDriver
from graphopt.backends.devices.steps import Compute, Step, steps_of
from graphopt.backends.devices.stores import Store
from graphopt.backends.devices.whole import on_one_device
from graphopt.errors import TargetError
from graphopt.ir import Graph, walk
from graphopt.targets import Device, Target, require_devices


@dataclass
class DevicesEngine:
    """Runs graphs on several devices, or on one beside the host: what `partition` placed, where it placed it.

    A graph that is on no device of the target goes to its first one as a whole, with inputs and outputs on the host.

    target: describes the devices. simulate: let the CPU stand for all of them, with every placement checked.
    memory: bytes by device, in the place of what the target says. record: replay the launches of steps whose shapes are
    fixed, where a device can.
    """

    target: Target
    simulate: bool = False
    memory: Mapping[str, int] = field(default_factory=dict)
    record: bool = True
    driver: Driver | None = None
    name: str = "devices"

    def missing(self) -> str | None:
        """Return which device this machine lacks, or None."""
        if self.simulate or self.driver is not None:
            return None
        try:
            require_devices(self.target)
        except TargetError as error:
            return str(error)
        return None

    def unsupported(self, graph: Graph) -> str | None:
        """Return the first operator that nothing here runs, or None."""
        lacking = next((node for node in walk(graph) if node.op.evaluate is None and not node.regions), None)
        return None if lacking is None else f"{lacking.op.name} has no implementation (from {lacking.location})"

    def load(self, graph: Graph) -> PlacedExecutable:
        """Cut the graph into steps and load them.

        Raises:
            TargetError: a device has too little memory; says how much would do.
            EmissionError: an operator that an engine cannot express.
        """
        devices = {d.name: replace(d, memory=self.memory.get(d.name, d.memory)) for d in self.target.devices}
        graph, home = self._placed(graph, devices)
        driver = self.driver or (SimulatedDriver if self.simulate else CudaDriver)(tuple(devices.values()))
        sizes = TypeSizes()
        live = {name: size - _stored(graph, name) for name, size in device_peaks(graph, sizes).items()}
        names = {name: driver.where(name) for name in devices}
        steps = steps_of(graph, home, names, lambda name: _most(graph, devices[name], live.get(name, 0)))
        ready = {n: prepared(s.part, devices[s.device], driver) for n, s in enumerate(steps) if isinstance(s, Compute)}
        stores = {
            name: Store(driver, device, _of(name, steps, ready), _room(device, live.get(name, 0)))
            for name, device in devices.items()
            if any(isinstance(step, Compute) and step.device == name for step in steps)
        }
        slack = {name: _slack(graph, device, live.get(name, 0)) for name, device in devices.items()}
        record = self._recorded(graph, driver, steps, sizes, live, slack)
        return PlacedExecutable(graph, home, driver, steps, ready, stores, paced(steps, slack, sizes), record)

    def _recorded(
        self,
        graph: Graph,
        driver: Driver,
        steps: list[Step],
        sizes: TypeSizes,
        live: Mapping[str, int],
        slack: dict[str, int | None],
    ) -> frozenset[str]:
        """The devices that replay launches: that takes memory of its own for live values, and for inputs and outputs of
        steps, and what it takes is slack no longer."""
        found = set()
        for name, left in slack.items():
            if not self.record or graph.symbols() or not driver.has("graphs", name):
                continue
            own = [step for step in steps if isinstance(step, Compute) and step.device == name]
            taken = live.get(name, 0) + sum(sizes.bytes(v.type) for step in own for v in (*step.taken, *step.given))
            if left is None or taken <= left:
                found.add(name)
                slack[name] = None if left is None else left - taken
        return frozenset(found)

    def _placed(self, graph: Graph, devices: dict[str, Device]) -> tuple[Graph, str]:
        """The graph with every value on a device, and the device of inputs and outputs."""
        first = self.target.devices[0]
        found = {type_device(v.type) for v in (*graph.inputs, *graph.constants.values())}
        found |= {type_device(r.type) for node in graph for r in node.results}
        if found - {None} <= devices.keys():
            return graph, first.name
        host = Device("cpu", "cpu", peak={"f32": 1e9})
        devices["cpu"] = host
        return on_one_device(graph, first.name, host.name), host.name


def _of(device: str, steps: list[Step], ready: Mapping[int, Prepared]) -> dict[int, Prepared]:
    return {number: prepared_ for number, prepared_ in ready.items() if steps[number].device == device}


def _stored(graph: Graph, device: str) -> int:
    values = (v for v in graph.constants.values() if v.num_uses and type_device(v.type) == device)
    return sum(v.constant.tensor.nbytes for v in values if v.constant is not None)


def _room(device: Device, live: int) -> int | None:
    """The bytes for weights; only a device that may spill counts them."""
    return None if device.memory is None or not device.spill else device.memory - live


def _most(graph: Graph, device: Device, live: int) -> int | None:
    """The weights of a step: a quarter of the room, so that two steps fit and half is left for what stays."""
    room = _room(device, live)
    return None if room is None or _stored(graph, device.name) <= room else max(room // 4, 0)


def _slack(graph: Graph, device: Device, live: int) -> int | None:
    """What a device may hold beyond its peak. Where sizes are open, or weights fill what is left, that is nothing."""
    if device.memory is None:
        return None
    return 0 if device.spill or graph.symbols() else max(device.memory - live - _stored(graph, device.name), 0)
