"""Inputs made up for a graph whose caller gives none: of sizes that it runs on, with indices that fit."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from graphopt.analysis import Interpreter
from graphopt.analysis.index_ranges import compared_numbers, index_limits
from graphopt.errors import GraphOptError
from graphopt.ir import DType, Graph, Symbol, TensorType, Value
from graphopt.ir.dims import UnboundSymbolError, evaluate, symbols_of
from graphopt.ir.types import type_symbols
from graphopt.ops.quantization import is_packed
from graphopt.passmanager.samples import SEED, first_sizes

IMAGE_SIZES = (32, 64, 128, 224)
"""Sizes that nets with several halvings take."""
SIGNAL_SIZES = (512, 16000)
LARGEST = 1 << 26
"""Inputs of more elements are not made up."""


def make_inputs(graph: Graph, given: Mapping[str, Any] | None = None) -> list[Any] | None:
    """Make inputs from types alone, on which the graph runs; None if there are none of the kinds that are tried.

    given: inputs by name that are taken as they are.

    Floating-point numbers are standard normal. Integers that are used as indices are below the length of what they
    index; ones that are tested to be equal to stored numbers are these; other ones are 0 or 1 (bytes: all values), and
    inputs whose contents are fixed hold these. Sizes of dynamic dims are small and distinct at first, then such as
    images and signals have.
    """
    given = {**_fixed(graph), **(given or {})}
    if not all(v.name in given or (isinstance(v.type, TensorType) and _has_numbers(v.type)) for v in graph.inputs):
        return None
    integers = _Integers(graph)
    bound = _sizes_of(graph, given)
    for sizes in _candidates(graph):
        made = _made(graph, {**sizes, **bound}, given, integers)
        if made is not None and (not graph.symbols() or _runs(graph, made)):
            return made
    return None


def _fixed(graph: Graph) -> dict[str, Any]:
    fixed = () if graph.signature is None else graph.signature.fixed
    return {graph.inputs[one.index].name: one.tensor() for one in fixed}


def _has_numbers(type_: TensorType) -> bool:
    """True but for strings, and for floats that are stored as codes."""
    return type_.dtype is not DType.STRING and not (type_.dtype.is_floating and is_packed(type_.dtype))


def _sizes_of(graph: Graph, given: Mapping[str, Any]) -> dict[str, int]:
    """The sizes that are known from inputs that were given."""
    found: dict[str, int] = {}
    for value in graph.inputs:
        tensor = given.get(value.name)
        if isinstance(value.type, TensorType) and isinstance(tensor, torch.Tensor):
            found.update((str(d), s) for d, s in zip(value.type.shape, tensor.shape) if not isinstance(d, int))
    return found


def _candidates(graph: Graph) -> Iterator[dict[str, int]]:
    """Sizes to try, the cheapest and most telling first."""
    symbols = graph.symbols()
    small = first_sizes(symbols)
    yield small
    leading = [s for s in symbols if any(_leads(value, s) for value in graph.inputs)]
    others = [s for s in symbols if s not in leading]
    batch = _sized(symbols, [2])
    data = [s for s in others if any(s in type_symbols(value.type) for value in graph.inputs[:1])]
    for base in IMAGE_SIZES if symbols else ():
        yield {**small, **_sized(leading, [2, 3]), **_sized(others, range(base, 16 * base, 32))}
    for base in (*IMAGE_SIZES, *SIGNAL_SIZES) if symbols else ():
        yield {**batch, **_sized(others, [base])}
        if data != others:  # states, whose batch need not come first
            yield {**batch, **_sized(data, [base])}
    if symbols:
        yield {**small, **_sized(leading, [1] * len(leading))}
        yield dict.fromkeys(small, 1)


def _leads(value: Value, symbol: Symbol) -> bool:
    """True if a dim comes first, as a batch does."""
    return isinstance(value.type, TensorType) and value.type.rank > 1 and symbol in symbols_of(value.type.shape[0])


def _sized(symbols: Sequence[Symbol], sizes: Sequence[int]) -> dict[str, int]:
    """Sizes for symbols in turn, within their ranges."""
    found = {}
    for index, symbol in enumerate(symbols):
        size = sizes[min(index, len(sizes) - 1)]
        size -= size % symbol.multiple_of
        low = max(symbol.min, 1)
        found[symbol.name] = max(low, size if symbol.max is None else min(size, symbol.max))
    return found


def _made(graph: Graph, sizes: Mapping[str, int], given: Mapping[str, Any], integers: _Integers) -> list[Any] | None:
    generator = torch.Generator().manual_seed(SEED)
    made = []
    for value in graph.inputs:
        if value.name in given:
            made.append(given[value.name])
            continue
        assert isinstance(value.type, TensorType)
        try:
            shape = [evaluate(dim, sizes) for dim in value.type.shape]
            high = integers.high(value, sizes)
        except UnboundSymbolError:  # what is indexed has a size that only a run tells
            return None
        if math.prod(shape) > LARGEST:  # PyTorch's own product wraps around
            return None
        made.append(_values(value.type, shape, integers.compared[value][:1] or range(high), generator))
    return made


class _Integers:
    """What is known of the integers that inputs hold."""

    def __init__(self, graph: Graph) -> None:
        self._limits = index_limits(graph)
        self.compared = defaultdict(list, compared_numbers(graph))

    def high(self, value: Value, sizes: Mapping[str, int]) -> int:
        """What they are to be below."""
        dtype = value.type.dtype.storage  # type: ignore[union-attr]
        plain, most = (256, 256) if dtype is torch.uint8 else (2, 127 if dtype is torch.int8 else 1 << 15)
        limit = min([evaluate(dim, sizes) for dim in self._limits.get(value, ())], default=plain)
        return min(max(limit, 1), most)


def _values(
    type_: TensorType, shape: Sequence[int], integers: Sequence[int], generator: torch.Generator
) -> torch.Tensor:
    """Standard normal numbers, or any of the given integers."""
    dtype = type_.dtype.storage
    if type_.dtype.is_floating or type_.dtype.is_complex:
        made = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    else:
        chosen = torch.randint(len(integers), tuple(shape), generator=generator)
        made = (torch.tensor(integers)[chosen] if isinstance(integers, list) else chosen).to(dtype)
    return made if type_.device == "cpu" else made.to(type_.device)


def _runs(graph: Graph, inputs: Sequence[Any]) -> bool:
    try:
        Interpreter(graph).run(*[x.clone() if isinstance(x, torch.Tensor) else x for x in inputs])
    except GraphOptError:
        return False
    return True
