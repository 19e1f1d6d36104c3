"""Reproducers: a file for a failure with the graph before the pass and the pass; its tensors lie beside it.

    // graphopt reproducer; run it with: graphopt opt 001-drop-bias.gir --plugin rules.py
    // pipeline: drop-bias
    // target: onnxruntime
    // error: pass 'drop-bias' promises to be reassociating, but output 0: …
    input %x: f32[1, 2]
    …

Small tensors are part of the text. Larger ones and the sample inputs are in `001-drop-bias.safetensors`; without sample
inputs, they are made up.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from graphopt.errors import SerializationError
from graphopt.ir import Graph, walk
from graphopt.ir.files import atomic_write
from graphopt.ir.printer import is_inline
from graphopt.ops import parse
from graphopt.passmanager.base import Pass
from graphopt.passmanager.budget import Budget
from graphopt.passmanager.origin import plugins_of
from graphopt.passmanager.pipeline_text import print_pipeline

TITLE = "// graphopt reproducer; run it with: "
HEADER = re.compile(r"// (pipeline|target|trainable|properties|budget|error): (.*)")
SAMPLE = re.compile(r"sample (\d+) input (\d+)")


@dataclass(frozen=True)
class Recipe:
    """What is run on the graph of a reproducer, and for what."""

    pass_: Pass
    target: str = ""
    trainable: bool = False
    budget: Budget | None = None
    properties: frozenset[str] = frozenset()


@dataclass
class Reproducer:
    """A failure to run again: the graph, the pipeline's text, and sample inputs (None where an input is no tensor).

    target: empty where the file names none. error: what was wrong.
    """

    graph: Graph
    pipeline: str
    samples: list[list[Any]]
    target: str = ""
    trainable: bool = False
    budget: Budget | None = None
    properties: frozenset[str] = field(default_factory=frozenset)
    error: str = ""


def opt_command(path: str | os.PathLike[str], pass_: Pass) -> str:
    """The command that runs a reproducer again."""
    plugins, hidden = plugins_of(pass_)
    words = ["graphopt", "opt", str(path), *(word for plugin in plugins for word in ("--plugin", plugin))]
    command = shlex.join(words)
    if not hidden:
        return command
    names = ", ".join(map(repr, hidden))
    return f"{command}  (but {names} must be at the top level of a file first, and the file be named by --plugin)"


def write_reproducer(
    folder: Path, graph: Graph, recipe: Recipe | Pass, samples: Sequence[Sequence[Any]] = (), error: str = ""
) -> Path:
    """Write `NNN-pass.gir` with the graph's text and the pipeline, and `NNN-pass.safetensors` beside it.

    Each file appears only once it is whole.

    Raises:
        SerializationError: the folder cannot be written.
    """
    from safetensors.torch import save

    recipe = Recipe(recipe) if isinstance(recipe, Pass) else recipe
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = _free(folder, re.sub(r"[^A-Za-z0-9._-]", "_", recipe.pass_.name))
        lines = [f"{TITLE}{opt_command(path.name, recipe.pass_)}", *_header(recipe, error)]
        tensors = _tensors(graph, samples)
        if tensors:
            with atomic_write(path.with_suffix(".safetensors")) as file:
                file.write(save(tensors))
        with atomic_write(path) as file:
            file.write(("\n".join(lines) + f"\n{graph}\n").encode())
    except OSError as problem:
        raise SerializationError(f"cannot write a reproducer to {folder}: {problem.strerror or problem}") from problem
    return path


def _header(recipe: Recipe, error: str) -> list[str]:
    facts = [("pipeline", print_pipeline(recipe.pass_))]
    if recipe.target:
        facts.append(("target", recipe.target))
    if recipe.trainable:
        facts.append(("trainable", "true"))
    if recipe.properties:
        facts.append(("properties", ", ".join(sorted(recipe.properties))))
    if recipe.budget is not None:
        given = ((name, bound) for name, bound in asdict(recipe.budget).items() if bound is not None)
        facts.append(("budget", ", ".join(f"{name}={bound!r}" for name, bound in given)))
    facts += [("error", line) for line in error.splitlines()]
    return [f"// {name}: {value}" for name, value in facts]


def read_reproducer(path: str | Path) -> Reproducer:
    """Read a reproducer.

    Raises:
        SerializationError: the file or its weights cannot be read.
        ParseError: text that does not parse.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    try:
        text = path.read_text()
        weights = path.with_suffix(".safetensors")
        tensors = load_file(weights) if weights.exists() else {}
    except (OSError, SafetensorError, UnicodeDecodeError) as problem:
        raise SerializationError(f"cannot read the reproducer {path}: {problem}") from problem
    samples: dict[int, dict[int, torch.Tensor]] = {}
    for name in list(tensors):
        match = SAMPLE.fullmatch(name)
        if match:
            samples.setdefault(int(match[1]), {})[int(match[2])] = tensors.pop(name)
    facts: dict[str, list[str]] = {}
    for line in text.splitlines():
        if found := HEADER.fullmatch(line):
            facts.setdefault(found[1], []).append(found[2])
    graph = parse(text, tensors)
    count = len(graph.inputs)
    given = [[samples[n].get(i) for i in range(count)] for n in sorted(samples)]
    return _reproducer(graph, given, {name: "\n".join(lines) for name, lines in facts.items()}, path)


def _reproducer(graph: Graph, samples: list[list[Any]], facts: Mapping[str, str], path: Path) -> Reproducer:
    properties = frozenset(name for name in facts.get("properties", "").split(", ") if name)
    return Reproducer(
        graph,
        facts.get("pipeline", ""),
        samples,
        facts.get("target", ""),
        facts.get("trainable") == "true",
        _budget(facts["budget"], path) if "budget" in facts else None,
        properties,
        facts.get("error", ""),
    )


def _budget(text: str, path: Path) -> Budget:
    try:
        bounds = (part.split("=") for part in text.split(", "))
        return Budget(**{name: float(bound) for name, bound in bounds})
    except (TypeError, ValueError) as problem:
        raise SerializationError(f"cannot read the budget {text!r} in {path}: {problem}") from problem


def _free(folder: Path, stem: str) -> Path:
    number = 1
    while (folder / f"{number:03}-{stem}.gir").exists():
        number += 1
    return folder / f"{number:03}-{stem}.gir"


def _tensors(graph: Graph, samples: Sequence[Sequence[Any]]) -> dict[str, torch.Tensor]:
    graphs = [graph, *(region for node in walk(graph) for region in node.regions)]
    found = {
        name: _own(value.constant.tensor)
        for g in graphs
        for name, value in g.constants.items()
        if value.constant is not None and not is_inline(value.constant)
    }
    for number, sample in enumerate(samples):
        for index, given in enumerate(sample):
            if isinstance(given, torch.Tensor):
                found[f"sample {number} input {index}"] = _own(given)
    return found


def _own(tensor: torch.Tensor) -> torch.Tensor:
    """A copy: safetensors refuses tensors that share storage."""
    return tensor.detach().cpu().contiguous().clone()
