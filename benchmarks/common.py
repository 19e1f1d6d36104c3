"""What every benchmark shares: options, fair timing, tables, JSON, and a description of the machine.

A benchmark is a script, `python benchmarks/bench_name.py [--quick] [--json FILE]`, and starts with

    from common import parse_args, print_table, time_interleaved, write_json

Importing this module puts the repository root on the path, so `from tests.zoo import MODELS` works after it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

PACKAGES = (
    "torch",
    "onnx",
    "onnxruntime",
    "openvino",
    "onnxscript",
    "onnxsim",
    "onnxslim",
    "transformers",
    "numpy",
    "graphopt",
)
CHIP_FLAGS = ("avx2", "fma", "avx512f", "avx_vnni", "avx512_vnni", "amx_tile", "asimd", "sve")


@dataclass(frozen=True)
class Timing:
    """Seconds per call: one median for each round, in the order of the rounds."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median of the rounds' medians, in seconds."""
        return median_of_rounds(self.rounds)

    @property
    def ms(self) -> float:
        """The median in milliseconds."""
        return self.median * 1e3

    @property
    def spread(self) -> float:
        """(slowest - fastest round) / median: how far to trust the figure."""
        return (max(self.rounds) - min(self.rounds)) / self.median


def median_of_rounds(rounds: Iterable[float]) -> float:
    """The median of the rounds' medians."""
    return statistics.median(rounds)


def round_of(function: Callable[[], Any], seconds: float, least: int = 3) -> float:
    """The median time of calls made for about `seconds`, and at least `least` of them."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def time_interleaved(
    functions: Mapping[str, Callable[[], Any]], rounds: int = 5, seconds: float = 0.5, warmup: int = 2
) -> dict[str, Timing]:
    """Time several functions in turn, so that a change of the machine's speed meets all of them alike.

    Each round starts with another function, for the one that runs after a slow neighbour pays for its cold caches.
    """
    names = list(functions)
    for function in functions.values():
        for _ in range(warmup):
            function()
    taken: dict[str, list[float]] = {name: [] for name in names}
    for index in range(rounds):
        shift = index % max(len(names), 1)
        for name in names[shift:] + names[:shift]:
            taken[name].append(round_of(functions[name], seconds))
    return {name: Timing(tuple(times)) for name, times in taken.items()}


def ratio(timings: Mapping[str, Timing], subject: str, reference: str) -> float:
    """Time of `subject` over that of `reference`: the median of the ratios of the rounds, below 1 is faster."""
    pairs = zip(timings[subject].rounds, timings[reference].rounds, strict=True)
    return statistics.median(own / other for own, other in pairs)


def parse_args(description: str | None, *extra: tuple[str, dict[str, Any]]) -> argparse.Namespace:
    """The options of every benchmark (`json`, `quick`, `rounds`, `threads`) and its own `extra` ones; sets the threads.

    `extra` holds the arguments of `add_argument`: `("--size", {"type": int, "default": 64})`.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--quick", action="store_true", help="a small version that only shows that it runs")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds of timing (default: 5)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of each engine")
    for name, options in extra:
        parser.add_argument(name, **options)
    chosen = parser.parse_args()
    set_threads(chosen.threads)
    return chosen


def set_threads(count: int) -> None:
    """The number of threads of PyTorch and of engines that read OMP_NUM_THREADS when they load."""
    import torch

    os.environ["OMP_NUM_THREADS"] = str(count)
    torch.set_num_threads(count)


def onnxruntime_options(threads: int, optimize: bool = True) -> Any:
    """Session options with this many threads, with ONNX Runtime's own graph optimizations on or off."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    return options


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], note: str = "") -> None:
    """A table; numbers are aligned right, floats shown with three significant digits."""
    from rich.console import Console
    from rich.table import Table

    body = [list(row) for row in rows]
    table = Table(title=title, caption=note or None, title_justify="left", caption_justify="left")
    for index, column in enumerate(columns):
        numeric = any(isinstance(row[index], int | float) for row in body)
        table.add_column(column, justify="right" if numeric else "left")
    for row in body:
        table.add_row(*(cell_text(cell) for cell in row))
    width = None if sys.stdout.isatty() else 160
    Console(width=width).print(table)


def cell_text(cell: Any) -> str:
    """How a table shows a value."""
    if isinstance(cell, bool) or cell is None:
        return {True: "yes", False: "no", None: ""}[cell]
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.3g}"
    return str(cell)


def machine() -> dict[str, Any]:
    """What the figures depend on: chip, cores, memory, accelerator, versions. No names of hosts."""
    import torch

    from graphopt.targets.cpuinfo import chip_name

    installed = {}
    for name in PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    described: dict[str, Any] = {
        "chip": chip_name(),
        "features": chip_features(),
        "cores": os.cpu_count(),
        "memory_gib": memory_gib(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": installed,
    }
    if torch.cuda.is_available():
        described["accelerator"] = torch.cuda.get_device_name()
    return described


def chip_features() -> list[str]:
    """The vector and integer extensions that decide which kernels run."""
    from graphopt.targets.cpuinfo import chip_flags

    return [flag for flag in CHIP_FLAGS if flag in chip_flags()]


def memory_gib() -> float:
    """Physical memory in GiB."""
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def write_json(path: Path | None, benchmark: str, results: Any) -> None:
    """Write results with the machine's description; nothing where `path` is None. Dataclasses become objects."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"benchmark": benchmark, "machine": machine(), "results": results}
    scratch = path.with_suffix(path.suffix + ".partial")
    scratch.write_text(json.dumps(document, indent=2, default=plain) + "\n")
    os.replace(scratch, path)


def plain(value: Any) -> Any:
    """JSON's view of a value that it does not know."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return value.item() if hasattr(value, "item") else str(value)
