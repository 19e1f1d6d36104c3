"""Models that the tests serve."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import graphopt
from graphopt.program import Program

ROWS = torch.export.Dim("rows", min=1, max=512)
LENGTH = torch.export.Dim("length", min=1, max=128)


class Pooled(nn.Module):
    """Embeds tokens; returns their mean where the mask is set, and each one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(50, 16)
        self.linear = nn.Linear(16, 8)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        each = self.linear(self.table(ids))
        weight = mask[..., None].to(each.dtype)
        return {"mean": (each * weight).sum(1) / weight.sum(1), "each": each}


def tokens(length: int, rows: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """A request to `Pooled`."""
    return torch.randint(0, 50, (rows, length)), torch.ones(rows, length, dtype=torch.long)


def pooled(target: str = "fx") -> tuple[Pooled, graphopt.CompiledModel]:
    model = Pooled().eval()
    shapes = {name: {0: ROWS, 1: LENGTH} for name in ("ids", "mask")}
    return model, graphopt.compile(model, tokens(5, 2), target=target, dynamic_shapes=shapes)


def linear(module: nn.Module | None = None) -> graphopt.CompiledModel:
    torch.manual_seed(0)
    made = nn.Linear(4, 3) if module is None else module
    return graphopt.compile(made.eval(), (torch.randn(2, 4),), target="fx", dynamic_shapes=({0: ROWS},))


class Poisoned(Program):
    """A program that fails on any batch with a NaN in it."""

    def run(self, flat: list[Any]) -> list[Any]:
        if any(x.isnan().any() for x in flat):
            raise ValueError("poison")
        return super().run(flat)


def poisoned(compiled: graphopt.CompiledModel) -> Poisoned:
    program = compiled._require("a test")
    return Poisoned(program.graph, program.report, program.engine_name, program.executable, program.module)
