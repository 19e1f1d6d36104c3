"""The backends: legalize a graph for a target, emit it, and load it.

The folder installs as ``graphopt.backends``; importing it by its folder name would load a second copy of every class.
"""

from __future__ import annotations

if __name__ == "backends":
    raise ImportError("import graphopt.backends, not backends: the folder name would load a second copy of the package")
