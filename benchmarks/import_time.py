"""What `import graphopt` costs beyond `import torch`: the median over fresh interpreters, interleaved.

The bar: at most 0.2 s.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

from common import parse_args, print_table, write_json

STATEMENTS = {"torch": "import torch", "torch + graphopt": "import torch, graphopt"}
BAR_SECONDS = 0.2


def seconds(statement: str) -> float:
    """The time that an import takes inside a fresh interpreter, its start-up left out."""
    code = f"import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def main() -> None:
    options = parse_args(__doc__)
    rounds = 2 if options.quick else max(options.rounds, 9)
    taken: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(rounds):
        for name, statement in STATEMENTS.items():
            taken[name].append(seconds(statement))
    medians = {name: statistics.median(times) for name, times in taken.items()}
    extra = medians["torch + graphopt"] - medians["torch"]
    rows = [[name, value] for name, value in medians.items()] + [["graphopt alone", extra]]
    print_table("Import time", ["import", "seconds"], rows, f"bar: at most {BAR_SECONDS} s beyond torch")
    write_json(options.json, "import_time", {"seconds": medians, "extra_seconds": extra, "bar": BAR_SECONDS})


if __name__ == "__main__":
    main()
