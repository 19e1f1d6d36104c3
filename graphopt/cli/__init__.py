"""The command line: argument parsing only, one module a command; the work is in `graphopt.commands`."""

from graphopt.cli.program import app, main

# Importing a module registers its command; the order is that of the help.
from graphopt.cli import compile, show, passes, bench, explain, attribute, diff, bisect, opt, report  # isort: skip

__all__ = [
    "app",
    "main",
    "attribute",
    "bench",
    "bisect",
    "compile",
    "diff",
    "explain",
    "opt",
    "passes",
    "report",
    "show",
]
