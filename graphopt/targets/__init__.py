"""Targets and engines, as data and protocols."""

from graphopt.targets.engine import Engine, Executable
from graphopt.targets.registry import engine_names, get_engine, register_engine
from graphopt.targets.target import Target, get_target, target_names

__all__ = [
    "Engine",
    "Executable",
    "Target",
    "engine_names",
    "get_engine",
    "get_target",
    "register_engine",
    "target_names",
]
