"""Shrinking a failure to a small graph that still fails (delta debugging).

    grow    start at the node that was rewritten; widen the neighbourhood until the failure is in it
    shrink  cut nodes off, drop outputs, put attributes to their defaults, halve sizes, round numbers

Each candidate is a graph with inputs of its own, recorded from a run of the larger one; it is verified, run, and kept
if it still fails in the same way.
"""

from graphopt.passmanager.shrink.case import Case
from graphopt.passmanager.shrink.search import Fails, Shrunk, shrink

__all__ = ["Case", "Fails", "Shrunk", "shrink"]
