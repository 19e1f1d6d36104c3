"""Targets and engines, as data and protocols."""

from graphopt.targets.engine import Engine, Executable

__all__ = ["Engine", "Executable"]
