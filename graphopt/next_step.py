"""The command that a person should run next after a pass has failed, taken from the one that ran now."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

VARIABLE = "GRAPHOPT_ON_ERROR=bisect"
CALL = 'graphopt.compile(..., on_error="bisect")'
OTHERS = ("--output", "-o", "--opset", "--dump", "--report")
"""Options of `graphopt compile`, with a value, that `graphopt bisect` does not take."""
FLAGS = ("--strict", "--print-changes", "--validate", "--no-validate", "--measure", "--progress", "--no-progress")


def next_step(argv: Sequence[str] | None = None) -> str:
    """Return the sentence that names the command.

    argv: the command line of this process, the interpreter included.

    >>> next_step(["/usr/bin/python", "/usr/bin/graphopt", "compile", "net.py:build", "-o", "net.onnx", "-t", "fx"])
    'for the smallest graph that fails: graphopt bisect net.py:build -t fx'
    >>> next_step(["python", "train.py", "--epochs", "3"])
    'for the smallest graph that fails: GRAPHOPT_ON_ERROR=bisect python train.py --epochs 3'
    >>> next_step(["python"])
    'for the smallest graph that fails: graphopt.compile(..., on_error="bisect")'
    """
    words = list(sys.orig_argv if argv is None else argv)
    return f"for the smallest graph that fails: {_command(words)}"


def _command(words: list[str]) -> str:
    arguments = _graphopt_arguments(words)
    if arguments[:1] == ["compile"]:
        return shlex.join(["graphopt", "bisect", *_kept(arguments[1:])])
    program = Path(words[1]) if len(words) > 1 else None
    if program is not None and program.suffix == ".py" and not program.name.startswith("ipykernel"):
        return f"{VARIABLE} {shlex.join([Path(words[0]).name, *words[1:]])}"
    return CALL


def _graphopt_arguments(words: Sequence[str]) -> list[str]:
    """What follows the name of the program, if that is `graphopt` or `python -m graphopt`."""
    for index, word in enumerate(words[:3]):
        if Path(word).name == "graphopt" or (word == "graphopt" and words[index - 1] == "-m"):
            return list(words[index + 1 :])
    return []


def _kept(arguments: Sequence[str]) -> list[str]:
    kept: list[str] = []
    words = iter(arguments)
    for word in words:
        name = word.partition("=")[0]
        if name in OTHERS:
            if name == word:
                next(words, None)
        elif name not in FLAGS:
            kept.append(word)
    return kept
