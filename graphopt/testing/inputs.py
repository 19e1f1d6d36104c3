"""Inputs for generated (or any) graphs: sizes for the symbols, and values within fixed ranges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from graphopt.ir import DType, Graph, ScalarKind, ScalarType, Symbol, TensorType, Type
from graphopt.ir.dims import evaluate
from graphopt.testing.domain import BOOL, Domain

FLOAT_INPUTS = Domain(-2.0, 2.0)
INTEGER_INPUTS = Domain(0.0, 3.0)
"""Integer inputs may be indices into dims of four or more, as they are."""

LANDMARKS = (0.0, -0.0, 1.0, -1.0, 0.5, 2.0)
"""Values at which functions turn; a fifth of the elements of an input are such."""

SPECIAL = (float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 1e-40, -1e-40, 1e30, -1e30)

_WANTED = (3, 5, 4, 7, 6)


def input_domain(type_: TensorType) -> Domain:
    """The range that `sample_inputs` draws an input of this type from."""
    if type_.dtype is DType.BOOL:
        return BOOL
    return INTEGER_INPUTS if type_.dtype.is_integer else FLOAT_INPUTS


def sample_bindings(graph: Graph) -> Iterator[dict[str, int]]:
    """Yield two sets of sizes for the symbols of a graph: apart from each other, then at the low ends of the ranges.

    A graph without symbols has one set, the empty one.

    >>> from graphopt.ops import parse
    >>> graph = parse('''symbol N [1, 8]
    ... input %x: f32[N, 2]
    ... return %x''')
    >>> list(sample_bindings(graph))
    [{'N': 3}, {'N': 1}]
    """
    symbols = graph.symbols()
    wanted = (max(_WANTED[i % len(_WANTED)], s.min + s.multiple_of) for i, s in enumerate(symbols))
    first = {s.name: _size(s, w) for s, w in zip(symbols, wanted)}
    yield first
    second = {s.name: _size(s, max(s.min, 1) + i * s.multiple_of) for i, s in enumerate(symbols)}
    if second != first:
        yield second


def _size(symbol: Symbol, wanted: int) -> int:
    step = symbol.multiple_of
    size = max(wanted, symbol.min) if symbol.max is None else min(max(wanted, symbol.min), symbol.max)
    rounded = -(-size // step) * step
    return rounded if symbol.max is None or rounded <= symbol.max else symbol.max // step * step


def sample_inputs(
    graph: Graph, bindings: Mapping[str, int] | None = None, *, seed: int = 0, special: bool = False
) -> list[Any]:
    """Return one value for each input of a graph, in order. The global random generator is not touched.

    bindings: a size for each symbol; the first of `sample_bindings` by default. Floats are drawn from [-2, 2] with
    zeros and ones among them, integers from {0, 1, 2, 3}.
    special: mix in NaN, infinities, denormals and huge numbers, for passes that promise every bit.

    >>> from graphopt.ops import parse
    >>> graph = parse('''input %x: f32[N, 2]
    ... return %x''')
    >>> sample_inputs(graph, {"N": 3})[0].shape
    torch.Size([3, 2])
    """
    sizes = next(sample_bindings(graph)) if bindings is None else bindings
    generator = torch.Generator().manual_seed(seed)
    return [_sample(value.type, sizes, generator, special) for value in graph.inputs]


def _sample(type_: Type, sizes: Mapping[str, int], generator: torch.Generator, special: bool) -> Any:
    if isinstance(type_, ScalarType):
        return _number(type_, sizes, generator)
    if not isinstance(type_, TensorType):
        raise TypeError(f"no sample of {type_!r}")
    shape = tuple(evaluate(d, sizes) for d in type_.shape)
    made = random_tensor(input_domain(type_), shape, type_.dtype, generator)
    if type_.dtype.is_floating and made.numel():
        made = sprinkle(made, LANDMARKS, 0.2, generator)
        if special:
            made = sprinkle(made, SPECIAL, 0.3, generator)
    return made


def _number(type_: ScalarType, sizes: Mapping[str, int], generator: torch.Generator) -> Any:
    if type_.value is not None:
        return evaluate(type_.value, sizes)
    number = int(torch.randint(0, 4, (), generator=generator))
    return {ScalarKind.INT: number, ScalarKind.FLOAT: number / 2, ScalarKind.BOOL: bool(number % 2)}[type_.kind]


def random_tensor(domain: Domain, shape: tuple[int, ...], dtype: DType, generator: torch.Generator) -> torch.Tensor:
    """Uniform random numbers in a domain, as the dtype holds them."""
    if dtype is DType.BOOL:
        return torch.rand(shape, generator=generator) < 0.5
    if dtype.is_integer:
        return torch.randint(int(domain.low), int(domain.high) + 1, shape, generator=generator).to(dtype.torch)
    real = torch.rand(shape, generator=generator, dtype=torch.float64)
    made = (real * (domain.high - domain.low) + domain.low).to(dtype.torch)
    return made.clamp(domain.low, domain.high)


def sprinkle(tensor: torch.Tensor, values: tuple[float, ...], share: float, generator: torch.Generator) -> torch.Tensor:
    """Replace about a share of the elements by values drawn from a list."""
    chosen = torch.randint(0, len(values), tensor.shape, generator=generator)
    mask = torch.rand(tensor.shape, generator=generator) < share
    return torch.where(mask, torch.tensor(values, dtype=tensor.dtype)[chosen], tensor)
