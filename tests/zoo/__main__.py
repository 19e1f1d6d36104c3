"""Print how every model of the zoo exports: `python -m tests.zoo [--tag TAG] [NAME ...]`."""

from __future__ import annotations

import argparse
import sys
import warnings

from rich.console import Console
from rich.table import Table

from tests.zoo import MODELS, select
from tests.zoo.audit import audit


def main() -> int:
    """Run the audit; the exit code counts failures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="models to export; all of them by default")
    parser.add_argument("--tag", action="append", default=[], help="only models with this tag")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    chosen = [MODELS[name] for name in options.names] or select(*options.tag)

    table = Table("model", "parameters", "nodes, static", "nodes, dynamic", "dynamic dims", "export s")
    failures = 0
    for entry in chosen:
        row = audit(entry)
        failures += bool(row.static.error) + bool(row.dynamic and row.dynamic.error)
        dims = ", ".join(entry.dynamic_dims)
        dynamic = str(row.dynamic) if row.dynamic else f"none: {entry.static_reason}"
        table.add_row(row.name, f"{row.parameters:,}", str(row.static), dynamic, dims, f"{row.static.seconds:.2f}")
        print(row.name, row.static, dynamic, file=sys.stderr)
    Console(width=150).print(table)
    return min(failures, 100)


if __name__ == "__main__":
    raise SystemExit(main())
