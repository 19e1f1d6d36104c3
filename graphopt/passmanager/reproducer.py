"""Reproducers: a file for a failure with the graph before the pass and the pass; its tensors lie beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from graphopt.errors import SerializationError
from graphopt.ir import Graph, walk
from graphopt.ir.printer import is_inline
from graphopt.ops import parse
from graphopt.passmanager.base import Pass
from graphopt.passmanager.pipeline_text import print_pipeline

PIPELINE = "// pipeline: "
ERROR = "// error: "
TITLE = "// graphopt reproducer; run it with: graphopt opt "
SAMPLE = re.compile(r"sample (\d+) input (\d+)")


@dataclass
class Reproducer:
    """A failure to run again: the graph, the pipeline's text, and sample inputs (None where an input is no tensor)."""

    graph: Graph
    pipeline: str
    samples: list[list[Any]]


def write_reproducer(
    folder: Path, graph: Graph, pass_: Pass, samples: Sequence[Sequence[Any]] = (), error: str = ""
) -> Path:
    """Write `NNN-pass.gir` with the graph's text and the pipeline, and `NNN-pass.safetensors` beside it.

    Raises:
        SerializationError: the folder cannot be written.
    """
    from safetensors.torch import save_file

    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = _free(folder, re.sub(r"[^A-Za-z0-9._-]", "_", pass_.name))
        lines = [f"{TITLE}{path.name}", f"{PIPELINE}{print_pipeline(pass_)}"]
        lines += [f"{ERROR}{line}" for line in error.splitlines()]
        tensors = _tensors(graph, samples)
        if tensors:
            save_file(tensors, path.with_suffix(".safetensors"))
        path.write_text("\n".join(lines) + f"\n{graph}\n")
    except OSError as problem:
        raise SerializationError(f"cannot write a reproducer to {folder}: {problem.strerror or problem}") from problem
    return path


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
    pipeline = next((line[len(PIPELINE) :] for line in text.splitlines() if line.startswith(PIPELINE)), "")
    samples: dict[int, dict[int, torch.Tensor]] = {}
    for name in list(tensors):
        match = SAMPLE.fullmatch(name)
        if match:
            samples.setdefault(int(match[1]), {})[int(match[2])] = tensors.pop(name)
    graph = parse(text, tensors)
    count = len(graph.inputs)
    return Reproducer(graph, pipeline, [[samples[n].get(i) for i in range(count)] for n in sorted(samples)])


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
