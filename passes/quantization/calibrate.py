"""Running a graph over calibration data and noting how chosen values are spread.

Samples are run one by one, so that the kernels compute the same bits whatever batches they came in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch

from graphopt.analysis import Interpreter
from graphopt.errors import InputError
from graphopt.ir import Expr, Graph, Node, TensorType, Value
from graphopt.ir.dims import symbols_of
from graphopt.passes.pruning.criteria.batches import Batch, read_batches, single_samples
from graphopt.passes.quantization.spread import ChannelSpreads, Spread


def calibrate(
    graph: Graph,
    values: Sequence[Value],
    data: Iterable[Any],
    limit: int,
    *,
    histograms: bool = True,
    keep: int = 0,
    channels: Mapping[Value, int] | None = None,
) -> tuple[dict[Value, Spread], dict[Value, ChannelSpreads], list[list[Any]]]:
    """Return the spread of each value over at most `limit` samples, and the inputs of the first `keep` of them.

    channels: values of which the spread of each channel is wanted, too, with the axis from the end. Data is read once.

    Raises:
        InputError: no data, data that does not fit the inputs, or a value that is not finite; the message names it.
    """
    found = {value: Spread() if histograms else Spread(None) for value in values}
    split = {
        value: ChannelSpreads(axis, int(value.shape[axis]), histograms) for value, axis in (channels or {}).items()
    }

    def take(values: Iterable[Value], tensors: Iterable[Any]) -> None:
        for value, tensor in zip(values, tensors):
            if value in found:
                found[value].add(tensor)
            if value in split:
                split[value].add(tensor)

    def observe(node: Node, results: Sequence[Any]) -> None:
        take(node.results, results)

    interpreter = Interpreter(graph, observer=observe)
    taken = 0
    kept: list[list[Any]] = []
    for sample in islice(samples_of(graph, data), limit):
        interpreter.run(*sample.inputs)
        take(graph.inputs, sample.inputs)
        _check_finite(found)
        taken += 1
        if len(kept) < keep:
            kept.append(sample.inputs)
    if not taken:
        raise InputError("the calibration data hold no sample: the loader is empty, or its batches are")
    for value, spread in found.items():
        if value.constant is not None:
            spread.add(value.constant.tensor)
    return found, split, kept


def _check_finite(found: dict[Value, Spread]) -> None:
    for value, spread in found.items():
        if spread.broken is not None:
            where = f"input %{value.name}" if value.producer is None else f"%{value.name} ({value.producer.location})"
            raise InputError(
                f"{where} holds a NaN or an infinity in calibration sample {spread.broken}, so no scale covers it; "
                "leave the sample out, or keep the operator in floating point with `ignore`"
            )


def samples_of(graph: Graph, data: Iterable[Any]) -> Iterator[Batch]:
    """Batches one sample at a time; as they are where the inputs share no first dim."""
    for given in [data] if isinstance(data, torch.Tensor) else data:
        (batch,) = read_batches(graph, [given], 1)
        if any(isinstance(x, torch.Tensor) and x.dim() and not x.shape[0] for x in batch.inputs):
            continue
        if _has_samples(graph, batch):
            yield from single_samples(graph, batch)
        else:
            yield batch


def _has_samples(graph: Graph, batch: Batch) -> bool:
    types = [value.type for value in graph.inputs if isinstance(value.type, TensorType)]
    if not types or any(not t.shape for t in types) or len({t.shape[0] for t in types}) != 1:
        return False
    first = symbols_of(types[0].shape[0]) if isinstance(types[0].shape[0], Expr) else ()
    if any(s in first for t in types for d in t.shape[1:] if isinstance(d, Expr) for s in symbols_of(d)):
        return False  # the size of a batch is that of another dim, too
    sizes = {x.shape[0] for x in batch.inputs if isinstance(x, torch.Tensor) and x.dim()}
    return len(sizes) == 1
