"""What the kernel's loops run over: which blocks of W meet which tile of X, in what order, on which thread.

A tile of X is `depth` of its rows and some vectors of its columns, so that it stays in a cache while every row of W
passes over it. In a tile, rows of W stand by their number of blocks: a loop that runs as long as the last one is
predicted well. Threads share the work by rows of W; by columns of X, where it is transposed; or, where it does not fit
their caches, by its rows (`inner`): then each has sums of its own, which are added at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int32]


@dataclass(frozen=True)
class Arrangement:
    """W in the order of a schedule.

    rows: first row of each row block, tile by tile. starts: where its blocks start, and the end. entries: the column of
    each block and the bits of its values, [blocks, 1 + height]. ranges: of `rows`, [tile, part]. tiles: first and last
    row of X of each tile. extents: first and last row of W of each part.
    """

    rows: Integers
    starts: Integers
    entries: Integers
    ranges: NDArray[np.int64]
    tiles: tuple[tuple[int, int], ...]
    extents: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Blocks:
    """The blocks of W [M, K] that are not zero: `height` rows and one column each, by row, then column.

    columns: as the operator addresses X; order: which column of K each is, where those differ.
    """

    shape: tuple[int, int]
    height: int
    block_rows: Integers
    columns: Integers
    addresses: Integers
    values: NDArray[np.float32]

    @cached_property
    def density(self) -> float:
        """Which share of W is stored."""
        return self.columns.size * self.height / max(self.shape[0] * self.shape[1], 1)

    def arranged(self, depth: int, row_parts: int, relative: bool, every: Sequence[int]) -> Arrangement:
        """Order the blocks by tiles of `depth` rows of X and `row_parts` parts of W's rows.

        relative: columns count from their tile's first. every: tiles in which each row stands, though it be empty: the
        sums start there.
        """
        total, inner = self.shape[0] // self.height, self.shape[1]
        tiles = tuple((k, min(inner, k + depth)) for k in range(0, max(inner, 1), depth))
        tile = self.columns // depth
        counts = np.zeros((len(tiles), total), np.int64)
        np.add.at(counts, (tile, self.block_rows), 1)
        bounds = np.searchsorted(counts.sum(0).cumsum(), np.arange(1, row_parts) * self.columns.size / row_parts)
        part = np.searchsorted(bounds, np.arange(total), side="right")
        present = counts > 0
        present[list(every)] = True
        tile_of, row_of = np.nonzero(present)
        counted = counts[tile_of, row_of]
        order = np.lexsort((row_of, counted, part[row_of], tile_of))
        tile_of, row_of, counted = tile_of[order], row_of[order], counted[order]
        rank = np.full(counts.shape, -1, np.int64)
        rank[tile_of, row_of] = np.arange(order.size)
        by_rank = np.argsort(rank[tile, self.block_rows], kind="stable")
        columns = self.columns[by_rank] - tile[by_rank] * depth if relative else self.addresses[by_rank]
        edges = np.searchsorted(tile_of * row_parts + part[row_of], np.arange(len(tiles) * row_parts + 1))
        cut = np.searchsorted(part, np.arange(row_parts + 1)) * self.height
        edges_of_parts = [int(edge) for edge in cut]
        return Arrangement(
            rows=(row_of * self.height).astype(np.int32),
            starts=np.concatenate([[0], counted.cumsum()]).astype(np.int32),
            entries=np.concatenate([columns.astype(np.int32)[:, None], self.values[by_rank].view(np.int32)], 1),
            ranges=np.stack([edges[:-1], edges[1:]], 1).reshape(len(tiles), row_parts, 2),
            tiles=tiles,
            extents=tuple(pairwise(edges_of_parts)),
        )


@dataclass(frozen=True)
class Schedule:
    """How a product is computed. split: what threads share: `rows`, `columns` or `inner`. depth: rows of X in a tile.

    vectors: of columns that a row of W is multiplied by at once. copied: tiles of X are laid side by side first.
    chunks: of rows that a thread takes one after another, so that their sums stay in a cache (of `rows`).
    """

    split: str
    depth: int
    vectors: int
    copied: bool
    threads: int
    chunks: int = 1


def column_blocks(columns: int, vectors: int, lanes: int) -> list[tuple[int, int, int]]:
    """Cut columns into (start, vectors, width): blocks of `vectors` vectors, as equal as can be."""
    needed = -(-columns // lanes)
    blocks = -(-needed // vectors)
    found, start = [], 0
    for index in range(blocks):
        count = needed // blocks + (index < needed % blocks)
        width = min(count * lanes, columns - start)
        found.append((start, count, width))
        start += width
    return found


CACHE = 1 << 20
"""Bytes of X above which its rows are shared out: a core's second cache holds about twice as much."""
CHUNKS = 4
"""How many parts of W's rows a thread takes one after another."""
PER_TILE = 12
"""How many blocks a row of W should meet in a tile: fewer, and sums are loaded and stored more than used.

Rows of taller blocks share what they read of X, which may then lie farther away.
"""
SMALLEST, LARGEST = 64, 1024
"""Rows of X in a tile."""


def choose(blocks: Blocks, columns: int, layout: str, lanes: int, registers: int, threads: int) -> Schedule:
    """Choose how to compute W [M, K] · X [K, columns]. layout: of X, as in a `Form`, before any copying."""
    inner, needed = blocks.shape[1], -(-columns // lanes)
    most = max(1, min(8, (registers - 2) // (blocks.height + 1)))
    depth = int(PER_TILE * min(blocks.height, 4) / max(blocks.density, 1e-9))
    depth = min(max(SMALLEST, -(-depth // 32) * 32), LARGEST)
    if layout == "transposed":
        if needed < threads:
            return Schedule("rows", depth, min(most, needed), True, threads)
        return Schedule("columns", depth, min(most, -(-needed // threads)), True, threads)
    if layout == "copied" and inner * columns * 4 > CACHE and threads > 1:
        return Schedule("inner", min(depth, max(SMALLEST, -(-inner // threads))), most, True, threads)
    return Schedule("rows", depth, most, layout == "copied" and columns % lanes != 0, threads, CHUNKS)
