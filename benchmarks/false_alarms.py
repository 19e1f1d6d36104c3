"""False alarms of numeric validation: none, over the real models, with default tolerances, for many random inputs.

Each model of the zoo is captured once, with its dynamic dims, and goes through the default pipeline. For each seed,
fresh inputs are drawn, and every step of the pipeline is validated on them as the pass manager does it: outputs in the
working precision and, at a second size, in float64, and each rewritten region inside. The passes of the pipeline are
right (their tests hold them to other oracles), so whatever validation complains of is a false alarm. An excuse is a
difference that was found to be one of rounding, by runs with random rounding errors; it costs runs, and is no alarm.

`--part 1/4` takes every fourth model, so that several processes share the work; large models get a tenth of the seeds.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import graphopt
from common import parse_args, print_table, write_json
from graphopt.calling import CallingConvention
from graphopt.ir import Graph
from graphopt.passmanager import Alignment, PassManager, Provenance
from graphopt.passmanager.guard import new_inexact_constants
from graphopt.passmanager.regions import claims
from graphopt.passmanager.validation import Mismatch, Validator
from graphopt.pipelines import default_pipeline
from graphopt.rewrite import Contract
from tests.zoo import MODELS, ZooModel


@dataclass(frozen=True)
class Step:
    """A pass that changed the graph: its alignment, what it promised, and whether it rounded constants."""

    alignment: Alignment
    promise: Contract
    rounded: bool


@dataclass
class Row:
    """One model: seeds tried, steps of its pipeline, rewritten regions in them, and what validation said.

    runs, least: model runs over all seeds, and how many (steps + 1)·(sample sets) are. seconds: of a seed.
    """

    name: str
    seeds: int
    steps: int
    regions: int
    alarms: list[str] = field(default_factory=list)
    excuses: int = 0
    runs: int = 0
    least: int = 0
    seconds: float = 0.0


def capture(entry: ZooModel) -> Graph:
    """The graph of a model, with its dynamic dims where it has some."""
    args, kwargs = entry.inputs()
    shapes = entry.dynamic_shapes() if entry.dynamic is not None else None
    return graphopt.trace(entry.build(), args, kwargs, dynamic_shapes=shapes)


def optimize(graph: Graph, target: str) -> list[Step]:
    """The steps of the default pipeline."""
    history = Provenance()
    manager = PassManager(default_pipeline(target), validate=False, on_failure="raise", instruments=[history])
    report = manager.run(graph).report
    promises = {contract.label: contract for contract in Contract}
    return [
        Step(step, promises[record.promise], new_inexact_constants(step.before, step.after))
        for step, record in zip(history.steps, report.kept)
    ]


def validate(graph: Graph, steps: Sequence[Step], sample: Sequence[Any], row: Row, seed: int) -> None:
    """Validate every step on a sample; note alarms."""
    validator = Validator(graph, [sample], regions=True)
    for step in steps:
        try:
            outputs = validator.check(step.alignment.after, step.promise, rounded=step.rounded, step=step.alignment)
        except Mismatch as error:
            name = step.alignment.pass_.name if step.alignment.pass_ is not None else ""
            row.alarms.append(f"seed {seed}, {name}: {error}")
            break
        row.excuses += len(outputs.excuses)
        validator.accept(outputs, lossy=False)
    row.runs += validator.runs
    row.least += (len(steps) + 1) * validator.num_sets if steps else 0


def measure(entry: ZooModel, seeds: int, target: str) -> Row:
    """All seeds of one model."""
    graph = capture(entry)
    steps = optimize(graph, target)
    regions = sum(1 for step in steps for _ in claims(step.alignment))
    row = Row(entry.name, seeds, len(steps), regions)
    convention = CallingConvention(graph)
    start = time.perf_counter()
    for seed in range(1, seeds + 1) if steps else ():
        args, kwargs = entry.inputs(seed=seed)
        validate(graph, steps, convention.flatten(args, kwargs), row, seed)
    row.seconds = (time.perf_counter() - start) / seeds
    return row


def main() -> None:
    options = parse_args(
        __doc__,
        ("--seeds", {"type": int, "default": 100, "help": "random inputs of a model (default: 100)"}),
        ("--only", {"nargs": "*", "default": [], "help": "names of models"}),
        ("--part", {"default": "1/1", "help": "take the models of one part of several, such as 1/4"}),
        ("--target", {"default": "cpu", "help": "the target whose default pipeline runs"}),
    )
    part, parts = map(int, options.part.split("/"))
    names = (options.only or list(MODELS))[part - 1 :: parts]
    seeds = 2 if options.quick else options.seeds
    rows = []
    for name in names:
        entry = MODELS[name]
        row = measure(entry, max(seeds // 10, 1) if "large" in entry.tags else seeds, options.target)
        rows.append(row)
        print(f"{name}: {len(row.alarms)} alarms in {row.seeds} seeds, {row.excuses} excuses", flush=True)
        for alarm in row.alarms[:3]:
            print(f"  {alarm}", flush=True)
    columns = ["model", "seeds", "steps", "regions", "alarms", "excuses", "runs / least", "ms a seed"]
    table = [
        [r.name, r.seeds, r.steps, r.regions, len(r.alarms), r.excuses, r.runs / max(r.least, 1), 1e3 * r.seconds]
        for r in rows
    ]
    print_table("False alarms of validation", columns, table)
    alarms, tried = sum(len(r.alarms) for r in rows), sum(r.seeds for r in rows)
    print(f"{alarms} false alarms in {tried} validated runs of {len(rows)} models")
    write_json(options.json, "false_alarms", rows)


if __name__ == "__main__":
    main()
