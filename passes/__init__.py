"""The passes: one file a pass, each a rewrite of the graph under a declared numeric contract.

The folder installs as ``graphopt.passes``; importing it by its folder name would load a second copy of every class.
"""

from __future__ import annotations

if __name__ == "passes":
    raise ImportError("import graphopt.passes, not passes: the folder name would load a second copy of the package")
