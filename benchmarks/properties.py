"""The long mode of the property tests: thousands of generated graphs through the IR, the passes and the backends.

Each graph is verified, printed and parsed, saved and loaded; run through the default pipeline of each target, through
one registered pass by turns, through FX and through ONNX Runtime with its graph optimizations off; and every result
is held to the interpreter, with float64 as the referee, at two sizes of each symbolic dim. A failure is shrunk and
printed with its seed: `graphopt.testing.random_graph(seed, max_nodes=…)` makes the graph again.

The bar: 5,000 graphs without a failure.
"""

from __future__ import annotations

import sys
import time

from common import parse_args, print_table, write_json
from graphopt.testing import Campaign
from graphopt.testing.suite import backend_properties, graph_properties, pass_properties, pipeline_properties

PROGRESS = 500


def show_progress(graphs: int, failures: int) -> None:
    if graphs % PROGRESS == 0:
        print(f"{graphs} graphs, {failures} failures", file=sys.stderr, flush=True)


def report(campaign: Campaign) -> None:
    statistics = campaign.statistics
    print_table("operators", ("operator", "nodes"), statistics.operators.most_common())
    rows = [(name, campaign.checks[name], seconds) for name, seconds in campaign.seconds.items()]
    print_table("properties", ("property", "graphs", "seconds"), rows)
    for failure in campaign.failures:
        if failure.graph:
            print(f"{failure.property}, seed {failure.seed}: {failure.message}\nsmallest\n{failure.graph}\n")
    print(statistics)
    print(f"{sum(campaign.checks.values())} checks, {len(campaign.failures)} failures")


def main() -> None:
    options = parse_args(
        __doc__,
        ("--graphs", {"type": int, "default": 5000, "help": "how many graphs (default: 5000)"}),
        ("--first", {"type": int, "default": 0, "metavar": "SEED", "help": "the first seed (default: 0)"}),
        ("--max-nodes", {"type": int, "default": 8, "help": "calls drawn for a graph, at most (default: 8)"}),
    )
    always = {**graph_properties(), **pipeline_properties(), **backend_properties()}
    campaign = Campaign(always, pass_properties(), {"max_nodes": options.max_nodes})
    start = time.perf_counter()
    campaign.run(50 if options.quick else options.graphs, options.first, show_progress)
    report(campaign)
    print(f"{time.perf_counter() - start:.0f} s")
    results = {
        "statistics": vars(campaign.statistics),
        "checks": campaign.checks,
        "seconds": campaign.seconds,
        "failures": [vars(failure) for failure in campaign.failures],
        "wall_seconds": time.perf_counter() - start,
    }
    write_json(options.json, "properties", results)
    sys.exit(1 if campaign.failures else 0)


if __name__ == "__main__":
    main()
