"""A matrix as indices into codebooks, with scales.

    W[r, j] ≈ s[r, j's block] · C[r's group, I[r, j]]

Scales start at the largest magnitude of what they stand for; then codebooks and scales are chosen in turn, each with
the least error Σ h (W − s·C)² for the other. A group with no more distinct numbers than codes is stored exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from graphopt.ops.quantization import lookup, packed_codes
from graphopt.passes.quantization.codebooks import codebook, nearest, nearest_numbers, vector_codebook
from graphopt.passes.support.noise import decibels, energies

ROUNDS = 3
_FLOOR = 0.01
_PEAK, _LEAST = 16.0, 2.0**-9
"""The greatest scale at first, and the least that is not zero, of scales in float8_e4m3fn."""
_HALF_PRECISION = 2.0**-10
"""Stored numbers are rounded to half precision where that changes none by more than this share."""


@dataclass(frozen=True)
class Grain:
    """How fine a palette is.

    bits: for each number. vector: numbers that share an index. group_size: rows that share a codebook, 0 for all.
    block_size: columns that share a scale, 0 for all of a row. scaled: whether there are scales. half: whether codes
    and scales are stored in half precision, where that holds them. narrow: scales of blocks are float8_e4m3fn.
    """

    bits: int
    vector: int = 1
    group_size: int = 0
    block_size: int = 0
    scaled: bool = True
    half: bool = True
    narrow: bool = False

    def fitted(self, columns: int) -> tuple[Grain, str]:
        """What rows of so many numbers can have, and why it is less than asked for."""
        block = self.block_size if self.block_size and columns % self.block_size == 0 else 0
        vector = self.vector if (block or columns) % self.vector == 0 else 1
        told = []
        if block != self.block_size:
            told.append(f"blocks of {self.block_size} do not divide its {columns} columns: a scale for each row")
        if vector != self.vector:
            told.append(f"vectors of {self.vector} do not divide its {columns} columns: single numbers")
        return replace(self, vector=vector, block_size=block), "; ".join(told)


@dataclass(frozen=True)
class Palette:
    """indices: [rows, columns / d]. codes: [groups, 2^bits, d]. scale: [rows, blocks]. bits: of an index."""

    indices: torch.Tensor
    codes: torch.Tensor
    scale: torch.Tensor | None
    group_size: int
    bits: int

    def matrix(self) -> torch.Tensor:
        """What it stands for, [rows, columns] in single precision."""
        return lookup(self.indices, self.codes, self.scale, self.group_size, torch.float32)

    def packed(self, by_rows: bool) -> torch.Tensor:
        """The bytes of the indices; [rows, bytes] if each row can be read alone."""
        return packed_codes(self.indices if by_rows else self.indices.reshape(-1), self.bits)

    def bytes(self, by_rows: bool) -> int:
        """How many bytes it takes."""
        stored = [self.packed(by_rows), self.codes] + ([] if self.scale is None else [self.scale])
        return sum(tensor.numel() * tensor.element_size() for tensor in stored)


def palette(matrix: torch.Tensor, importance: torch.Tensor | None, grain: Grain) -> Palette:
    """Compress a matrix, [rows, columns], finite. importance: of each number's error, up to a factor; of its shape."""
    exact = _exact(matrix, grain)
    if exact is not None:
        return exact
    weights = (
        torch.ones_like(matrix) if importance is None else importance / importance.mean().clamp(min=1e-30) + _FLOOR
    )
    x, h = matrix.double(), weights.double()
    if not grain.scaled:
        plain = _stored(_codes(x, h, grain), grain.half)
        return Palette(_indices(x, plain, grain), plain, None, grain.group_size, grain.bits * grain.vector)
    blocks = matrix.shape[1] // grain.block_size if grain.block_size else 1
    whole, mass = x.unflatten(1, (blocks, -1)), h.unflatten(1, (blocks, -1))
    largest = whole.abs().amax(2)
    unit = largest.max() / _PEAK if grain.narrow and grain.block_size else 1.0
    scale = _stored_scale(largest / unit, grain)  # 0 for a block of zeros, which stay so
    codes: torch.Tensor | None = None
    for left in reversed(range(ROUNDS)):
        factor = scale.double().unsqueeze(2)
        inner, weights = (whole / factor.where(factor > 0, 1.0)).flatten(1), (mass * factor.square()).flatten(1)
        codes = _stored(_codes(inner, weights, grain, codes), grain.half)
        indices = _indices(inner, codes, grain)
        if left:
            found = lookup(indices, codes.double(), None, grain.group_size).unflatten(1, (blocks, -1))
            best = (mass * whole * found).sum(2) / (mass * found.square()).sum(2).clamp(min=1e-300)
            scale = _stored_scale(torch.where(best > 0, best, scale.double()), grain)
    assert codes is not None
    return Palette(indices, codes, scale, grain.group_size, grain.bits * grain.vector)


def signal_to_noise(original: torch.Tensor, changed: torch.Tensor) -> float:
    """10 log₁₀(Σ x² / Σ (x̂ − x)²), in decibels; infinite where nothing changed."""
    return decibels(*energies([original], [changed]))


def _groups(matrix: torch.Tensor, grain: Grain) -> list[torch.Tensor]:
    """Batches of groups of rows, [groups, numbers]: those of full size, and the last."""
    size = min(grain.group_size, len(matrix)) or len(matrix)
    full = len(matrix) // size * size
    parts = [matrix[:full].reshape(full // size, -1), matrix[full:].reshape(1, -1)]
    return [part for part in parts if part.numel()]


def _codes(x: torch.Tensor, importance: torch.Tensor, grain: Grain, start: torch.Tensor | None = None) -> torch.Tensor:
    """[groups, codes, d] in double precision. start: codes for much the same."""
    count = 2 ** (grain.bits * grain.vector)
    pairs = list(zip(_groups(x, grain), _groups(importance, grain)))
    if grain.vector == 1:
        found = torch.cat([codebook(numbers, weights, count) for numbers, weights in pairs]).unsqueeze(2)
        return _with_zero(found, [row.unsqueeze(1) for part, _ in pairs for row in part])
    vectors = [(n.reshape(-1, grain.vector), w.reshape(-1, grain.vector)) for a, b in pairs for n, w in zip(a, b)]
    starts = [None] * len(vectors) if start is None else list(start)
    made = [vector_codebook(n, w.mean(1), count, begin) for (n, w), begin in zip(vectors, starts)]
    return _with_zero(torch.stack(made), [numbers for numbers, _ in vectors])


def _with_zero(codes: torch.Tensor, groups: list[torch.Tensor]) -> torch.Tensor:
    """Let the code nearest to zero be zero where more than one code's share of the numbers is, as in a weight
    that was pruned."""
    for own, numbers in zip(codes, groups):
        if (numbers == 0).all(1).double().mean() > 1 / len(own):
            own[own.square().sum(1).argmin()] = 0
    return codes


def _indices(x: torch.Tensor, codes: torch.Tensor, grain: Grain) -> torch.Tensor:
    """The nearest code of each number or vector, [rows, columns / d]."""
    found, start = [], 0
    for part in _groups(x, grain):
        own = codes[start : start + len(part)].double()
        start += len(part)
        if grain.vector == 1:
            found.append(nearest_numbers(part, own[..., 0]).reshape(-1))
        else:
            found += [nearest(row.reshape(-1, grain.vector), table) for row, table in zip(part, own)]
    return torch.cat(found).reshape(len(x), -1).to(torch.uint8)


def _exact(matrix: torch.Tensor, grain: Grain) -> Palette | None:
    """The palette that changes nothing, if each group has few enough distinct numbers."""
    groups = [row for part in _groups(matrix, grain) for row in part]
    if any(len(row[:4096].unique()) > 2**grain.bits for row in groups):
        return None
    distinct = [row.unique() for row in groups]
    if any(len(values) > 2**grain.bits for values in distinct):
        return None
    codes = torch.stack([torch.cat([v, v[-1:].expand(2**grain.bits - len(v))]) for v in distinct])
    indices = [torch.searchsorted(values, row.contiguous()) for values, row in zip(distinct, groups)]
    found = torch.cat(indices).reshape(matrix.shape).to(torch.uint8)
    half = codes.half()
    kept = half if grain.half and torch.equal(half.to(codes.dtype), codes) else codes
    return Palette(found, kept.unsqueeze(2).contiguous(), None, grain.group_size, grain.bits)


def _stored_scale(scale: torch.Tensor, grain: Grain) -> torch.Tensor:
    """In 8 bits for narrow blocks; codes make up for what rounding a scale takes."""
    if not (grain.narrow and grain.block_size):
        return _stored(scale, grain.half)
    bounded = scale.clamp(_LEAST, torch.finfo(torch.float8_e4m3fn).max)
    return bounded.where(scale > 0, 0.0).to(torch.float8_e4m3fn)


def _stored(numbers: torch.Tensor, half: bool) -> torch.Tensor:
    """In half precision where that is wanted and errors are small, those of small numbers against the largest; else in
    single precision."""
    halves = numbers.half()
    magnitudes = numbers.abs()
    small = (halves.double() - numbers).abs() <= _HALF_PRECISION * magnitudes.clamp(min=float(magnitudes.max()) / 64)
    return halves if half and bool(small.all()) else numbers.float()
