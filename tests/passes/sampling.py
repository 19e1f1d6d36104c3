"""Sample inputs for a graph, with the values that break careless rewrites."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graphopt.ir import DType, Graph, ScalarType, TensorType, Value
from graphopt.ir.dims import evaluate

SPECIAL = (float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 1e-40, -1e-40, 0.5, -0.5, 3.0, 6.5, 1e30, -1e30)
SIZES = ((3, 4, 5, 7, 2), (1, 2, 6, 3, 5))


def bindings(graph: Graph, sizes: Sequence[int]) -> dict[str, int]:
    """A size for each symbol of the inputs, in its range."""
    found = {}
    for index, symbol in enumerate(graph.symbols()):
        size = max(sizes[index % len(sizes)], symbol.min) * symbol.multiple_of
        found[symbol.name] = size if symbol.max is None else min(size, symbol.max)
    return found


def sample_inputs(graph: Graph, seed: int, *, special: bool, sizes: Sequence[int] = SIZES[0]) -> list[Any]:
    """One value for each input; `special` adds NaN, infinities, both zeros and denormals."""
    generator = torch.Generator().manual_seed(seed)
    bound = bindings(graph, sizes)
    return [sample(value, bound, generator, special) for value in graph.inputs]


def sample(value: Value, bound: dict[str, int], generator: torch.Generator, special: bool) -> Any:
    if isinstance(value.type, ScalarType):
        return evaluate(value.type.value, bound) if value.type.value is not None else 3
    assert isinstance(value.type, TensorType)
    shape = [evaluate(d, bound) for d in value.type.shape]
    dtype = value.type.dtype
    if dtype is DType.BOOL:
        return torch.rand(shape, generator=generator) < 0.5
    if not (dtype.is_floating or dtype.is_complex):
        low = 0 if dtype.value.startswith("u") else -3
        return torch.randint(low, 4, shape, generator=generator).to(dtype.torch)
    tensor = torch.randn(shape, generator=generator, dtype=torch.float64) * 2
    if special and tensor.numel():
        chosen = torch.randint(0, len(SPECIAL), tensor.shape, generator=generator)
        mask = torch.rand(tensor.shape, generator=generator) < 0.4
        tensor = torch.where(mask, torch.tensor(SPECIAL, dtype=torch.float64)[chosen], tensor)
    return tensor.to(dtype.torch)
