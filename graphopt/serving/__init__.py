"""Dynamic batching: requests that come one by one run together, as far as that makes them faster.

A library object, not a network server: it takes calls from threads and from asyncio, and gives each its own rows.
"""

from __future__ import annotations

from graphopt.serving.server import Server
from graphopt.serving.statistics import ServingStatistics

__all__ = ["Server", "ServingStatistics"]
