"""Sparse weights times dense activations, Y[M, N] = W[M, K] X[K, N]: our kernels beside PyTorch's and SciPy's.

Each row is one W: random zeros, or random blocks of 8×1 or 8×8 that are all zero. Times are of one run, in turn;
`faster` is against the dense product of the same run, `of limit` how much of 1 / density that reaches. With `--layout
linear` X is [N, K] and Y [N, M], as linear layers have them, and PyTorch's CSR takes Xᵀ as a view.

    python benchmarks/sparse_kernels.py [--layout product|linear] [--quick] [--json FILE]
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from common import parse_args, print_table, time_interleaved, write_json
from graphopt.kernels import SparseMatrix, multiply, unavailable
from graphopt.ops.sparse import compress

SHAPES = ((768, 768, 128), (3072, 768, 128), (512, 4608, 196))
PATTERNS = (
    ("random", 1, 1, 0.8),
    ("random", 1, 1, 0.9),
    ("random", 1, 1, 0.95),
    ("8×1", 8, 1, 0.8),
    ("8×1", 8, 1, 0.9),
    ("8×8", 8, 8, 0.9),
)
BARS = {0.8: (2.3, 2.3, 1.4), 0.9: (4.5, 4.5, 3.5), 0.95: (9.0, 9.0, 7.0)}
"""What a plain kernel, one row at a time, reaches with random zeros on the three shapes, by what is known."""
BLOCK_BAR = 6.0


@dataclass(frozen=True)
class Row:
    """One product. Times in ms, ratios to the dense one; error: the largest difference, by the largest number."""

    shape: str
    pattern: str
    sparsity: float
    dense: float
    ours: float
    csr: float
    bsr: float | None
    scipy: float
    faster: float
    of_limit: float
    bar: float | None
    error: float


def weight(rows: int, columns: int, height: int, width: int, sparsity: float) -> Tensor:
    """Random numbers with random blocks of zeros."""
    generator = torch.Generator().manual_seed(0)
    live = torch.rand(rows // height, columns // width, generator=generator) >= sparsity
    full = torch.randn(rows, columns, generator=generator)
    return full * live.repeat_interleave(height, 0).repeat_interleave(width, 1)


def measure(shape: tuple[int, int, int], pattern: tuple[str, int, int, float], bar: float | None, options: Any) -> Row:
    """Time one W."""
    import scipy.sparse

    m, k, n = shape
    name, height, width, sparsity = pattern
    w = weight(m, k, height, width, sparsity)
    linear = options.layout == "linear"
    x = torch.randn(n, k) if linear else torch.randn(k, n)
    matrix = SparseMatrix(*compress(w, height), k)
    layout = "transposed" if linear else "copied"
    given = x.t() if linear else x
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse")
        csr = w.to_sparse_csr()
        bsr = w.to_sparse_bsr((height, width)) if height == width > 1 else None
    in_scipy, x_numpy = scipy.sparse.csr_matrix(w.numpy()), given.numpy()
    dense: Callable[[], Any] = (lambda: torch.nn.functional.linear(x, w)) if linear else (lambda: torch.mm(w, x))
    calls: dict[str, Callable[[], Any]] = {
        "dense": dense,
        "ours": lambda: multiply(matrix, x, layout=layout),
        "csr": lambda: csr @ given,
        "scipy": lambda: in_scipy @ x_numpy,
    }
    if bsr is not None:
        calls["bsr"] = lambda: bsr @ given
    expected, found = dense(), calls["ours"]()
    times = time_interleaved(calls, rounds=2 if options.quick else options.rounds, seconds=0.05)
    ms = {name: timing.ms for name, timing in times.items()}
    density = float((w != 0).float().mean())
    faster = ms["dense"] / ms["ours"]
    return Row(
        f"{m}×{k}×{n}",
        name,
        sparsity,
        ms["dense"],
        ms["ours"],
        ms["csr"],
        ms.get("bsr"),
        ms["scipy"],
        faster,
        faster * density,
        bar,
        float((expected - found).abs().max() / expected.abs().max()),
    )


def main() -> None:
    """Print the table."""
    options = parse_args(
        __doc__, ("--layout", {"choices": ("product", "linear"), "default": "product", "help": "of X and Y"})
    )
    missing = unavailable()
    if missing is not None:
        raise SystemExit(missing)
    rows = []
    with torch.inference_mode():
        for index, shape in enumerate(SHAPES):
            for pattern in PATTERNS[:2] if options.quick else PATTERNS:
                bar = BARS[pattern[3]][index] if pattern[0] == "random" else BLOCK_BAR if pattern[3] == 0.9 else None
                rows.append(measure(shape, pattern, bar, options))
    print_table(
        f"W[M, K] · X[K, N], {options.layout}, {torch.get_num_threads()} threads",
        (
            "M×K×N",
            "zeros",
            "share",
            "dense ms",
            "ours ms",
            "torch CSR ms",
            "torch BSR ms",
            "SciPy ms",
            "faster",
            "of limit",
            "plain kernel",
            "error",
        ),
        [tuple(vars(row).values()) for row in rows],
    )
    slowest = min(min(row.csr, row.scipy, row.bsr or row.csr) / row.ours for row in rows)
    print(f"\nAgainst the fastest of PyTorch's and SciPy's: {slowest:.2f} times as fast at the closest point.")
    write_json(options.json, "sparse_kernels", rows)


if __name__ == "__main__":
    main()
