"""Sparse weights times dense activations: act(W · X + b) in single precision on the CPU.

W [M, K] is stored by its blocks of `height` rows and one column that are not zero. X is [K, N] (`rows`), or, as linear
layers have it, [N, K] (`columns`), and then so is Y.
"""

from __future__ import annotations

import ctypes
from collections import OrderedDict
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from graphopt.kernels import program as programs
from graphopt.kernels.jit import lanes, registers
from graphopt.kernels.schedule import Arrangement, Blocks, Schedule, choose, column_blocks

ACTIVATIONS = ("none", "relu", "silu", "gelu")
_KEPT = 16


class SparseMatrix:
    """W, ready to be multiplied; prepared once for each number of columns.

    crow_indices [M / height + 1], col_indices [blocks], values [blocks, height]: block compressed rows. addresses:
    where in X each of the K columns starts, for an X whose rows overlap (an image under a convolution); by default
    rows lie one behind the other.

    Raises:
        ValueError: the indices are no matrix's.

    >>> w = torch.tensor([[0.0, 2.0], [3.0, 0.0]])
    >>> sparse = w.to_sparse_csr()
    >>> matrix = SparseMatrix(sparse.crow_indices(), sparse.col_indices(), sparse.values()[:, None], 2)
    >>> multiply(matrix, torch.tensor([[1.0], [10.0]])).tolist()
    [[20.0], [3.0]]
    """

    def __init__(
        self,
        crow_indices: torch.Tensor,
        col_indices: torch.Tensor,
        values: torch.Tensor,
        inner: int,
        addresses: torch.Tensor | None = None,
    ) -> None:
        _check(crow_indices, col_indices, values, inner)
        rows, height = crow_indices.numel() - 1, values.shape[1]
        columns = col_indices.numpy().astype(np.int32)
        counts = np.diff(crow_indices.numpy())
        self.addressed = addresses is not None
        self.blocks = Blocks(
            shape=(rows * height, inner),
            height=height,
            block_rows=np.repeat(np.arange(rows, dtype=np.int32), counts),
            columns=columns,
            addresses=columns if addresses is None else addresses.numpy().astype(np.int32)[columns],
            values=values.detach().numpy(),
        )
        self._arranged: dict[Any, Arrangement] = {}
        self._calls: OrderedDict[Any, _Call] = OrderedDict()

    def tiles(self, schedule: Schedule) -> int:
        """How many tiles X is cut into along its rows."""
        return max(1, -(-self.blocks.shape[1] // schedule.depth))

    def parts(self, schedule: Schedule) -> int:
        """How many sums there are of each element of Y."""
        return min(schedule.threads, self.tiles(schedule)) if schedule.split == "inner" else 1

    def arranged(self, schedule: Schedule, ends: bool) -> Arrangement:
        """W in the order of a schedule. ends: every row stands in the last tile too, for what is done to whole sums."""
        parts = schedule.threads * schedule.chunks if schedule.split == "rows" else 1
        key = (schedule.depth, parts, schedule.copied, self.parts(schedule), ends)
        if key not in self._arranged:
            tiles = self.tiles(schedule)
            every = [first for first, _ in _shares(tiles, self.parts(schedule))] + [tiles - 1] * ends
            self._arranged[key] = self.blocks.arranged(schedule.depth, parts, schedule.copied, every)
        return self._arranged[key]

    def call(self, columns: int, layout: str, activation: str, threads: int, schedule: Schedule | None = None) -> _Call:
        """What computes the product with so many columns of X."""
        key = (columns, layout, activation, threads, schedule)
        found = self._calls.get(key)
        if found is None:
            chosen = schedule or choose(self.blocks, columns, layout, lanes(), registers(), threads)
            found = self._calls[key] = _Call(self, columns, layout, activation, chosen)
            if len(self._calls) > _KEPT:
                self._calls.popitem(last=False)
        else:
            self._calls.move_to_end(key)
        return found


def _check(crow_indices: torch.Tensor, col_indices: torch.Tensor, values: torch.Tensor, inner: int) -> None:
    """See that indices stay in a matrix of `inner` columns: the kernel reads where they point."""
    blocks = col_indices.numel()
    if values.dim() != 2 or values.shape[0] != blocks or not crow_indices.numel():
        raise ValueError(f"{blocks} columns and {list(values.shape)} values are no blocks")
    if int(crow_indices[0]) != 0 or int(crow_indices[-1]) != blocks or bool((crow_indices.diff() < 0).any()):
        raise ValueError(f"crow_indices have to rise from 0 to {blocks}")
    if blocks and not 0 <= int(col_indices.min()) <= int(col_indices.max()) < inner:
        raise ValueError(f"col_indices are {int(col_indices.min())} to {int(col_indices.max())} of {inner} columns")


def _shares(count: int, parts: int) -> list[tuple[int, int]]:
    return [(count * i // parts, count * (i + 1) // parts) for i in range(parts)]


class _Call:
    """A product with a given number of columns: a program, and what its loops run over."""

    def __init__(self, matrix: SparseMatrix, columns: int, layout: str, activation: str, schedule: Schedule) -> None:
        (rows, inner), height = matrix.blocks.shape, matrix.blocks.height
        self.schedule = schedule
        turned = layout == "transposed"
        parts = matrix.parts(schedule)
        cuts = column_blocks(columns, schedule.vectors, lanes())
        vectors = tuple(sorted({count for _, count, _ in cuts}))
        read = layout if turned else "copied" if schedule.copied else "given"
        self.arrangement = matrix.arranged(schedule, turned or (parts == 1 and activation != "none"))
        made = programs.program(programs.Form(height, vectors, read, parts > 1, activation))
        self.product, self.finish = made.product, made.finish
        padded = -(-columns // lanes()) * lanes()
        steps = _Steps(inner if turned else columns, padded if parts > 1 else columns, rows if turned else columns)
        self.sums_size = parts * rows * padded if turned or parts > 1 else 0
        part_size = rows * steps.sums
        self.items, bounds = _items(self.arrangement, schedule, parts, cuts, vectors, read, steps, rows)
        depth = max(last - first for first, last in self.arrangement.tiles)
        self.tile_size = (-(-depth // lanes()) * lanes()) * max(vectors) * lanes() if read != "given" else 0
        numbers = {
            **{name: getattr(self.arrangement, name).ctypes.data for name in ("rows", "starts", "entries")},
            "items": self.items.ctypes.data,
            "x_step": steps.x,
            "column_step": 1 if matrix.addressed else steps.x,
            "sums_step": steps.sums,
            "parts": parts,
            "part_size": part_size,
            "tile_size": self.tile_size,
            "n": columns,
            "y_step": steps.y,
        }
        finished = [rows * thread // schedule.threads for thread in range(schedule.threads + 1)]
        self.arguments = programs.arguments(numbers, bounds, finished)

    def __call__(self, x: torch.Tensor, bias: torch.Tensor, y: torch.Tensor) -> None:
        """Write act(W · x + bias) to y."""
        threads = self.schedule.threads
        addresses = {"x": x.data_ptr(), "sums": y.data_ptr(), "bias": bias.data_ptr(), "y": y.data_ptr()}
        if self.tile_size or self.sums_size:
            scratch = torch.empty(threads * self.tile_size + self.sums_size + lanes())
            addresses["tiles"] = scratch.data_ptr() + (-scratch.data_ptr()) % (4 * lanes())
            if self.sums_size:
                addresses["sums"] = addresses["tiles"] + 4 * threads * self.tile_size
        arguments = programs.with_addresses(self.arguments, addresses)
        address = ctypes.addressof(arguments)
        self.product(address, threads)
        if self.finish is not None:
            self.finish(address, threads)


class _Steps(NamedTuple):
    """From row to row, in numbers."""

    x: int
    sums: int
    y: int


def _items(
    arrangement: Arrangement,
    schedule: Schedule,
    parts: int,
    cuts: list[tuple[int, int, int]],
    vectors: tuple[int, ...],
    read: str,
    steps: _Steps,
    rows: int,
) -> tuple[NDArray[np.int64], list[int]]:
    """The items of each thread in turn, and where each thread's start."""
    tiles = range(len(arrangement.tiles))
    items: list[tuple[int, ...]] = []
    bounds = [0]
    shares = _shares(len(tiles), parts) + [(0, 0)] * (schedule.threads - parts)
    cuts_of = _dealt(cuts, schedule.threads) if schedule.split == "columns" else [cuts] * schedule.threads
    for thread in range(schedule.threads):
        mine = range(*shares[thread]) if schedule.split == "inner" else tiles
        chunks = range(thread * schedule.chunks, (thread + 1) * schedule.chunks) if schedule.split == "rows" else [0]
        for (start, count, width), part, tile in product(cuts_of[thread], chunks, mine):
            first, last = arrangement.ranges[tile, part]
            if first == last:
                continue
            kind = 2 * vectors.index(count) + (width < count * lanes())
            k, k_end = arrangement.tiles[tile]
            x_start = {"given": start, "copied": k * steps.x + start, "transposed": start * steps.x + k}[read]
            sums_start = start * rows if read == "transposed" else thread * (parts > 1) * rows * steps.sums + start
            starts = 0 if tile != mine[0] else 1 if k == 0 else 2
            extent = (width, start * steps.y, *arrangement.extents[part])
            items.append((kind, x_start, k_end - k, sums_start, first, last, starts, tile == mine[-1], *extent))
        bounds.append(len(items))
    return np.array(items, np.int64).reshape(-1, len(programs.ITEM)), bounds


def _dealt(cuts: list[tuple[int, int, int]], threads: int) -> list[list[tuple[int, int, int]]]:
    """Blocks of columns for each thread, the widest first, to the one that has least."""
    dealt: list[list[tuple[int, int, int]]] = [[] for _ in range(threads)]
    for cut in sorted(cuts, key=lambda cut: -cut[1]):
        min(dealt, key=lambda own: sum(count for _, count, _ in own)).append(cut)
    return dealt


def multiply(
    matrix: SparseMatrix,
    x: torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: str = "none",
    layout: str = "copied",
    columns: int | None = None,
    schedule: Schedule | None = None,
) -> torch.Tensor:
    """act(W · X + b).

    x: [K, N], contiguous, or [N, K] with layout="transposed"; with addresses, any memory that they point into, and
    `columns` says how many each row has. bias: [M]. Returns [M, N], or [N, M].
    """
    rows = matrix.blocks.shape[0]
    turned = layout == "transposed"
    count = columns if columns is not None else x.shape[0] if turned else x.shape[1]
    y = x.new_empty((count, rows) if turned else (rows, count))
    if not y.numel():
        return y
    bias = x.new_zeros(rows) if bias is None else bias.contiguous()
    threads = max(1, min(torch.get_num_threads(), programs.MOST_THREADS))
    call = matrix.call(count, "given" if matrix.addressed else layout, activation, threads, schedule)
    call(x, bias, y)
    return y
