"""Targets and engines, as data and protocols."""

from graphopt.targets.engine import Engine, Executable
from graphopt.targets.target import Target, get_target, target_names

__all__ = ["Engine", "Executable", "Target", "get_target", "target_names"]
