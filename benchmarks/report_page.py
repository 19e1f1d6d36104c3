"""How soon a report opens in a headless Chromium, collapsed by module, and how long opening every module takes.

A made-up transformer, before and after the clean-up passes, on one page. Ready: from navigation until the page has
drawn. Median of rounds, each in the same browser.

The bar: 10,000 nodes are ready in under 2 s.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from common import parse_args, print_table, write_json
from tests.report.browser import Browser, find_browser
from tests.report.reports import report_of, transformer

SIZES = (100, 1_000, 10_000)
LIMIT_MS = 2000.0
OPEN_ALL = """(() => {
    const start = performance.now();
    graphoptReport.views.forEach((view) => view.setAll(true));
    return performance.now() - start;
})()"""


def measure(browser: Browser, folder: Path, nodes: int, rounds: int) -> dict[str, Any]:
    """Write a report of so many nodes, and open it some times."""
    report = report_of(transformer(nodes))
    start = time.perf_counter()
    path = folder / f"{nodes}.html"
    report.save(path)
    written = time.perf_counter() - start
    ready, opened = [], []
    for _ in range(rounds):
        ready.append(browser.open(path))
        opened.append(browser.run(OPEN_ALL))
        browser.frame()
    return {
        "nodes": nodes,
        "megabytes": path.stat().st_size / 1e6,
        "write_ms": written * 1e3,
        "ready_ms": statistics.median(ready),
        "open_all_ms": statistics.median(opened),
        "errors": browser.errors[:],
    }


def main() -> None:
    options = parse_args(__doc__)
    if find_browser() is None:
        print("no Chromium or Chrome here (apt-get install chromium): nothing was measured")
        return
    rounds = min(options.rounds, 2) if options.quick else options.rounds
    with Browser() as browser, tempfile.TemporaryDirectory() as folder:
        rows = [measure(browser, Path(folder), nodes, rounds) for nodes in SIZES]
    columns = ("nodes", "megabytes", "write_ms", "ready_ms", "open_all_ms")
    largest = rows[-1]["ready_ms"]
    note = f"{SIZES[-1]:,} nodes: ready after {largest:.0f} ms, limit {LIMIT_MS:.0f} ms"
    print_table("the report page", columns, [[row[name] for name in columns] for row in rows], note)
    assert not any(row["errors"] for row in rows), rows
    write_json(options.json, "report_page", {"rows": rows, "limit_ms": LIMIT_MS, "holds": largest < LIMIT_MS})


if __name__ == "__main__":
    main()
