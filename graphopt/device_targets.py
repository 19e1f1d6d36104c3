"""Targets of devices: what is compiled for several of them, or for one beside the host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from graphopt.passmanager import Pipeline, as_pipeline
from graphopt.targets import Device, Engine, Link, Target
from graphopt.targets.sheets import LINK_LATENCY, PCIE4

if TYPE_CHECKING:
    from graphopt.options import CompileOptions

HOST = Device("cpu", "cpu", peak={"f32": 1e10}, bandwidth=1e10)


def uses_devices(target: Target) -> bool:
    """Whether a model for the target runs on other devices than the CPU, or on several.

    >>> from graphopt.targets import get_target
    >>> uses_devices(get_target("tpu")), uses_devices(get_target("onnx"))
    (True, False)
    """
    return len(target.devices) > 1 or any(device.kind != "cpu" for device in target.devices)


def hosted(target: Target) -> Target:
    """Return the target with the host in front, from which inputs come and to which outputs go."""
    if len(target.devices) < 2 or target.devices[0].kind == "cpu":
        return target
    links = tuple(Link(HOST.name, device.name, PCIE4, LINK_LATENCY) for device in target.devices)
    return replace(target, devices=(HOST, *target.devices), links=(*target.links, *links))


def placing_passes(passes: Pipeline, target: Target, budget: Any) -> Pipeline:
    """Return the passes of `"default"` for a target of devices: half precision where a budget is given and a device
    has tensor cores, and the nodes split over the devices in the end."""
    from graphopt.passes.mixed_precision import MixedPrecision
    from graphopt.passes.partition import Partition

    added: list[Any] = []
    if budget is not None and any(d.kind == "cuda" and d.multiples.get("f16") for d in target.devices):
        added.append(MixedPrecision())
    target = hosted(target)
    if len(target.devices) > 1:
        roomy = tuple(replace(d, memory=None) if d.spill else d for d in target.devices)
        added.append(Partition(replace(target, devices=roomy)))
    return as_pipeline([*passes.leaves(), *added]) if added else passes


def device_engine(options: CompileOptions) -> Engine:
    """The engine that runs what was compiled for a target of devices."""
    from graphopt.backends.devices.engine import DevicesEngine

    return DevicesEngine(hosted(options.target), simulate=options.simulate, memory=_limits(options))


def _limits(options: CompileOptions) -> Mapping[str, int]:
    """What the passes hold the memory of devices to."""
    from graphopt.passes.partition import Partition

    found: dict[str, int] = {}
    for pass_ in options.passes.leaves():
        if isinstance(pass_, Partition):
            found.update(pass_.memory)
    return found
