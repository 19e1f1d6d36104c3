"""Tiny modules, one for each family of operators and each topology that pruning has to get right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

FAMILIES: dict[str, Family] = {}


@dataclass(frozen=True)
class Family:
    """A module and its arguments. groups: how many groups the analysis is to find."""

    make: Callable[[], nn.Module]
    arguments: Callable[[], tuple[Tensor, ...]]
    groups: int


def family(groups: int, *shape: int, ids: bool = False) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Register a module under its name; it takes one tensor of that shape."""

    def register(module: type[nn.Module]) -> type[nn.Module]:
        make_argument = (lambda: torch.randint(0, 9, shape)) if ids else (lambda: torch.randn(shape))
        FAMILIES[module.__name__] = Family(module, lambda: (make_argument(),), groups)
        return module

    return register


class Layers(nn.Module):
    """Submodules by keyword, and a forward that is given by the subclass."""

    def __init__(self, **layers: Any) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
