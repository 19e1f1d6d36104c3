"""Choosing engines: candidates are loaded, held to the original's numbers, and timed; for the whole graph, in several
settings, and for parts of it. The choice is kept by graph and machine."""

from graphopt.engine_choice.choice import AtFirstRun, Sample, choose_engine, require_available
from graphopt.engine_choice.plan import Plan, Prepare, load_plan
from graphopt.engine_choice.trials import EngineChoice, EngineTrial

__all__ = [
    "AtFirstRun",
    "EngineChoice",
    "EngineTrial",
    "Plan",
    "Prepare",
    "Sample",
    "choose_engine",
    "load_plan",
    "require_available",
]
