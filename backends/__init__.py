"""The backends: legalize a graph for a target, emit it, and load it.

The folder installs as ``graphopt.backends``. Imported by its folder name it would load a second copy of
every class, so that is refused.
"""

from __future__ import annotations

if __name__ == "backends":
    raise ImportError("import graphopt.backends, not backends: the folder name loads a second copy")
