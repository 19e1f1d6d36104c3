"""Counts of n-grams of integers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch

from graphopt.frontends.onnx.application import Application, Declined, tensor_type, translates
from graphopt.ir import DType, Value
from graphopt.ir.dims import less


@translates("TfIdfVectorizer")
def term_frequencies(a: Application) -> Value:
    """How often each n-gram of a pool occurs in a row: TF; whether it does, times a weight: IDF; their product: TFIDF.

    The items of an n-gram may stand `skip` others apart, each skip up to the greatest counting anew.
    """
    if a.attr("pool_int64s") is None:
        raise Declined("PyTorch has no tensors of strings")
    a.compose()
    x = a.cast(a[0], DType.I64)
    if tensor_type(x).rank not in (1, 2):
        raise Declined("n-grams of other tensors than vectors and matrices")
    columns = list(a.attr("ngram_indexes"))
    counts = a.emit("aten.zeros", (*tensor_type(x).shape[:-1], max(columns) + 1), dtype=DType.F32)
    first = 0
    for n, grams in _pool(a):
        places = torch.tensor(columns[first : first + len(grams)])
        first += len(grams)
        if a.attr("min_gram_length") <= n <= a.attr("max_gram_length") and len(grams):
            for skip in range(a.attr("max_skip_count") + 1 if n > 1 else 1):
                found = _occurrences(a, x, grams, skip + 1)
                if found is not None:
                    counts = a.emit("aten.index_add", counts, -1, a.constant(places), found)
    return _weighted(a, counts)


def _pool(a: Application) -> Iterator[tuple[int, torch.Tensor]]:
    """The n-grams of each n, one a row."""
    pool = torch.tensor(a.attr("pool_int64s"), dtype=torch.int64)
    starts = [*a.attr("ngram_counts"), len(pool)]
    for n, (start, end) in enumerate(pairwise(starts), start=1):
        yield n, pool[start:end].reshape(-1, n)


def _occurrences(a: Application, x: Value, grams: torch.Tensor, step: int) -> Value | None:
    """How often each n-gram occurs with its items `step` apart; None if the rows are too short for any."""
    width = (grams.shape[1] - 1) * step + 1
    short = less(tensor_type(x).shape[-1], width)
    if width == 1:
        windows = a.emit("aten.unsqueeze", x, -1)
    elif short is None:
        raise Declined(f"n-grams over {width} items of rows whose length is not known")
    elif short:
        return None
    else:
        windows = a.emit("aten.slice.Tensor", a.emit("aten.unfold", x, -1, width, 1), -1, 0, None, step)
    same = a.emit("aten.eq.Tensor", a.emit("aten.unsqueeze", windows, -2), a.constant(grams))
    return a.emit("aten.sum.dim_IntList", a.emit("aten.all.dim", same, -1), [-2], dtype=DType.F32)


def _weighted(a: Application, counts: Value) -> Value:
    """Counts, or whether there are any, times the weight of the n-gram that each column is for."""
    mode, weights, columns = a.attr("mode"), a.attr("weights"), a.attr("ngram_indexes")
    if mode == "IDF":
        counts = a.cast(a.emit("aten.gt.Scalar", counts, 0), DType.F32)
    if mode == "TF" or not weights:
        return counts
    if len(set(columns)) < len(columns):
        raise Declined("weights of several n-grams for one column")
    factors = torch.zeros(max(columns) + 1)
    factors[columns] = torch.tensor(weights)
    return a.emit("aten.mul.Tensor", counts, a.constant(factors))
