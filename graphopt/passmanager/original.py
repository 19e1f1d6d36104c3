"""The original graph on the samples: what every later graph is held against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from graphopt.errors import GraphOptError, ValidationError
from graphopt.ir import Graph
from graphopt.passmanager.bounds import UNREFEREED_ULPS
from graphopt.passmanager.compare import exact_difference, pairs
from graphopt.passmanager.runner import Baseline, Runner
from graphopt.passmanager.samples import variations
from graphopt.passmanager.sketches import Sketches


class Original:
    """The original graph's outputs on each sample set, and on a second set in float64. Made by running it.

    baseline: its outputs in the working precision. skip: outputs that cannot be validated, since they are random.
    second, sizes, second_outputs: the second set, its sizes, and the outputs in float64; None if none works.
    sketches: of the values of that run, if `sketched` asks for them and the graph draws no random numbers.

    Raises:
        ValidationError: the graph does not run on the samples.
    """

    def __init__(self, graph: Graph, sets: Sequence[Sequence[Any]], runner: Runner, *, sketched: bool = False) -> None:
        self.sets = sets
        self.runner = runner
        self.notes: list[str] = []
        try:
            self.baseline = Baseline(graph, [runner.work(graph, s) for s in sets])
        except GraphOptError as error:
            raise ValidationError(f"the original graph does not run on the sample inputs: {error}") from error
        self.skip = self._random_outputs()
        self.second: list[Any] | None = None
        self.sizes: dict[str, int] = {}
        self.second_outputs: list[Any] | None = None
        self.sketches = Sketches() if sketched and not runner.draws else None
        self._choose_second()

    def reference(self, baseline: Baseline, index: int, *, if_known: bool = False) -> list[Any] | None:
        """The outputs of a baseline on a set in float64, made at the first question; None if it cannot run so, or if it
        has not run so yet and `if_known` asks for nothing more."""
        if if_known and len(baseline.reference) <= index:
            return None
        while len(baseline.reference) <= index:
            try:
                baseline.reference.append(self.runner.wide(baseline.graph, self.sets[len(baseline.reference)]))
            except GraphOptError as error:
                baseline.reference.append(None)
                bound = f"the bound is {UNREFEREED_ULPS:g} ulp"
                self.notes.append(f"the graph does not run in float64, so {bound}: {error}")
        return baseline.reference[index]

    def _random_outputs(self) -> frozenset[int]:
        """The outputs that depend on the state of the random generator."""
        runner, graph = self.runner, self.baseline.graph
        if not runner.random or not self.sets:
            return frozenset()
        runner.seed += 1
        again = runner.work(graph, self.sets[0])
        runner.seed -= 1
        found = [i for i, a, b in pairs(self.baseline.work[0], again) if exact_difference(a, b, bitwise=True)]
        runner.random = bool(found)
        if found:
            self.notes.append(f"outputs {found} depend on random numbers and are not validated")
        return frozenset(found)

    def _choose_second(self) -> None:
        """Take the first variation of the samples that the graph runs on."""
        if not self.sets:
            return
        graph, refused = self.baseline.graph, list[str]()
        for made, sizes in _second_sets(graph, self.sets[0]):
            try:
                self.second_outputs = self.runner.wide(graph, made, self.sketches)
            except GraphOptError as error:
                refused.append(str(error))
                if self.sketches is not None:
                    self.sketches.clear()
                continue
            self.second, self.sizes = made, sizes
            break
        if refused:
            tried = "no second sample set works" if self.second is None else "some sizes were not possible"
            self.notes.append(f"{tried}: {refused[0]}")


def _second_sets(graph: Graph, sample: Sequence[Any]) -> Iterator[tuple[list[Any], dict[str, int]]]:
    """The variations of a sample, or the sample itself if it has none."""
    found = False
    for variation in variations(graph, sample):
        found = True
        yield variation
    if not found:
        yield list(sample), {}
