"""The passes: one file a pass, each a rewrite of the graph under a declared numeric contract.

The folder installs as ``graphopt.passes``. Imported by its folder name it would load a second copy of
every class, so that is refused.
"""

from __future__ import annotations

if __name__ == "passes":
    raise ImportError("import graphopt.passes, not passes: the folder name loads a second copy")
