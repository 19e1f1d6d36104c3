"""What numeric validation costs: model runs, and time over the plain runs of the interpreter.

For k passes that changed the graph and s sample sets (a second size included), the bar is 1.2·(k + 1)·s model runs.
The time is compared with the same runs of the same graphs, in the same precisions, in an interpreter that keeps
nothing: what is above that are comparisons, sketches of the values inside, checks of the rewritten regions, and the run
of the original in float64 where two graphs differ by more than a few ulp. The bar is 20 %.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from false_alarms import Row, Step, capture, optimize, validate

from common import parse_args, print_table, write_json
from graphopt.calling import CallingConvention
from graphopt.ir import Graph
from graphopt.ir.memory import collection_paused
from graphopt.passmanager.runner import Runner
from graphopt.passmanager.validation import Validator
from tests.zoo import MODELS

MODELS_OF_THE_TABLE = (
    "lenet", "resnet8", "unet", "densenet", "resnet18", "hf-mobilenet-v2", "hf-convnext", "hf-vit", "hf-swin",
    "hf-bert", "hf-gpt2", "hf-llama", "hf-t5", "hf-whisper", "transformer-encoder",
)  # fmt: skip
BAR = 1.2


@dataclass
class Cost:
    """One model: k, s, runs, what (k + 1)·s is, and processor seconds of validation and the plain runs (least)."""

    name: str
    changed: int
    sets: int
    runs: int
    least: int
    validated: float
    plain: float

    @property
    def overhead(self) -> float:
        """Time of validation over that of the plain runs, minus 1."""
        return self.validated / self.plain - 1

    @property
    def holds(self) -> bool:
        """True if both bars hold."""
        return self.runs <= BAR * self.least and self.validated <= BAR * self.plain


def plain(graphs: Sequence[Graph], sample: Sequence[Any], second: Sequence[Any]) -> None:
    """The runs that validation cannot do without."""
    runner = Runner(graphs[0])
    for graph in graphs:
        runner.work(graph, sample)
        runner.wide(graph, second)


def seconds(call: Any) -> float:
    """Processor seconds of one call, which a busy machine does not change much."""
    start = time.process_time()
    call()
    return time.process_time() - start


def measure(name: str, rounds: int) -> Cost:
    """Validation and the plain runs of one model, in turn."""
    entry = MODELS[name]
    graph = capture(entry)
    steps: list[Step] = optimize(graph, "cpu")
    args, kwargs = entry.inputs(seed=1)
    sample = CallingConvention(graph).flatten(args, kwargs)
    probe = Validator(graph, [sample])
    second = probe.original.second
    assert second is not None
    graphs = [graph, *(step.alignment.after for step in steps)]
    taken: tuple[list[float], list[float]] = ([], [])
    row = Row(name, 1, len(steps), 0)
    for index in range(rounds + 1):
        row = Row(name, 1, len(steps), 0)
        calls = (lambda: validate(graph, steps, sample, row, 1), lambda: plain(graphs, sample, second))  # noqa: B023
        order = (0, 1) if index % 2 else (1, 0)
        for number in order:
            with collection_paused():  # as in the pass manager
                spent = seconds(calls[number])
            if index:  # the first round is the warm-up
                taken[number].append(spent)
    assert not row.alarms, row.alarms
    validated, bare = (min(times) for times in taken)
    return Cost(name, len(steps), probe.num_sets, row.runs, row.least, validated, bare)


def main() -> None:
    options = parse_args(__doc__, ("--only", {"nargs": "*", "default": [], "help": "names of models"}))
    names = options.only or (MODELS_OF_THE_TABLE[:2] if options.quick else MODELS_OF_THE_TABLE)
    rows = [measure(name, 2 if options.quick else max(options.rounds, 5)) for name in names]
    columns = ["model", "k", "s", "runs", "(k + 1)·s", "plain ms", "validated ms", "overhead %", "holds"]
    table = [
        [r.name, r.changed, r.sets, r.runs, r.least, 1e3 * r.plain, 1e3 * r.validated, 100 * r.overhead, r.holds]
        for r in rows
    ]
    print_table("Cost of numeric validation", columns, table)
    print(f"{sum(r.holds for r in rows)} of {len(rows)} models hold")
    write_json(options.json, "validation_cost", rows)


if __name__ == "__main__":
    main()
