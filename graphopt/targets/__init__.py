"""Targets and engines, as data and protocols."""

from graphopt.targets.chip import Chip, get_chip
from graphopt.targets.device import Capability, Device, Link
from graphopt.targets.engine import Engine, Executable, Kernel, Neighbourly, ShowsKernels, Tunable
from graphopt.targets.names import get_target, require_devices, target_names
from graphopt.targets.registry import engine_names, get_engine, register_engine
from graphopt.targets.target import Target
from graphopt.targets.target_file import load_target

__all__ = [
    "Capability",
    "Chip",
    "Device",
    "Engine",
    "Executable",
    "Kernel",
    "ShowsKernels",
    "Link",
    "Neighbourly",
    "Target",
    "Tunable",
    "engine_names",
    "get_chip",
    "get_engine",
    "get_target",
    "load_target",
    "register_engine",
    "require_devices",
    "target_names",
]
