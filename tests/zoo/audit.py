"""What torch.export makes of each model: node counts, and whether the exported program computes the same."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from tests.zoo.model import BATCH, LENGTH, Inputs, ZooModel, seeded


@dataclass(frozen=True)
class Export:
    """The outcome of one export."""

    nodes: int = 0
    seconds: float = 0.0
    error: str = ""

    def __str__(self) -> str:
        return self.error or f"{self.nodes}"


@dataclass(frozen=True)
class Row:
    """The outcome for one model."""

    name: str
    parameters: int
    static: Export
    dynamic: Export | None


def call(module: torch.nn.Module, inputs: Inputs) -> list[Any]:
    """The leaves of the result, the arguments copied first since some models change them."""
    args, kwargs = copy.deepcopy(inputs)
    with torch.no_grad(), seeded():
        return pytree.tree_leaves(module(*args, **kwargs))


def other_sizes(entry: ZooModel) -> list[Inputs]:
    """Inputs at two sizes other than the one that was exported, within the declared ranges."""
    low, _ = entry.ranges.get(BATCH, (1, 0))
    length = None
    if LENGTH in entry.dynamic_dims:
        length = entry.length + 5 * entry.steps.get(LENGTH, 1)
    return [entry.inputs(3, length, seed=2), entry.inputs(low, seed=3)]


def export(entry: ZooModel, dynamic: bool) -> Export:
    """Export, then compare with eager PyTorch, at two other sizes if dynamic."""
    start = time.perf_counter()
    try:
        program = entry.export(dynamic=dynamic)
        seconds = time.perf_counter() - start
        for inputs in other_sizes(entry) if dynamic else [entry.inputs(seed=1)]:
            # A fresh export for each comparison where calls change the model's buffers.
            module = (entry.export(dynamic=dynamic) if "mutates" in entry.tags else program).module()
            torch.testing.assert_close(call(module, inputs), call(entry.build(), inputs), rtol=1e-3, atol=1e-4)
    except Exception as error:
        text = " ".join(str(error).split())
        return Export(error=f"{type(error).__name__}: {text[:200]}")
    return Export(sum(node.op == "call_function" for node in program.graph.nodes), seconds)


def audit(entry: ZooModel) -> Row:
    """Static and, where declared, dynamic export of one model."""
    parameters = sum(parameter.numel() for parameter in entry.build().parameters())
    dynamic = None if entry.dynamic is None else export(entry, dynamic=True)
    return Row(entry.name, parameters, export(entry, dynamic=False), dynamic)
