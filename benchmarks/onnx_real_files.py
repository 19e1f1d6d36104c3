"""Real ONNX files through graphopt: rapidocr's, silero-vad's, and twenty transformers by both of PyTorch's exporters.

Each file is compiled for FX and for ONNX Runtime, and run at two or three sizes; the outputs are held to those of ONNX
Runtime on the original file, with its graph optimizations off. A file holds if every output is within 1e-4 of its
largest number (and 1e-6), dynamic dims of inputs stay dynamic and keep their names, and no convolution, product,
normalization, attention, recurrent layer or resize stays an opaque operator of ONNX.

    python benchmarks/onnx_real_files.py --only 'silero|bert'
"""

from __future__ import annotations

import re
import sys

from common import parse_args, print_table, write_json
from tests.frontends.onnx.agreement import EXPORTERS, TARGETS, TWENTY, check, exported, packaged


def main() -> None:
    options = parse_args(
        __doc__,
        ("--only", {"default": "", "metavar": "PATTERN", "help": "files whose name a regular expression finds"}),
        ("--check", {"action": "store_true", "help": "end with status 1 if a file does not hold"}),
    )
    names = TWENTY[:2] if options.quick else TWENTY
    files = [*packaged(), *(exported(name, exporter) for name in names for exporter in EXPORTERS)]
    rows = []
    for file in files:
        if not re.search(options.only, file.name):
            continue
        row = check(file)
        rows.append(row)
        problems = [f"{t}: {p}" for t, p in row.problems.items()] + [f"opaque {m}" for m in row.main] + row.dims
        print(f"{row.name}: {'holds' if row.holds else 'FAILS'} {'; '.join(problems)}", flush=True)
        for message in row.undone:
            print(f"    {message.splitlines()[0]}")
    errors = [f"{target} error / allowed" for target in TARGETS]
    columns = ["file", "nodes", "after", "sets", *errors, "opaque", "dims kept", "undone", "s", "holds"]
    table = [
        [r.name, r.before, r.after, r.sets, *(r.errors.get(t) for t in TARGETS), ", ".join(r.opaque), not r.dims,
         len(r.undone), r.seconds, r.holds]
        for r in rows
    ]  # fmt: skip
    print_table("Real ONNX files", columns, table, "an output holds at most at 1")
    print(f"{sum(row.holds for row in rows)} of {len(rows)} files hold")
    write_json(options.json, "onnx_real_files", rows)
    if options.check and not all(row.holds for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
