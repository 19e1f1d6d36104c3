"""The partitioner against brute force, against its own bounds, and against the clock.

    optimal   random graphs of up to 12 nodes with random costs, memory, links, views, capabilities and energy: the cost
              of the split equals the least over all assignments, and there is none exactly where brute force finds none
    gap       200 to 2,000 nodes shaped like networks: cost, proven bound and seconds by objective; for latency beside
              HEFT (an independent one, its own schedule, which does not look at memory) and the best single device
    large     10,000 nodes

The bars: every optimum reached; objective `serial` with memory limits within 5 % of the bound; latency never worse than
the best single device and than HEFT, both within the same memory, or without limits; 10,000 nodes within 30 s.
"""

from __future__ import annotations

import math
from time import perf_counter
from typing import Any

import numpy as np

from common import parse_args, print_table, write_json
from graphopt.passes.partitioning.evaluation import cost, duplication, is_feasible
from graphopt.passes.partitioning.ordering import solve_with_order
from graphopt.passes.partitioning.problem import OBJECTIVES, Problem
from graphopt.passes.partitioning.solver import NoSplit, solve
from graphopt.passes.partitioning.starts import heft, single_devices
from tests.passes.partitioning.heft_oracle import heft_makespan
from tests.passes.partitioning.random_problems import BruteForce, large_problem, random_problem, without_limits

NODES = {2: 12, 3: 8, 4: 6}


def optimal(cases: int, seed: int) -> dict[str, Any]:
    """Compare with brute force; the cases that differ are listed."""
    wrong, impossible, checked, gaps = [], 0, 0, 0
    for case in range(seed, seed + cases):
        devices = 2 + case % 3
        problem = random_problem(case, 1 + case % NODES[devices], devices, limited=case % 5 != 0)
        if case % 5 == 0:
            problem = without_limits(problem)
        oracle = BruteForce(problem)
        for objective in OBJECTIVES:
            best = oracle.best(objective)
            found = solve(problem, objective, time_limit=600.0)
            got = math.inf if isinstance(found, NoSplit) else found.cost
            checked += 1
            impossible += math.isinf(best)
            gaps += not isinstance(found, NoSplit) and found.gap > 1e-6
            if not (got == best or math.isclose(got, best, rel_tol=1e-6, abs_tol=1e-9)):
                wrong.append({"case": case, "objective": objective, "found": got, "best": best})
    return {"checked": checked, "impossible": impossible, "unproven": gaps, "wrong": wrong}


def gap_row(problem: Problem, objective: Any, time_limit: float, label: str) -> list[Any]:
    """Nodes, devices, limits, objective, cost, bound, gap, seconds, HEFT, best single device, method."""
    start = perf_counter()
    found, _ = solve_with_order(problem, objective, time_limit=time_limit)
    seconds = perf_counter() - start
    rivals: list[Any] = ["", ""]
    if objective == "latency":
        end, placed = heft_makespan(problem)
        order = heft(problem).order
        fits = is_feasible(problem.reordered(order), np.array(placed)[order])
        single = [cost(problem, x, objective) for x in single_devices(problem) if is_feasible(problem, x)]
        rivals = [end + duplication(problem, placed) if fits else "no room", min(single) if single else "no room"]
    if isinstance(found, NoSplit):
        return [problem.nodes, problem.devices, label, objective, "none", "", "", seconds, *rivals, f"{found}"]
    numbers = [found.cost, found.bound, found.gap]
    return [problem.nodes, problem.devices, label, objective, *numbers, seconds, *rivals, found.method]


def main() -> None:
    options = parse_args(
        __doc__,
        ("--cases", {"type": int, "default": 3000, "help": "random graphs for brute force (default: 3000)"}),
        ("--seed", {"type": int, "default": 0}),
        ("--time-limit", {"type": float, "default": 20.0, "help": "seconds for each larger graph"}),
        ("--only", {"choices": ["optimal", "gap", "large"]}),
    )
    results: dict[str, Any] = {}
    if options.only in (None, "optimal"):
        results["optimal"] = optimal(60 if options.quick else options.cases, options.seed)
        counts = results["optimal"]
        print(
            f"brute force: {counts['checked']} checked, {len(counts['wrong'])} wrong, "
            f"{counts['impossible']} without any split, {counts['unproven']} not proven"
        )
        for line in counts["wrong"]:
            print(line)
    columns = ["nodes", "devices", "limits", "objective", "cost", "bound", "gap", "seconds"]
    columns += ["HEFT", "single device", "method"]
    if options.only in (None, "gap"):
        rows = []
        for nodes in (200,) if options.quick else (200, 500, 1000, 2000):
            for devices in (2, 3):
                problem = large_problem(nodes + devices, nodes, devices)
                for objective in OBJECTIVES:
                    rows.append(gap_row(problem, objective, options.time_limit, "memory"))
                    if objective == "latency":
                        rows.append(gap_row(without_limits(problem), objective, options.time_limit, "none"))
        print_table("Gap", columns, rows)
        results["gap"] = rows
    if options.only in (None, "large"):
        nodes = 1000 if options.quick else 10_000
        rows = [
            gap_row(problem, objective, options.time_limit, "memory")
            for devices in (2, 3)
            for problem in [large_problem(nodes + devices, nodes, devices)]
            for objective in OBJECTIVES
        ]
        print_table("Large", columns, rows)
        results["large"] = rows
    write_json(options.json, "partition_optimal", results)


if __name__ == "__main__":
    main()
